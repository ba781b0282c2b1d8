"""Who may connect to the API on TCP: Envoy, by its certificate. Operators come through it; nobody else has a reason to.

Every process of the deployment has a certificate of the same authority; without this an authorizer, or whoever got hold of
its key, could talk to the API past Envoy's limits. On a Unix socket the directory (mode 0700) says who may connect.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from controlplane.registry.refusal import NotPermittedError
from extauthz.transport import peer_identity_of_certificate, role_of

PEER_ROLE = "envoy"


def only_envoy() -> Middleware:
    """Refuses requests on connections whose client certificate is not Envoy's, before anything of them is read."""

    @web.middleware
    async def check_peer(request: web.Request, handler: Handler) -> web.StreamResponse:
        certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
        role = role_of(peer_identity_of_certificate(certificate))
        if role != PEER_ROLE:
            raise NotPermittedError(f"the client certificate is that of {role or 'nobody we know'}; only {PEER_ROLE} may connect here")
        return await handler(request)

    return check_peer

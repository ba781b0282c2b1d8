"""The HTTP side: Envoy's lane `aggregate`, and whether this process can answer it.

Whoever reaches this address was let in by an authorizer: over a Unix socket its directory says who may connect, over TCP the role in
the client's certificate, which must be Envoy's.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from aggregator.endpoint import Endpoint
from aggregator.subscription import Subscription
from extauthz.errors import AuthenticationError
from extauthz.transport import peer_identity_of_certificate, role_of

MAX_BODY_BYTES = 4 * 1024 * 1024
"""As Envoy buffers at most; each server's own limit was heeded by the authorizer."""
PEER_ROLE = "envoy"


def make_application(*, subscription: Subscription, endpoint: Endpoint) -> web.Application:
    """Everything that is served."""

    async def healthy(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_request: web.Request) -> web.Response:
        state = subscription.current()
        if state is None:
            return web.json_response({"status": "not ready", "reasons": ["no registry has arrived yet"]}, status=503)
        return web.json_response({"status": "ready", "revision": state.revision})

    application = web.Application(middlewares=[only_envoy], client_max_size=MAX_BODY_BYTES)
    application.router.add_get("/healthz", healthy, allow_head=False)
    application.router.add_get("/readyz", ready, allow_head=False)
    application.router.add_route("*", "/{path:.*}", endpoint.handle)

    async def end_streams(_application: web.Application) -> None:
        endpoint.listening.stopping.set()

    application.on_shutdown.append(end_streams)
    return application


@web.middleware
async def only_envoy(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses connections over TLS whose client certificate is not Envoy's, before anything of the request is read."""
    transport = request.transport
    if transport is not None and transport.get_extra_info("sslcontext") is not None:
        try:
            role = role_of(peer_identity_of_certificate(transport.get_extra_info("peercert")))
        except AuthenticationError:
            role = ""
        if role != PEER_ROLE:
            raise web.HTTPForbidden(text="only Envoy may connect here")
    return await handler(request)

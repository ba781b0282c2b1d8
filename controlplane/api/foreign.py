"""Which names the API answers to, and for pages of which web origins: those of the gateway (`extauthz.door`), by the same rules.

Without this a page whose name is made to lead here (DNS rebinding) could talk to the API from an operator's browser. Health is
not asked: load balancers name hosts as they like, and learn nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from controlplane.api.base_url import GATEWAY_HEADER, remember_base_url
from controlplane.api.problems import ApiError, ProblemCode
from extauthz.catalog.gateway import GatewayNames
from extauthz.door import Door
from extauthz.errors import Reason

_ANY_HOST = frozenset({"/healthz", "/readyz"})


def only_our_names(door: Door, gateways: Callable[[], tuple[GatewayNames, ...]] = tuple) -> Middleware:
    """Refuses requests for other hosts (421) and from other web origins (403), before anything else of them is looked at.

    `gateways`: those of the newest state, each of which answers to its own names.
    """

    @web.middleware
    async def check_names(request: web.Request, handler: Handler) -> web.StreamResponse:
        now, gateway = door.at(gateways()), request.headers.get(GATEWAY_HEADER, "")
        host, origins = ",".join(request.headers.getall("Host", [""])), request.headers.getall("Origin", ())
        refused = None if request.path in _ANY_HOST else now.refuse_foreign(host, origins, gateway)
        if refused is Reason.HOST_REFUSED:
            raise ApiError(421, ProblemCode.HOST_REFUSED, "Misdirected request", "this gateway does not serve the host name of the request")
        if refused is not None:
            raise ApiError(403, ProblemCode.ORIGIN_REFUSED, "Forbidden", "requests from this web origin are not allowed")
        remember_base_url(request, now)
        return await handler(request)

    return check_names

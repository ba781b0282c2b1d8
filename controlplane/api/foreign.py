"""Which names the API answers to, and for pages of which web origins: those of the gateway (`extauthz.door`), by the same rules.

Without this a page whose name is made to lead here (DNS rebinding) could talk to the API from an operator's browser. Health is
not asked: load balancers name hosts as they like, and learn nothing.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from controlplane.api.problems import ApiError, ProblemCode
from extauthz.door import Door
from extauthz.errors import Reason

_ANY_HOST = frozenset({"/healthz", "/readyz"})


def only_our_names(door: Door) -> Middleware:
    """Refuses requests for other hosts (421) and from other web origins (403), before anything else of them is looked at."""

    @web.middleware
    async def check_names(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [""])
        refused = None if request.path in _ANY_HOST else door.refuse_foreign(",".join(hosts), request.headers.getall("Origin", ()))
        if refused is Reason.HOST_REFUSED:
            raise ApiError(421, ProblemCode.HOST_REFUSED, "Misdirected request", "this gateway does not serve the host name of the request")
        if refused is not None:
            raise ApiError(403, ProblemCode.ORIGIN_REFUSED, "Forbidden", "requests from this web origin are not allowed")
        return await handler(request)

    return check_names

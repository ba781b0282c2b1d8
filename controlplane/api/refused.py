"""Tells the record what the API refused: everybody who is not let in, and what operators may not do."""

from __future__ import annotations

from aiohttp import web

from controlplane.audit.refusals import ApiRefusals
from extauthz.identity.principal import Principal

REFUSALS = web.AppKey("refusals", ApiRefusals)
"""Where refusals are told; an application without it tells nobody."""

_OPERATOR = web.RequestKey("operator", Principal)
_REFUSED = frozenset({401, 403, 421})


def remember_operator(request: web.Request, principal: Principal) -> None:
    """Who asks, as soon as it is known."""
    request[_OPERATOR] = principal


def tell_refused(request: web.Request, *, status: int, code: str, detail: str) -> None:
    """A problem that a request was answered with; those that are no refusal of somebody are not told."""
    refusals = request.app.get(REFUSALS)
    if refusals is not None and status in _REFUSED:
        refusals.note(
            principal=request.get(_OPERATOR),
            reason=code,
            sentence=detail,
            status=status,
            method=request.method,
            path=request.path,
            namespace=request.match_info.get("namespace", ""),
            user_agent=request.headers.get("User-Agent", ""),
        )

"""A time in a query: RFC 3339 with its zone, or so long ago."""

from __future__ import annotations

import re
from datetime import datetime

from aiohttp import web

from controlplane.api.problems import bad_request
from controlplane.api.routes import query_text

_AGO = re.compile(r"([0-9]{1,5})([dhm])", re.ASCII)
_SECONDS = {"d": 86_400, "h": 3600, "m": 60}
_YEARS = range(1970, 2200)


def query_moment(request: web.Request, name: str, *, now_unix: float) -> int | None:
    """Microseconds since 1970, at least 1; None where the parameter is not given. `7d`, `12h`, `30m` are before `now_unix`."""
    text = query_text(request, name)
    if not text:
        return None
    if ago := _AGO.fullmatch(text):
        return max(1, int((now_unix - int(ago[1]) * _SECONDS[ago[2]]) * 1_000_000))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or moment.year not in _YEARS:
        raise bad_request(f"?{name} must be a time with its zone such as 2026-11-01T00:00:00Z, or 7d, 12h, 30m")
    return max(1, round(moment.timestamp() * 1_000_000))

"""By which URL the gateway was called: tokens, challenges and metadata of the API are for the URL that the caller used."""

from __future__ import annotations

from aiohttp import web

from extauthz.door import Door

GATEWAY_HEADER = "x-legation-gateway"
"""The Gateway by whose listener Envoy took the request; absent for `default`. Nobody but Envoy can set it."""
API_PATH = "/v1"
_BASE_URL = web.RequestKey("base_url", str)


def remember_base_url(request: web.Request, door: Door) -> None:
    """Note what the request's Host means at the listener that it came by."""
    request[_BASE_URL] = door.base_url(request.headers.get("Host", ""), request.headers.get(GATEWAY_HEADER, ""))


def resource_url_of(request: web.Request, configured: str) -> str:
    """The API as the caller named it (`<base URL>/v1`); `configured` where nobody looked at the Host."""
    base_url = request.get(_BASE_URL)
    return f"{base_url}{API_PATH}" if base_url is not None else configured

"""What a route is, and how a table of them becomes an application. Each noun of the API has a file with its own routes.

request ─▶ authenticated operator ─▶ handler ─▶ answer; whatever is raised on the way ─▶ `problems`
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from controlplane.api.auth import OperatorAuthentication
from controlplane.api.problems import RESOURCE_URL, ApiError, ProblemCode, answer_problems, bad_request
from controlplane.api.refused import remember_operator
from controlplane.registry.manifest import MAX_BYTES, read_json
from controlplane.registry.permissions import Operator
from controlplane.registry.plain_value import fault_of_text

Handler = Callable[[web.Request, Operator], Awaitable[web.StreamResponse]]
PublicHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON_TYPES = frozenset({"application/json"})
MANIFEST_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "application/json"})

_NAME = "[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. `path` has `{name}` parameters; `permission` says for people what it takes."""

    method: str
    path: str
    operation_id: str
    summary: str
    answer: str  # name of a schema in `api.openapi`
    handler: Handler | None = None
    public_handler: PublicHandler | None = None
    body: str = ""  # name of a schema; "Manifest" is YAML or JSON
    query: Mapping[str, str] = field(default_factory=dict)  # name -> description
    permission: str = ""
    statuses: Sequence[int] = ()
    success: int = 200


def make_application(routes: Sequence[Route], authentication: OperatorAuthentication) -> web.Application:
    """The application that serves these routes and nothing else."""
    application = web.Application(middlewares=[answer_problems], client_max_size=MAX_BYTES)
    application[RESOURCE_URL] = authentication.resource_url
    application.on_response_prepare.append(_harden)
    for route in routes:
        application.router.add_route(route.method, _pattern(route.path), _served(route, authentication))
    return application


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """JSON, as compact as it gets."""
    return web.Response(status=status, body=json_bytes(value), content_type="application/json", headers=headers)


def items_response(items: Sequence[object], rest: Mapping[str, object]) -> web.Response:
    """A list and what stands beside it. Encoded item by item, for threads: one encoding of all would hold the interpreter."""
    parts = b",".join([json_bytes(item) for item in items])
    return web.Response(body=b'{"items":[' + parts + b"]," + json_bytes(rest)[1:], content_type="application/json")


def json_bytes(value: object) -> bytes:
    """Never fails on text: what a server announced, or a damaged row, may hold half of a surrogate pair; that one is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), default=str).encode()


async def read_body(request: web.Request, content_types: frozenset[str]) -> bytes:
    """The body of a request, of one of these types, bounded and not compressed."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(415, ProblemCode.CONTENT_TYPE_REFUSED, "Unsupported media type", "send the body without Content-Encoding")
    if request.content_type not in content_types:
        wanted = " or ".join(sorted(content_types))
        raise ApiError(415, ProblemCode.CONTENT_TYPE_REFUSED, "Unsupported media type", f"send Content-Type: {wanted}")
    return await request.read()


async def read_object(request: web.Request, known: Sequence[str], *, optional: bool = False) -> dict[str, Any]:
    """The JSON object of a request's body, with no other members than these."""
    if optional and not request.can_read_body:
        return {}
    value = parse_json(await read_body(request, JSON_TYPES))
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object")
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise bad_request(f"the body has an unknown member {unknown[0]!r}; known are {', '.join(known)}")
    return value


def parse_json(body: bytes) -> object:
    """The JSON value of a body."""
    try:
        return read_json(body)
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}") from error


def query_flag(request: web.Request, name: str) -> bool:
    """`?name=true` or `?name=false`; absent is false."""
    text = _single(request, name)
    if text not in ("", "true", "false"):
        raise bad_request(f"?{name} must be true or false")
    return text == "true"


def query_number(request: web.Request, name: str, *, default: float, low: float, high: float) -> float:
    """A number within bounds."""
    text = _single(request, name)
    try:
        value = float(text) if text else default
    except ValueError as error:
        raise bad_request(f"?{name} must be a number") from error
    if not low <= value <= high:
        raise bad_request(f"?{name} must be between {low:g} and {high:g}")
    return value


def query_text(request: web.Request, name: str) -> str:
    """A text; absent is empty."""
    text = _single(request, name)
    if len(text) > 4000:
        raise bad_request(f"?{name} is too long")
    if fault := fault_of_text(text):
        raise bad_request(f"?{name} {fault}")
    return text


def refuse_unknown_query(request: web.Request, known: Mapping[str, str]) -> None:
    """A misspelt parameter must not pass silently: `?dry-run=true` would not be a dry run."""
    unknown = sorted(set(request.query) - set(known))
    if unknown:
        raise bad_request(f"there is no parameter ?{unknown[0]}; known are {', '.join(sorted(known)) or 'none'}")


def _single(request: web.Request, name: str) -> str:
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise bad_request(f"?{name} is given twice")
    return values[0] if values else ""


def _served(route: Route, authentication: OperatorAuthentication) -> PublicHandler:
    public_handler, handler = route.public_handler, route.handler
    if public_handler is not None:
        return public_handler
    if handler is None:
        raise ValueError(f"the route {route.operation_id} has no handler")

    async def serve(request: web.Request) -> web.StreamResponse:
        operator = await authentication.authenticate(request)
        remember_operator(request, operator.principal)
        refuse_unknown_query(request, route.query)
        return await handler(request, operator)

    return serve


def _pattern(path: str) -> str:
    for name in ("namespace", "name"):
        path = path.replace("{" + name + "}", "{" + name + ":" + _NAME + "}")
    return path.replace("{revision}", "{revision:[0-9]{1,15}}")


async def _harden(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.pop("Server", None)

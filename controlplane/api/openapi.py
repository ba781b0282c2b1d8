"""The OpenAPI 3.1 document: made from the route table and the pydantic shapes, so that it cannot say anything else than they do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic.json_schema import models_json_schema

from controlplane.api.routes import JSON_TYPES, MANIFEST_TYPES, Route, json_response
from controlplane.api.schemas import SHAPES
from controlplane.registry.spec import API_VERSION, SPEC_OF_KIND, Kind

_REF = "#/components/schemas/"
_PARAMETER = re.compile(r"{(\w+)}")
_PROBLEM = {"application/problem+json": {"schema": {"$ref": f"{_REF}Problem"}}}


class OpenApiRoutes:
    """Serves the document of all routes, its own included."""

    def __init__(self) -> None:
        self._document: dict[str, Any] | None = None

    def routes(self) -> list[Route]:
        """One document, for everybody."""
        return [
            Route(
                method="GET",
                path="/v1/openapi.json",
                operation_id="readOpenApi",
                summary="This document",
                public_handler=self._serve,
                answer="object",
            )
        ]

    def describe(self, routes: Sequence[Route], *, version: str) -> None:
        """Make the document; once, when all routes are known."""
        self._document = make_openapi(routes, version=version)

    async def _serve(self, _request: web.Request) -> web.Response:
        return json_response(self._document)


def make_openapi(routes: Sequence[Route], *, version: str) -> dict[str, Any]:
    """The document that describes these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Legation", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"accessToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": route.operation_id, "summary": route.summary}
    if route.permission:
        operation["description"] = f"Permission: {route.permission}."
    operation["security"] = [] if route.public_handler is not None else [{"accessToken": []}]
    operation["parameters"] = _parameters(route)
    if route.body:
        operation["requestBody"] = {"required": route.body != "AcceptRequest", "content": _body(route)}
    operation["responses"] = _responses(route)
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    name_schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
    found = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "integer"} if name == "revision" else name_schema}
        for name in _PARAMETER.findall(route.path)
    ]
    found += [
        {"name": n, "in": "query", "required": False, "description": text, "schema": {"type": "string"}} for n, text in route.query.items()
    ]
    if 412 in route.statuses:
        tag = {"type": "string", "description": 'an entity tag such as "42", or *'}
        found.append(
            {"name": "If-Match", "in": "header", "required": False, "description": "required when the entry exists", "schema": tag}
        )
        found.append({"name": "If-None-Match", "in": "header", "required": False, "description": "* to create only", "schema": tag})
    return found


def _body(route: Route) -> dict[str, Any]:
    if route.body == "Manifest":
        return {media_type: {"schema": {"$ref": f"{_REF}Manifest"}} for media_type in sorted(MANIFEST_TYPES)}
    return {media_type: {"schema": {"$ref": f"{_REF}{route.body}"}} for media_type in sorted(JSON_TYPES)}


def _responses(route: Route) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"} if route.answer == "object" else {"$ref": f"{_REF}{route.answer}"}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if route.operation_id == "readAudit":
        content["application/x-ndjson"] = {"schema": {"type": "string"}}
    if route.answer == "tar":
        content = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}
    responses: dict[str, Any] = {str(route.success): {"description": HTTPStatus(route.success).phrase, "content": content}}
    if route.method == "PUT":
        responses["201"] = {"description": "Created", "content": content}
    for status in route.statuses:
        problem = content if route.operation_id == "readReadiness" else _PROBLEM
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": problem}
    responses["default"] = {"description": "A failure", "content": _PROBLEM}
    return responses


def _schemas() -> dict[str, Any]:
    _, definitions = models_json_schema([(shape, "validation") for shape in SHAPES], by_alias=True, ref_template=f"{_REF}{{model}}")
    schemas: dict[str, Any] = dict(definitions["$defs"])
    for kind in Kind:
        schemas[kind.value] = _document_schema(kind)
        items = {"type": "array", "items": {"$ref": f"{_REF}{kind.value}"}}
        schemas[f"{kind.value}List"] = {
            "type": "object",
            "required": ["items", "revision"],
            "properties": {"items": items, "revision": {"type": "integer"}},
        }
    schemas["Manifest"] = {
        "description": "Documents of any kind: several YAML documents, or a JSON document or array of documents",
        "oneOf": [{"$ref": f"{_REF}{kind.value}"} for kind in Kind],
    }
    return dict(sorted(schemas.items()))


def _document_schema(kind: Kind) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind.value},
            "metadata": {"$ref": f"{_REF}EntryMetadata"},
            "spec": {"$ref": f"{_REF}{SPEC_OF_KIND[kind].__name__}"},
            "status": {"type": "object", "readOnly": True},
        },
    }

"""Errors of the HTTP API, in one place: everything that is raised becomes a problem document (RFC 9457) here.

Codes are stable and documented (docs/errors.md). A failure of ours says nothing but its code; the log has the rest.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

import structlog
from aiohttp import web

from controlplane.api.base_url import resource_url_of
from controlplane.api.refused import tell_refused
from controlplane.registry.manifest import DocumentError
from controlplane.registry.refusal import RegistryRefusal
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.challenge import protected_resource_metadata_url

_log = structlog.get_logger(__name__)

RESOURCE_URL = web.AppKey("resource_url", str)
"""Where a 401 sends a client that wants an access token (RFC 9728 section 5.1)."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ProblemCode(StrEnum):
    """What a problem's `code` can be, beside those of `registry.refusal` and the reasons of an authentication failure."""

    BAD_REQUEST = "bad_request"
    BODY_TOO_LARGE = "body_too_large"
    CONTENT_TYPE_REFUSED = "content_type_refused"
    HOST_REFUSED = "host_refused"
    INTERNAL_ERROR = "internal_error"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_FOUND = "not_found"
    NOT_PROVABLE = "not_provable"
    NOT_READY = "not_ready"
    ORIGIN_REFUSED = "origin_refused"
    TOO_MANY_REQUESTS = "too_many_requests"


class ApiError(Exception):
    """A request that the API itself refuses, before the registry is asked."""

    def __init__(self, status: int, code: ProblemCode, title: str, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.headers = headers


def bad_request(detail: str) -> ApiError:
    """A query or body that cannot be read."""
    return ApiError(400, ProblemCode.BAD_REQUEST, "The request cannot be read", detail)


def problem_response(
    status: int, *, code: str, title: str, detail: str, errors: Sequence[DocumentError] = (), headers: dict[str, str] | None = None
) -> web.Response:
    """A problem document."""
    body: dict[str, object] = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    if errors:
        body["errors"] = [{"document": error.document, "path": error.path, "message": error.message} for error in errors]
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/problem+json", headers=headers)


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into an answer. Refusals are told to the record."""
    try:
        return await handler(request)
    except RegistryRefusal as refusal:
        tell_refused(request, status=refusal.status, code=refusal.code, detail=refusal.sentence)
        return problem_response(refusal.status, code=refusal.code, title=refusal.title, detail=refusal.sentence, errors=refusal.errors)
    except AuthenticationError as error:
        if error.reason is not Reason.ISSUER_UNAVAILABLE:  # a failure, not a refusal
            tell_refused(request, status=401, code=error.reason.value, detail=error.sentence)
        return _unauthenticated(error, protected_resource_metadata_url(resource_url_of(request, request.app[RESOURCE_URL])))
    except ApiError as error:
        tell_refused(request, status=error.status, code=error.code.value, detail=error.detail)
        return problem_response(error.status, code=error.code, title=error.title, detail=error.detail, headers=error.headers)
    except web.HTTPException as error:
        return _of_http_exception(error)
    except Exception as error:  # noqa: BLE001 - the one place where failures become answers
        _log.exception("an API request failed", method=request.method, path=request.path, error=type(error).__name__)
        detail = "The control plane failed; its log says why. Nothing was changed unless a revision says so."
        return problem_response(500, code=ProblemCode.INTERNAL_ERROR, title="Internal error", detail=detail)


def _unauthenticated(error: AuthenticationError, metadata_url: str) -> web.Response:
    if error.reason is Reason.ISSUER_UNAVAILABLE:
        return problem_response(503, code=error.reason, title="Not available", detail=error.sentence, headers={"Retry-After": "1"})
    challenge = 'Bearer realm="legation"'
    if error.reason is not Reason.ACCESS_TOKEN_MISSING:
        challenge += ', error="invalid_token"'
    challenge += f', resource_metadata="{metadata_url}"'
    return problem_response(
        401, code=error.reason, title="Not authenticated", detail=error.sentence, headers={"WWW-Authenticate": challenge}
    )


def _of_http_exception(error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        detail = "the request body is larger than 4 MiB; apply the documents in parts"
        return problem_response(413, code=ProblemCode.BODY_TOO_LARGE, title="Too large", detail=detail)
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"this path answers {allowed}"
        return problem_response(
            405, code=ProblemCode.METHOD_NOT_ALLOWED, title="Method not allowed", detail=detail, headers={"Allow": allowed}
        )
    if error.status == 404:
        return problem_response(
            404, code=ProblemCode.NOT_FOUND, title="Not found", detail="there is nothing at this path; see /v1/openapi.json"
        )
    return problem_response(error.status, code=ProblemCode.BAD_REQUEST, title=error.reason, detail=error.reason)

"""The adapter between Envoy's ext_proc messages and `session`: the answer to `initialize` gets a sealed session id.

Envoy asks on the lane `inspect` only, sends two headers of the answer (`:status`, `mcp-session-id`) and what the decision about
the request left in dynamic metadata, and takes one header back: `x-legation-session`. The lane removes `mcp-session-id` from
every answer and puts that header in its place, so an id that was not sealed never passes, whatever happens here. A session that
cannot be sealed ends the stream with an error, which Envoy answers with 503.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog

from extauthz import transport
from extauthz.errors import Reason, SessionError
from extauthz.session import BINDING_KEY, SEALED_HEADER, SESSION_HEADER, binding_from_text, seal_session
from extauthz.state import AuthorizationState
from extauthz.wire import process_pb2

logger = structlog.get_logger(__name__)

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_DECISION_METADATA = "envoy.filters.http.ext_authz"
_OVERWRITE = 2  # HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


class StateReader(Protocol):
    """Where the current keys are read."""

    def current(self) -> AuthorizationState | None:
        """The state of the newest revision, None before the first."""


def process_service(state: StateReader, *, require_envoy: bool = False, clock: Callable[[], float] = time.time) -> grpc.GenericRpcHandler:
    """Envoy's ExternalProcessor service under its real name; over TLS only a node of kind envoy may ask."""

    async def process(
        requests: AsyncIterator[process_pb2.ProcessingRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[process_pb2.ProcessingResponse]:
        if require_envoy and transport.role_of(transport.peer_identity(context)) != "envoy":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "only an Envoy of this deployment may ask")
        async for request in requests:
            try:
                response = sealed_response(request, state.current(), clock())
            except SessionError as error:
                logger.warning("session not sealed", decision_id=_of_decision(request, "decision_id"), cause=error.sentence)
                await context.abort(grpc.StatusCode.INTERNAL, "the session could not be sealed")
            yield response

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Process": grpc.stream_stream_rpc_method_handler(
                process,
                request_deserializer=process_pb2.ProcessingRequest.FromString,
                response_serializer=process_pb2.ProcessingResponse.SerializeToString,
            )
        },
    )


def sealed_response(request: process_pb2.ProcessingRequest, state: AuthorizationState | None, now: float) -> process_pb2.ProcessingResponse:
    """The sealed id for the session that an answer opens; nothing for an answer that opens none. Raises `SessionError`."""
    if request.WhichOneof("request") != "response_headers":
        raise SessionError(Reason.SESSION_UNKNOWN, "Envoy asked about something else than the headers of an answer")
    response = process_pb2.ProcessingResponse(response_headers=process_pb2.HeadersResponse())
    statuses, ids = _values(request, ":status"), _values(request, SESSION_HEADER)
    if not ids or not (len(statuses) == 1 and statuses[0].startswith("2")):
        return response
    if len(ids) != 1:
        raise SessionError(Reason.SESSION_UNKNOWN, "the answer names more than one session")
    if state is None:
        raise SessionError(Reason.SESSION_UNKNOWN, "there is no key to seal with yet")
    binding = binding_from_text(_of_decision(request, BINDING_KEY))
    option = response.response_headers.response.header_mutation.set_headers.add(append_action=_OVERWRITE)
    option.header.key = SEALED_HEADER
    option.header.raw_value = seal_session(ids[0], binding, state.context_keys, now).encode("ascii")
    return response


def _values(request: process_pb2.ProcessingRequest, name: str) -> list[str]:
    headers = request.response_headers.headers.headers
    return [(h.raw_value.decode("latin-1") if h.raw_value else h.value) for h in headers if h.key.lower() == name]


def _of_decision(request: process_pb2.ProcessingRequest, key: str) -> str:
    metadata = request.metadata_context.filter_metadata
    return metadata[_DECISION_METADATA].fields[key].string_value if _DECISION_METADATA in metadata else ""

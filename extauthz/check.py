"""The adapter between Envoy's ext_authz messages and `decision`: a CheckRequest becomes a CheckInput, a Decision a CheckResponse."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from extauthz import transport
from extauthz.check_input import CheckInput
from extauthz.decision import About, Decision
from extauthz.errors import Reason
from extauthz.passage import Passage
from extauthz.session import BINDING_KEY
from extauthz.telemetry.trace_context import HEADER, arriving
from extauthz.unary.calls import Method
from extauthz.unary.status import CallRefused, Status
from extauthz.wire import auth_pb2, common_pb2

SERVICE = "envoy.service.auth.v3.Authorization"
PATH = f"/{SERVICE}/Check"
_KEPT_ANSWERS = 1024
_MAX_KEPT_NAMES = 512  # of headers to remove, in characters: callers choose them
_ANY_ID = "\x00legation-decision-id\x00"  # as long as an id, and stands in no header, path or name
_ANY_ID_BYTES = _ANY_ID.encode("ascii")
_OVERWRITE = 2  # HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_OK, _PERMISSION_DENIED = grpc.StatusCode.OK.value[0], grpc.StatusCode.PERMISSION_DENIED.value[0]


class Decides(Protocol):
    """What the service needs of `decision.Decider`."""

    async def decide(self, check: CheckInput) -> Decision:
        """One decision per request; never raises but for cancellation."""


def check_service(decider: Decides, *, require_envoy: bool = False) -> grpc.GenericRpcHandler:
    """Envoy's Authorization service over `decider`, under its real name; over TLS only a node of kind envoy may ask."""

    async def check(
        request: auth_pb2.CheckRequest, context: grpc.aio.ServicerContext[auth_pb2.CheckRequest, auth_pb2.CheckResponse]
    ) -> auth_pb2.CheckResponse:
        if require_envoy and transport.role_of(transport.peer_identity(context)) != "envoy":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "only an Envoy of this deployment may ask")
        arriving.set(next((str(value) for name, value in context.invocation_metadata() or () if name == HEADER), ""))
        return check_response(await decider.decide(check_input(request)))

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Check": grpc.unary_unary_rpc_method_handler(
                check,
                request_deserializer=auth_pb2.CheckRequest.FromString,
                response_serializer=auth_pb2.CheckResponse.SerializeToString,
            )
        },
    )


def check_method(decider: Decides) -> Method:
    """The same for `unary.server`, which asks for the peer's role by itself: a message in, a message out."""

    allowed = lru_cache(maxsize=_KEPT_ANSWERS)(_allowed_answer)

    async def check(message: bytes) -> bytes:
        try:
            request = auth_pb2.CheckRequest.FromString(message)
        except DecodeError as error:
            raise CallRefused(Status.UNKNOWN, "the message is no CheckRequest") from error
        deciding = decider.decide(check_input(request))
        del message, request  # what is held while the record is written pushes others out of the processor's cache
        decision = await deciding
        passage, decision_id = decision.passage, decision.decision_id
        if passage is None or not _is_kept(passage) or len(decision_id) != len(_ANY_ID):
            return check_response(decision).SerializeToString()
        return allowed(passage, decision.reason, decision.revision, decision.about).replace(_ANY_ID_BYTES, decision_id.encode("ascii"))

    return check


def _is_kept(passage: Passage) -> bool:
    """Whether others may repeat it, and what is kept of it is not what a caller made long."""
    return not passage.of_one and sum(map(len, passage.remove_headers)) <= _MAX_KEPT_NAMES


def _allowed_answer(passage: Passage, reason: Reason, revision: int, about: About) -> bytes:
    """The answer that lets a request pass, but for the decision's id: the same for every call of a tool at one revision."""
    decision = Decision(decision_id=_ANY_ID, reason=reason, revision=revision, passage=passage, about=about)
    return check_response(decision).SerializeToString()


def check_input(request: auth_pb2.CheckRequest) -> CheckInput:
    """What Envoy says about a request. Header names are lower-cased; repeated headers stay separate (encode_raw_headers)."""
    attributes = request.attributes
    http = attributes.request.http
    headers: dict[str, list[str]] = {}
    for header in http.header_map.headers:
        name, raw = header.key.lower(), header.raw_value
        value = raw.decode("latin-1") if raw else header.value
        if name in headers:
            headers[name].append(value)
        else:
            headers[name] = [value]
    if http.headers:
        for name, value in http.headers.items():
            headers.setdefault(name.lower(), [value])
    return CheckInput(
        listener=attributes.context_extensions.get("listener", "ingress"),
        http_method=http.method,
        path=http.path,
        host=http.host,
        headers=headers,
        body=http.raw_body or http.body.encode("utf-8"),
        downstream_address=attributes.source.address.socket_address.address,
        peer_principal=attributes.source.principal,
        peer_certificate=attributes.source.certificate,
        envoy_request_id=headers.get("x-request-id", [""])[0],
        gateway=attributes.context_extensions.get("gateway", ""),
        traceparent=arriving.get(),
    )


def check_response(decision: Decision) -> auth_pb2.CheckResponse:
    """The decision as Envoy obeys it. The dynamic metadata joins access log and audit, and tells local replies from ours."""
    response = auth_pb2.CheckResponse()
    metadata = response.dynamic_metadata.fields
    metadata["verdict"].string_value = "deny" if decision.passage is None else "allow"
    metadata["decision_id"].string_value = decision.decision_id
    metadata["reason"].string_value = decision.reason.value
    metadata["revision"].string_value = str(decision.revision)
    if decision.passage is not None:
        for name, value in zip(About._fields, decision.about, strict=True):  # for the record of how it ends
            if value:
                metadata[name].string_value = value
        if decision.passage.session_binding:
            metadata[BINDING_KEY].string_value = decision.passage.session_binding
        response.status.code = _OK
        _write_passage(response.ok_response, decision.passage, decision.decision_id)
        return response
    response.status.code = _PERMISSION_DENIED
    denied = response.denied_response
    if decision.answer is None:
        denied.status.code = 503
        return response
    denied.status.code = decision.answer.status
    denied.body = decision.answer.body
    for name, value in (*decision.answer.headers, ("x-legation-decision-id", decision.decision_id)):
        _set_header(denied.headers.add(), name, value)
    return response


def _write_passage(ok: auth_pb2.OkHttpResponse, passage: Passage, decision_id: str) -> None:
    headers = ok.headers
    _set_header(headers.add(), "x-legation-cluster", passage.cluster)
    _set_header(headers.add(), "x-legation-lane", passage.lane)
    _set_header(headers.add(), ":path", passage.path)
    for name, value in passage.set_headers:
        _set_header(headers.add(), name, value)
    ok.headers_to_remove.extend(passage.remove_headers)
    _set_header(ok.response_headers_to_add.add(), "x-legation-decision-id", decision_id)


def _set_header(option: common_pb2.HeaderValueOption, name: str, value: str) -> None:
    option.header.key = name
    option.header.value = value
    option.append_action = _OVERWRITE

"""What ext_proc is answered: a sealed id for an answer that opens a session, nothing for any other, an error rather than a guess."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest

from extauthz.errors import SessionError
from extauthz.process import SERVICE, process_service, sealed_response
from extauthz.session import BINDING_KEY, binding_to_text, open_session
from extauthz.state import AuthorizationState, ContextKey
from extauthz.wire import process_pb2
from tests.unit.test_decision import Policies
from tests.unit.test_session import BINDING, ENVELOPE, KEY, NOW


def state(*keys: ContextKey) -> AuthorizationState:
    return AuthorizationState(revision=1, mcp_servers={}, policy=Policies(), identity_providers=(), context_keys=keys)


STATE = state(KEY)
Call = Callable[[process_pb2.ProcessingRequest], Awaitable[process_pb2.ProcessingResponse]]


def asked(*ids: str, status: str = "200", binding: str = binding_to_text(BINDING)) -> process_pb2.ProcessingRequest:
    request = process_pb2.ProcessingRequest()
    headers = request.response_headers.headers.headers
    headers.add(key=":status", raw_value=status.encode())
    for value in ids:
        headers.add(key="mcp-session-id", raw_value=value.encode())
    decided = request.metadata_context.filter_metadata["envoy.filters.http.ext_authz"]
    decided.fields["decision_id"].string_value = "d-1"
    if binding:
        decided.fields[BINDING_KEY].string_value = binding
    return request


def set_headers(response: process_pb2.ProcessingResponse) -> dict[str, str]:
    assert response.WhichOneof("response") == "response_headers"
    return {o.header.key: o.header.raw_value.decode() for o in response.response_headers.response.header_mutation.set_headers}


def test_an_answer_that_opens_a_session_gets_a_sealed_id() -> None:
    headers = set_headers(sealed_response(asked(ENVELOPE), STATE, NOW))

    assert list(headers) == ["x-legation-session"]
    assert open_session(headers["x-legation-session"], BINDING, (KEY,), NOW, max_age_seconds=60) == ENVELOPE


@pytest.mark.parametrize("request_", [asked(), asked(ENVELOPE, status="400"), asked(ENVELOPE, status="500"), asked("raw", status="404")])
def test_an_answer_without_a_session_or_with_an_error_gets_none(request_: process_pb2.ProcessingRequest) -> None:
    assert set_headers(sealed_response(request_, STATE, NOW)) == {}


@pytest.mark.parametrize(
    "request_",
    [
        asked("raw-id-of-the-server"),
        asked(ENVELOPE, ENVELOPE),
        asked(""),
        asked(ENVELOPE, binding=""),
        asked(ENVELOPE, binding="AAAA"),
        process_pb2.ProcessingRequest(),
        process_pb2.ProcessingRequest(request_headers=process_pb2.HttpHeaders()),
    ],
    ids=["no-envelope", "two-ids", "empty", "no-binding", "bad-binding", "nothing", "a-request"],
)
def test_what_cannot_be_sealed_is_an_error(request_: process_pb2.ProcessingRequest) -> None:
    with pytest.raises(SessionError):
        sealed_response(request_, STATE, NOW)


@pytest.mark.parametrize("known", [None, state()], ids=["no-state", "no-keys"])
def test_without_a_key_nothing_is_sealed(known: AuthorizationState | None) -> None:
    with pytest.raises(SessionError):
        sealed_response(asked(ENVELOPE), known, NOW)


class Holder:
    def current(self) -> AuthorizationState | None:
        return STATE


async def test_a_session_that_cannot_be_sealed_ends_the_stream_without_a_word_about_it(tmp_path: Path) -> None:
    async with grpc_server(tmp_path) as call:
        good = await call(asked(ENVELOPE))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(asked("raw-id-of-the-server"))

    assert list(set_headers(good)) == ["x-legation-session"]
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "raw-id" not in str(caught.value.details())


@contextlib.asynccontextmanager
async def grpc_server(directory: Path) -> AsyncIterator[Call]:
    """The service over a Unix socket; gives how to ask it once, as Envoy does for one answer."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((process_service(Holder(), clock=lambda: NOW),))
    server.add_insecure_port(f"unix:{directory}/process.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{directory}/process.sock") as channel:
        ask = channel.stream_stream(
            f"/{SERVICE}/Process",
            request_serializer=process_pb2.ProcessingRequest.SerializeToString,
            response_deserializer=process_pb2.ProcessingResponse.FromString,
        )

        async def call(request: process_pb2.ProcessingRequest) -> process_pb2.ProcessingResponse:
            (response,) = [response async for response in ask(iter([request]), timeout=60)]
            return response

        yield call
    await server.stop(None)

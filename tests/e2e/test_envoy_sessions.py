"""What the real Envoy does with legacy sessions: an id passes sealed or not at all, and goes back to the endpoint that made it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web

from controlplane.certificates import write_certificates
from extauthz.process import SERVICE, process_service
from extauthz.session import BINDING_KEY, SessionBinding, binding_to_text, open_session
from extauthz.state import AuthorizationState, ContextKey
from extauthz.wire import auth_pb2 as wire
from extauthz.wire import process_pb2
from tests.e2e.envoy_world import EnvoyWorld, Response, allow, deny, envoy_world, server_entry, state_of, upstream
from tests.unit.test_decision import Policies

pytestmark = pytest.mark.envoy

KEY = ContextKey(key_id="k1", key=b"k" * 32, not_before_unix=0, not_after_unix=2**40)
STATE = AuthorizationState(revision=1, mcp_servers={}, policy=Policies(), identity_providers=(), context_keys=(KEY,))
BINDING = SessionBinding(caller=b"c" * 32, place=b"p" * 32)
RAW = "raw-id-of"


class Keys:
    def current(self) -> AuthorizationState:
        return STATE


class Endpoint:
    """An MCP server's endpoint: it names a session in every answer, and remembers which one it was asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.headers.get("mcp-session-id", ""))
        wanted = request.headers.get("x-test", "")
        ids = {"none": [], "two": [f"{RAW}-1", f"{RAW}-2"], "spaced": [f"{RAW} two"], "long": [RAW * 400]}.get(
            wanted, [f"{RAW}-{self.name}"]
        )
        response = web.json_response({"endpoint": self.name}, status=int(wanted) if wanted.isdecimal() else 200)
        for each in ids:
            response.headers.add("mcp-session-id", each)
        if wanted == "forged":
            response.headers.add("x-legation-session", "lgs1_forged-by-the-server")
        return response


@pytest.fixture
def endpoints() -> tuple[Endpoint, Endpoint]:
    return Endpoint("one"), Endpoint("two")


@contextlib.asynccontextmanager
async def running(
    directory: Path, *endpoints: Endpoint, certificates: Path | None = None, timeout_ms: int = 15_000
) -> AsyncIterator[EnvoyWorld]:
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(upstream(endpoint.answer)) for endpoint in endpoints]
        entry = server_entry("crm", [f"http://127.0.0.1:{port}/mcp" for port in ports])
        world = envoy_world(directory, state_of(1, entry), certificates=certificates, check_timeout_ms=timeout_ms)
        yield await stack.enter_async_context(world)


def initialize(world: EnvoyWorld, *, binding: str = binding_to_text(BINDING)) -> None:
    """From now on the authorizer lets requests open a session."""
    cluster = world.servers["demo/crm"].cluster

    def answer(_request: wire.CheckRequest) -> wire.CheckResponse:
        response = allow(cluster, lane="inspect")
        response.dynamic_metadata.fields[BINDING_KEY].string_value = binding
        return response

    world.answer = answer


def going_on(world: EnvoyWorld, envelope: str, *, lane: str = "direct") -> None:
    """From now on the authorizer lets requests continue a session."""
    cluster = world.servers["demo/crm"].cluster
    world.answer = lambda _request: allow(cluster, lane=lane, headers={"mcp-session-id": envelope})


def opened(response: Response) -> str:
    """Envoy's envelope in the id that the client got; there is exactly one."""
    (sealed,) = [value for name, value in response.headers.items() if name.lower() == "mcp-session-id"]
    return open_session(sealed, BINDING, (KEY,), time.time(), max_age_seconds=60)


def names_no_session(response: Response) -> bool:
    return RAW not in str(dict(response.headers)) + response.body.decode() and "mcp-session-id" not in response.headers


def reason(response: Response) -> tuple[int, int, str]:
    error = json.loads(response.body)["error"]
    return response.status, error["code"], error["data"]["reason"]


GONE = (404, 40401, "session_unknown")
UNSEALED = (503, 50305, "session_unavailable")


async def test_the_client_gets_a_sealed_id_and_goes_on_at_the_endpoint_that_made_it(
    tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]
) -> None:
    async with running(tmp_path, *endpoints) as world:
        await world.start_processor(process_service(Keys()))
        initialize(world)
        answers = [await world.post() for _ in range(6)]

        assert all(RAW not in str(dict(answer.headers)) for answer in answers)
        assert {endpoint.name for endpoint in endpoints if endpoint.asked} == {"one", "two"}
        for answer in answers:
            envelope = opened(answer)
            made_by = next(endpoint for endpoint in endpoints if endpoint.name.encode() in answer.body)
            for lane in ("direct", "stream"):
                for endpoint in endpoints:
                    endpoint.asked.clear()
                going_on(world, envelope, lane=lane)
                for _ in range(4):
                    following = await world.post()
                    assert names_no_session(following)

                assert made_by.asked == [f"{RAW}-{made_by.name}"] * 4
                assert [endpoint.asked for endpoint in endpoints if endpoint is not made_by] == [[]]


async def test_at_the_egress_listener_sessions_are_sealed_as_well(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    async with running(tmp_path, *endpoints) as world:
        await world.start_processor(process_service(Keys()))
        initialize(world)
        connector = aiohttp.UnixConnector(str(world.deployment.egress_socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://egress/servers/demo/crm/mcp", data=b"{}") as response,
        ):
            answer = Response(status=response.status, headers=response.headers, body=await response.read())

    assert RAW not in str(dict(answer.headers))
    assert base64.b64encode(RAW.encode()[:6]).decode() in opened(answer)


def _allow_on(cluster: str, lane: str, _request: wire.CheckRequest) -> wire.CheckResponse:
    return allow(cluster, lane=lane)


async def test_no_other_answer_names_a_session(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    """Neither one that the server makes up in a call, nor an error of `initialize`, nor a header of ours that it forges."""
    async with running(tmp_path, *endpoints) as world:
        await world.start_processor(process_service(Keys()))
        cluster = world.servers["demo/crm"].cluster
        for lane in ("direct", "stream"):
            world.answer = partial(_allow_on, cluster, lane)
            for wanted in ("", "two", "forged", "400"):
                assert names_no_session(await world.post(headers={"x-test": wanted})), (lane, wanted)
        initialize(world)
        for wanted in ("none", "400", "404", "500", "401", "302"):
            answer = await world.post(headers={"x-test": wanted})
            assert names_no_session(answer), wanted
        forged = await world.post(headers={"x-test": "forged"})

    assert RAW not in str(dict(forged.headers))
    assert "x-legation-session" not in forged.headers
    opened(forged)


@pytest.mark.parametrize("wanted", ["two", "spaced", "long"])
async def test_an_id_that_cannot_be_sealed_reaches_nobody(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint], wanted: str) -> None:
    async with running(tmp_path, *endpoints) as world:
        await world.start_processor(process_service(Keys()))
        initialize(world)

        answer = await world.post(headers={"x-test": wanted})

    assert reason(answer) == UNSEALED
    assert names_no_session(answer)


async def test_without_a_binding_of_the_decision_nothing_is_sealed(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    async with running(tmp_path, *endpoints) as world:
        await world.start_processor(process_service(Keys()))
        initialize(world, binding="")

        answer = await world.post()

    assert reason(answer) == UNSEALED
    assert names_no_session(answer)


async def test_a_dead_processor_stops_initialize_and_nothing_else(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    async with running(tmp_path, *endpoints) as world:
        initialize(world)
        dead = await world.post()
        going_on(world, "")
        other = await world.post()
        world.answer = lambda _request: deny(403, '{"jsonrpc":"2.0","id":1}')
        denied = await world.post()
        await world.start_processor(process_service(Keys()))
        initialize(world)
        alive = await _until(world.post, lambda answer: answer.status == 200)

    assert reason(dead) == UNSEALED
    assert names_no_session(dead)
    assert (other.status, names_no_session(other)) == (200, True)
    assert (denied.status, denied.body) == (403, b'{"jsonrpc":"2.0","id":1}')
    opened(alive)


async def _until(ask: Callable[[], Awaitable[Response]], holds: Callable[[Response], bool]) -> Response:
    async with asyncio.timeout(60):
        while not holds(answer := await ask()):  # noqa: ASYNC110 - Envoy tells nobody that it has connected again
            await asyncio.sleep(0.05)
    return answer


Handler = Callable[[AsyncIterator[Any], Any], AsyncIterator[Any]]


async def _ends_without_a_word(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
    return
    yield


async def _speaks_of_the_request(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
    async for _ in requests:
        yield process_pb2.ProcessingResponse(request_headers=process_pb2.HeadersResponse()).SerializeToString()


async def _says_nothing(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
    async for _ in requests:
        yield b""


async def _has_no_objection(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
    async for _ in requests:
        yield process_pb2.ProcessingResponse(response_headers=process_pb2.HeadersResponse()).SerializeToString()


async def _is_garbage(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
    async for _ in requests:
        yield b"\xff\xff\xff\xff"


async def _answers_itself(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
    """ImmediateResponse{status{code: 200}, headers{set mcp-session-id}}"""
    header = process_pb2.HeaderMutation()
    header.set_headers.add().header.key = "mcp-session-id"
    header.set_headers[0].header.raw_value = RAW.encode()
    mutation = header.SerializeToString()
    immediate = b"\x0a\x03\x08\xc8\x01" + b"\x12" + bytes([len(mutation)]) + mutation
    async for _ in requests:
        yield b"\x3a" + bytes([len(immediate)]) + immediate


async def _sets_the_header_itself(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
    response = process_pb2.ProcessingResponse(response_headers=process_pb2.HeadersResponse())
    option = response.response_headers.response.header_mutation.set_headers.add(append_action=2)
    option.header.key, option.header.raw_value = "mcp-session-id", RAW.encode()
    async for _ in requests:
        yield response.SerializeToString()


async def _fails(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
    async for _ in requests:
        raise RuntimeError
    yield b""


async def _never_answers(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
    async for _ in requests:
        await asyncio.Event().wait()
        yield b""


@pytest.mark.parametrize(
    ("behaviour", "closed"),
    [
        (_ends_without_a_word, False),  # Envoy lets the answer through: without a session id, which the lane removes
        (_has_no_objection, False),
        (_speaks_of_the_request, True),
        (_says_nothing, True),
        (_is_garbage, True),
        (_answers_itself, True),
        (_sets_the_header_itself, True),
        (_fails, True),
        (_never_answers, True),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
async def test_whatever_the_processor_does_no_unsealed_id_passes(
    tmp_path: Path, endpoints: tuple[Endpoint, Endpoint], behaviour: Handler, closed: bool
) -> None:
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(behaviour)
    async with running(tmp_path, *endpoints, timeout_ms=2000) as world:
        await world.start_processor(grpc.method_handlers_generic_handler(SERVICE, {"Process": handler}))
        initialize(world)

        answer = await world.post()

        assert any(endpoint.asked for endpoint in endpoints)
    assert names_no_session(answer)
    assert answer.status == (503 if closed else 200), answer
    if closed:
        assert reason(answer) == UNSEALED


async def test_an_endpoint_that_is_no_longer_registered_takes_its_sessions_with_it(tmp_path: Path) -> None:
    one, two = Endpoint("one"), Endpoint("two")
    async with running(tmp_path, one, two) as world, upstream(one.answer) as other:
        await world.start_processor(process_service(Keys()))
        initialize(world)
        first = await world.post()
        envelope = opened(first)
        world.source.commit(state_of(2, server_entry("crm", f"http://127.0.0.1:{other}/mcp", uid="uid-crm")))
        await world.programmed(2)
        one.asked.clear()
        two.asked.clear()
        going_on(world, envelope)
        after = await world.post()
        initialize(world)
        anew = await world.post()

    assert reason(after) == GONE
    assert (one.asked, two.asked) == ([""], [])  # the new `initialize` alone
    assert opened(anew) != envelope


async def test_an_endpoint_that_cannot_be_reached_keeps_its_sessions_and_no_other_gets_their_ids(tmp_path: Path) -> None:
    living = Endpoint("living")
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(upstream(living.answer))
        async with upstream(Endpoint("dead").answer) as closed:
            dead = closed
        entry = server_entry("crm", [f"http://127.0.0.1:{port}/mcp", f"http://127.0.0.1:{dead}/mcp"])
        world = await stack.enter_async_context(envoy_world(tmp_path, state_of(1, entry)))
        envelope = ";UV:".join(base64.b64encode(part.encode()).decode() for part in (f"127.0.0.1:{dead}", f"{RAW}-dead"))
        going_on(world, envelope)

        answers = [await world.post() for _ in range(8)]  # more than it takes to eject an endpoint

    assert {reason(answer) for answer in answers} == {(502, 50200, "upstream_unreachable")}
    assert living.asked == []


async def test_over_tcp_only_envoys_certificate_has_sessions_sealed(tmp_path: Path, endpoints: tuple[Endpoint, Endpoint]) -> None:
    certificates = tmp_path / "certificates"
    write_certificates(certificates)
    async with running(tmp_path, *endpoints, certificates=certificates) as world:
        await world.start_processor(process_service(Keys(), require_envoy=True))
        initialize(world)
        opened(await world.post())
        refused = {}
        for role in ("control-plane", "authorizer"):
            credentials = world.links.identity(role).channel_credentials(world.links.processor)
            assert credentials is not None
            async with grpc.aio.secure_channel(world.links.processor, credentials) as channel:
                ask: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(f"/{SERVICE}/Process")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await anext(aiter(ask(iter([b""]))))
                refused[role] = caught.value.code()

    assert set(refused.values()) == {grpc.StatusCode.PERMISSION_DENIED}

"""Our own server of Check and grpcio's: the same answers to the real grpcio client, on a Unix socket and over mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from controlplane.certificates import write_certificates
from extauthz.answer import Answer
from extauthz.check import PATH
from extauthz.check_input import CheckInput
from extauthz.check_server import GRPCIO, OWN, CheckServer, make_check_server
from extauthz.decision import Decision
from extauthz.errors import ConfigurationError, Reason
from extauthz.passage import Passage
from extauthz.transport import LinkIdentity
from extauthz.wire import auth_pb2

OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]
KINDS = (OWN, GRPCIO)
Ask = Callable[..., Awaitable[tuple[str, bytes]]]


class Decides:
    """Answers by the path; remembers who was cancelled."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.traceparents: list[str] = []

    async def decide(self, check: CheckInput) -> Decision:
        self.started.append(check.path)
        self.traceparents.append(check.traceparent)
        if check.path == "/denied":
            given = Answer(status=403, body='{"error":"ü"}', headers=(("content-type", "application/json"),))
            return Decision(decision_id="d", reason=Reason.NO_MATCHING_PERMIT, revision=7, answer=given)
        if check.path == "/broken":
            raise ValueError("secret detail")
        if check.path.startswith("/waits"):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(check.path)
                raise
        size = int(check.path.partition("?")[2] or 0)
        passage = Passage(cluster="c", lane="direct", path=f"/{len(check.body)}" + "x" * size, remove_headers=("authorization",))
        return Decision(decision_id="d", reason=Reason.ALLOWED, revision=7, passage=passage)


def check_request(path: str, body: bytes = b"") -> bytes:
    request = auth_pb2.CheckRequest()
    request.attributes.request.http.path = path
    request.attributes.request.http.raw_body = body
    return request.SerializeToString(deterministic=True)


@contextlib.asynccontextmanager
async def running(kind: str, listen: str, decides: Decides, link: LinkIdentity) -> AsyncIterator[CheckServer]:
    server = make_check_server(kind, listen, link, decides)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.0)


@contextlib.asynccontextmanager
async def asking(target: str, credentials: grpc.ChannelCredentials | None = None) -> AsyncIterator[Ask]:
    """A function that gives status and message of one call."""
    insecure = credentials is None
    channel = (
        grpc.aio.insecure_channel(target, options=OPTIONS) if insecure else grpc.aio.secure_channel(target, credentials, options=OPTIONS)
    )

    async def ask(message: bytes, *, path: str = PATH, seconds: float = 60.0) -> tuple[str, bytes]:
        try:
            return "OK", await channel.unary_unary(path)(message, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            return error.code().name, b""

    async with channel:
        yield ask


CASES: dict[str, tuple[bytes, dict[str, object]]] = {
    "allowed": (check_request("/"), {}),
    "denied": (check_request("/denied"), {}),
    "nothing said": (b"", {}),
    "a body of 500 kB": (check_request("/", b"b" * 500_000), {}),
    "a body of 4 MiB": (check_request("/", b"b" * 4 * 1024 * 1024), {}),
    "an answer of 16 KiB": (check_request("/?16384"), {}),
    "an answer of 1 MB": (check_request("/?1000000"), {}),
    "a body that is too large": (check_request("/", b"b" * 9 * 1024 * 1024), {}),
    "another method": (check_request("/"), {"path": "/envoy.service.auth.v3.Authorization/Other"}),
    "another service": (check_request("/"), {"path": "/grpc.health.v1.Health/Check"}),
    "no message of ours": (b"\xff\xff\xff", {}),
    "a failure": (check_request("/broken"), {}),
    "a deadline": (check_request("/waits"), {"seconds": 0.2}),
}


@pytest.mark.parametrize(("message", "how"), CASES.values(), ids=CASES.keys())
async def test_both_servers_answer_the_same(tmp_path: Path, message: bytes, how: dict[str, float]) -> None:
    answers = []
    for kind in KINDS:
        listen = f"unix:{tmp_path}/{kind}.sock"
        async with running(kind, listen, Decides(), LinkIdentity()), asking(listen) as ask:
            status, answer = await ask(message, **how)
            answers.append((status, auth_pb2.CheckResponse.FromString(answer)))

    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline_or_a_cancelled_call_cancels_the_decision(tmp_path: Path, kind: str) -> None:
    decides, listen = Decides(), f"unix:{tmp_path}/check.sock"
    async with running(kind, listen, decides, LinkIdentity()), asking(listen) as ask:
        call = asyncio.ensure_future(ask(check_request("/waits?1")))
        await _until(lambda: decides.started == ["/waits?1"])
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await _until(lambda: decides.cancelled == ["/waits?1"])

        for seconds in (0.2, 2.0, 20.0):  # on a busy machine the call may arrive when its time is over
            assert await ask(check_request("/waits?2"), seconds=seconds) == ("DEADLINE_EXCEEDED", b"")
            if decides.started[1:]:
                break
        await _until(lambda: decides.cancelled == decides.started == ["/waits?1", "/waits?2"])


@pytest.mark.parametrize("kind", KINDS)
async def test_the_traceparent_of_a_question_is_that_of_its_decision_and_of_no_other(tmp_path: Path, kind: str) -> None:
    decides, listen = Decides(), f"unix:{tmp_path / 'check.sock'}"
    sent = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 30)]

    async with running(kind, listen, decides, LinkIdentity()), grpc.aio.insecure_channel(listen, options=OPTIONS) as channel:
        for traceparent in sent:
            await channel.unary_unary(PATH)(check_request("/"), timeout=60, metadata=(("traceparent", traceparent),))
        await channel.unary_unary(PATH)(check_request("/"), timeout=60)

    assert decides.traceparents == [*sent, ""]


async def test_two_thousand_calls_at_once_are_each_answered_their_own(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/check.sock"
    async with running(OWN, listen, Decides(), LinkIdentity()), asking(listen) as ask:
        answers = await asyncio.gather(*(ask(check_request("/", b"b" * number)) for number in range(2000)))

    for number, (status, answer) in enumerate(answers):
        assert status == "OK"
        assert auth_pb2.CheckResponse.FromString(answer).ok_response.headers[2].header.value == f"/{number}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls")
    write_certificates(path, ["authorizer", "envoy"])
    return path


def identity(certificates: Path, name: str) -> LinkIdentity:
    return LinkIdentity(cert_file=certificates / f"{name}.crt", key_file=certificates / f"{name}.key", ca_file=certificates / "ca.crt")


@pytest.mark.parametrize("kind", KINDS)
async def test_over_tcp_only_an_envoy_of_this_deployment_may_ask(certificates: Path, kind: str) -> None:
    decides = Decides()
    anonymous = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes())
    async with running(kind, "localhost:0", decides, identity(certificates, "authorizer")) as server:
        target = f"localhost:{server.port}"
        expected = {
            "OK": identity(certificates, "envoy").channel_credentials(target),
            "PERMISSION_DENIED": identity(certificates, "authorizer").channel_credentials(target),
        }
        for status, credentials in expected.items():
            async with asking(target, credentials) as ask:
                assert (await ask(check_request("/", b"b" * 300_000)))[0] == status
        for credentials in (anonymous, None):
            async with asking(target, credentials) as ask:
                assert (await ask(check_request("/"), seconds=5))[0] in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}

    assert decides.started == ["/"]


@pytest.mark.parametrize("kind", KINDS)
async def test_tcp_without_tls_only_where_a_setting_says_so(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="LEGATION_INSECURE"):
        make_check_server(kind, "127.0.0.1:0", LinkIdentity(), Decides())

    async with running(kind, "127.0.0.1:0", Decides(), LinkIdentity(insecure=True)) as server, asking(f"127.0.0.1:{server.port}") as ask:
        assert (await ask(check_request("/")))[0] == "OK"
    assert "INSECURE" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
async def test_an_address_that_cannot_be_had_is_named(tmp_path: Path, kind: str) -> None:
    server = make_check_server(kind, f"unix:{tmp_path}/nowhere/check.sock", LinkIdentity(), Decides())

    with pytest.raises(ConfigurationError, match="LEGATION_AUTHORIZER_LISTEN: cannot listen"):
        await server.start()


def test_another_kind_of_server_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="LEGATION_CHECK_SERVER must be one of own, grpcio"):
        make_check_server("fast", "unix:/tmp/x", LinkIdentity(), Decides())


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - of another object
            await asyncio.sleep(0.005)

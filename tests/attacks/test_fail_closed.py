"""Attack group G100: whatever is missing, slow, full or broken, nothing ambiguous gets through (table in docs/security.md).

Each test takes one thing away from a deployment that serves, and says what the caller gets, that not one byte reached the MCP
server, and what is on the record. What needs the whole deployment stands in `tests/e2e/test_failures.py`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.attacks.authorizer_world import CALL, PERMIT, AuthorizerWorld, authorizer_world, first_free_handle, limited, reason_of
from tests.attacks.wire import RawAnswer, raw_connection, send_raw
from tests.e2e.stack import eventually
from tests.issuer import HttpIssuer

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

SHORT = {"LEGATION_CHECK_TIMEOUT_MS": "3000"}  # where the wait for an answer is what is tested
UNAVAILABLE = ("authorizer_unavailable", 50300)
OPEN_FILES, FILE_SIZE = resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AuthorizerWorld]:
    async with authorizer_world(tmp_path_factory.mktemp("fail-closed")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: AuthorizerWorld) -> AuthorizerWorld:
    """One for all who leave nothing broken that cannot be healed."""
    await shared.heal()
    return shared


def refused(answer: RawAnswer, status: int, reason: str, code: int) -> None:
    """A JSON-RPC error that says so."""
    assert answer.status == status, answer
    assert (reason_of(answer), answer.error["code"]) == (reason, code)


# the authorizer


async def test_an_authorizer_that_crashes_while_it_decides_is_a_503(tmp_path: Path) -> None:
    """G100: and so is everything below: what is lost is an answer, never a check."""
    async with authorizer_world(tmp_path) as world:  # fifteen seconds: the answer below does not come from waiting
        await eventually(world.serving, what="a call")
        reached = world.upstream()
        os.kill(world.pid, signal.SIGSTOP)
        call = asyncio.create_task(world.call())
        await eventually(lambda: _waiting_for(world), what="the Check under way")

        await world.kill()
        answer = await call

        refused(answer, 503, *UNAVAILABLE)
        assert world.upstream() == reached
        await world.start()
        await eventually(world.serving, what="a call after the restart")


async def _waiting_for(world: AuthorizerWorld) -> bool:
    return "cluster.legation-authorizer.upstream_rq_active: 1" in await world.envoy.admin("/stats?filter=upstream_rq_active")


async def test_an_authorizer_that_hangs_is_a_503_and_what_it_decides_later_reaches_nobody(tmp_path: Path) -> None:
    async with authorizer_world(tmp_path, environ=SHORT) as world:
        await eventually(world.serving, what="a call")
        reached = world.upstream()
        os.kill(world.pid, signal.SIGSTOP)

        answer = await world.call()
        os.kill(world.pid, signal.SIGCONT)
        refused(answer, 503, *UNAVAILABLE)

        assert world.upstream() == reached
        await eventually(world.serving, what="a call after the pause")
        allowed = [record for record in world.records() if record["decision"] == "allow"]
        assert len(allowed) >= 2
        assert world.upstream()[0] <= len(allowed)


async def test_an_authorizer_without_file_handles_is_a_503_until_it_has_some(tmp_path: Path) -> None:
    async with authorizer_world(tmp_path, environ=SHORT) as world:
        await eventually(world.serving, what="a call")
        await world.restart()  # Envoy connects to the new process with the next call, and accepting that takes a handle
        await eventually(lambda: _has_written_its_copy(world), what="the authorizer at rest")
        reached = world.upstream()
        with limited(world.pid, OPEN_FILES, first_free_handle(world.pid)):
            answer = await world.call()

            refused(answer, 503, *UNAVAILABLE)
            assert world.upstream() == reached
        await eventually(world.serving, what="a call with file handles")


async def _has_written_its_copy(world: AuthorizerWorld) -> bool:
    return world.last_good.exists() and world.last_good.stat().st_mtime_ns > world.started_at_ns


async def test_an_envoy_without_file_handles_serves_nobody_new_until_it_has_some(world: AuthorizerWorld) -> None:
    pid = world.envoy.envoy.pid
    reached = world.upstream()
    async with raw_connection(world.envoy.port) as earlier:
        await earlier.send(b"GET /nowhere HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert (await earlier.answer()).status == 404  # Envoy's threads are all awake, nothing is left to open
        with limited(pid, OPEN_FILES, first_free_handle(pid)):
            async with raw_connection(world.envoy.port) as later:
                await later.send(world.request())
                with pytest.raises(TimeoutError):
                    await later.answer(seconds=2)
                assert world.upstream() == reached
                resource.prlimit(pid, OPEN_FILES, resource.getrlimit(OPEN_FILES))
                assert (await later.answer()).status == 200


# what the authorizer decides by


async def test_an_authorizer_that_never_had_the_registry_denies_everything(world: AuthorizerWorld) -> None:
    async with world.without_control_plane():
        await world.restart(cached=False)
        reached = world.upstream()

        answer = await world.answered("not_ready")

        refused(answer, 503, "not_ready", 50300)
        assert world.upstream() == reached
        assert world.record_of(answer)["decision"] == "error"
    await eventually(world.serving, what="a call with the registry")


async def test_a_policy_that_cannot_be_read_leaves_the_last_good_ones_in_force(world: AuthorizerWorld) -> None:
    in_force = world.state.revision
    world.commit(policy_sets=world.policy("permit (principal"))
    await world.envoy.until(lambda: world.node()["state"] == "NACK")
    before = await world.call()
    denied = await world.call(token=world.token(sub="eve"))

    assert before.status == 200
    refused(denied, 404, "server_not_found", 40400)
    assert "demo/rules" in str(world.node())
    assert [record["revision"] for record in world.records()[-2:]] == [in_force, in_force]

    world.commit(policy_sets=world.policy(f'forbid (principal, action == Action::"tools/call", resource); {PERMIT}'))
    await eventually(lambda: _answers(world, "forbidden_by_policy"), what="the next policies that can be read")


async def _answers(world: AuthorizerWorld, reason: str) -> bool:
    answer = await world.call()
    return b'"error"' in answer.body and reason_of(answer) == reason


async def test_a_start_with_a_policy_that_cannot_be_read_denies_everything(world: AuthorizerWorld) -> None:
    world.commit(policy_sets=world.policy("permit (principal"))
    await world.restart(cached=False)
    await world.envoy.until(lambda: world.node()["state"] == "NACK")
    reached = world.upstream()

    answer = await world.answered("not_ready")

    refused(answer, 503, "not_ready", 50300)
    assert world.upstream() == reached
    assert world.record_of(answer)["decision"] == "error"


@pytest.mark.parametrize("spoiled", [b"", b"{", b"[]", b'{"written_at_unix": 1e999, "revision": 1, "resources": {}}'])
async def test_a_last_good_copy_that_is_spoiled_counts_as_none(world: AuthorizerWorld, spoiled: bytes) -> None:
    await eventually(lambda: _has_written_its_copy(world), what="the last good copy")
    async with world.without_control_plane():
        await world.kill()
        world.last_good.write_bytes(spoiled)
        await world.start()
        reached = world.upstream()

        refused(await world.answered("not_ready"), 503, "not_ready", 50300)

        assert world.upstream() == reached


async def test_the_last_good_copy_serves_until_it_is_too_old(world: AuthorizerWorld) -> None:
    await eventually(lambda: _has_written_its_copy(world), what="the last good copy")
    async with world.without_control_plane():
        await world.restart()
        await eventually(world.serving, what="a call by the last good copy")

        await world.restart(environ={"LEGATION_MAX_STALENESS_SECONDS": "1"})
        reached = world.upstream()
        refused(await world.answered("not_ready"), 503, "not_ready", 50300)
        assert world.upstream() == reached


async def test_a_registry_that_nobody_confirms_any_more_is_too_old_in_the_end(tmp_path: Path) -> None:
    async with authorizer_world(tmp_path, environ={"LEGATION_MAX_STALENESS_SECONDS": "3"}) as world:
        await eventually(world.serving, what="a call")
        async with world.without_control_plane():
            await eventually(lambda: _answers(world, "registry_stale"), what="the end of patience")
            reached = world.upstream()

            answer = await world.call()

            refused(answer, 503, "registry_stale", 50300)
            assert world.upstream() == reached
            assert world.record_of(answer)["decision"] == "error"
        await eventually(world.serving, what="a call after the control plane is back")


async def test_without_a_catalog_no_tool_exists(world: AuthorizerWorld) -> None:
    world.commit(definitions={})
    await world.envoy.programmed(world.state.revision)
    reached = world.upstream()

    answer = await world.call()

    refused(answer, 200, "no_matching_permit", 40300)
    assert world.upstream() == reached
    assert world.record_of(answer)["reason"] == "tool_unknown"


async def test_a_policy_that_fails_on_a_call_denies_it(world: AuthorizerWorld) -> None:
    failing = "when { context.arguments has amount && context.arguments.amount * 9223372036854775807 > 0 }"
    forbid = f'forbid (principal, action == Action::"tools/call", resource == Tool::"demo/crm/echo") {failing};'
    world.commit(policy_sets=world.policy(f"{PERMIT} {forbid}"))
    await world.envoy.programmed(world.state.revision)
    reached = world.upstream()

    answer = await world.call(CALL.replace(b'"text":"x"', b'"amount":3'))

    refused(answer, 200, "policy_evaluation_error", 40300)
    assert world.upstream() == reached
    assert world.record_of(answer)["policy_errors"]
    assert (await world.call()).status == 200


async def test_without_a_control_plane_calls_go_on_and_nothing_can_be_changed(world: AuthorizerWorld) -> None:
    async with world.without_control_plane():
        assert (await world.call()).status == 200
        refused(await world.call(token=world.token(sub="eve")), 404, "server_not_found", 40400)
        api = await world.envoy.request("POST", "/v1/apply", data=b"{}")
        assert api.status == 503


# who asks, and as whom upstream


async def test_an_issuer_that_is_down_lets_nobody_in_whom_it_did_not_before(tmp_path: Path) -> None:
    async with HttpIssuer() as http:
        http.down = True
        provider = {"issuer": http.issuer, "allowInsecureHttp": True}
        async with authorizer_world(tmp_path, provider=provider) as world:
            http.keys = [world.key]
            answer = await eventually(lambda: _answer_with(world, http, "issuer_unavailable"), what="a refusal")

            refused(answer, 503, "issuer_unavailable", 50300)
            assert answer.header("retry-after")
            assert world.upstream()[1] == 0
            assert world.record_of(answer)["decision"] == "error"

            http.down = False
            await eventually(lambda: _passes(world, http), what="a call with keys")
            http.down = True
            assert await _passes(world, http), "keys that were read go on counting"


async def test_an_issuer_that_hangs_is_a_503_within_the_time_of_a_decision(tmp_path: Path) -> None:
    async with HttpIssuer() as http:
        http.delay_seconds = 3600
        provider = {"issuer": http.issuer, "allowInsecureHttp": True}
        async with authorizer_world(tmp_path, environ=SHORT, provider=provider) as world:
            answer = await eventually(lambda: _answer_with(world, http, "issuer_unavailable"), what="a refusal by the authorizer itself")

            refused(answer, 503, "issuer_unavailable", 50300)
            assert world.upstream()[1] == 0


async def _answer_with(world: AuthorizerWorld, http: HttpIssuer, reason: str) -> RawAnswer | None:
    answer = await world.call(token=world.token(iss=http.issuer))
    assert answer.status == 503, answer
    return answer if reason_of(answer) == reason else None


async def _passes(world: AuthorizerWorld, http: HttpIssuer) -> bool:
    return (await world.call(token=world.token(iss=http.issuer))).status == 200


@pytest.mark.parametrize("skew", [300, -300], ids=["ahead", "behind"])
async def test_the_token_of_an_issuer_whose_clock_is_wrong_by_five_minutes_is_refused(world: AuthorizerWorld, skew: int) -> None:
    now = int(time.time()) + skew
    reached = world.upstream()

    answer = await world.call(token=world.token(iat=now, nbf=now, exp=now + 240))

    refused(answer, 401, "access_token_invalid" if skew > 0 else "access_token_expired", 40100)
    assert world.upstream() == reached


async def test_a_credential_that_cannot_be_had_is_a_502(tmp_path: Path) -> None:
    credential = {"staticHeader": {"header": "x-key", "secret": {"file": "nowhere"}}}
    async with authorizer_world(tmp_path, credential=credential) as world:
        answer = await eventually(lambda: _beyond_start(world), what="an answer of the authorizer's own")

        refused(answer, 502, "upstream_credential_unavailable", 50201)
        assert world.upstream() == (0, 0)
        assert world.record_of(answer)["decision"] == "error"


async def _beyond_start(world: AuthorizerWorld) -> RawAnswer | None:
    answer = await world.call()
    return None if reason_of(answer) in {"authorizer_unavailable", "not_ready"} else answer


# on the record


async def test_without_room_for_the_record_there_is_no_call(world: AuthorizerWorld) -> None:
    reached, written = world.upstream(), len(world.records())
    with limited(world.pid, FILE_SIZE, 0):  # what a full disk says to a write, and the log of the process cannot be written either
        answers = [await world.call() for _ in range(3)]

        for answer in answers:
            refused(answer, 503, "audit_unavailable", 50301)
        assert world.upstream() == reached
        assert len(world.records()) == written
    await eventually(world.serving, what="a call with room for its record")
    assert len(world.records()) > written


async def test_a_refusal_that_cannot_be_recorded_is_still_a_refusal(world: AuthorizerWorld) -> None:
    with limited(world.pid, FILE_SIZE, 0):
        refused(await world.call(token=world.token(sub="eve")), 503, "audit_unavailable", 50301)
        refused(await world.call(token="a.b.c"), 503, "audit_unavailable", 50301)


async def test_an_audit_directory_that_was_taken_away_stops_calls_until_it_is_back(world: AuthorizerWorld) -> None:
    directory = world.envoy.deployment.audit_dir
    directory.rename(directory.with_name("taken-away"))
    reached = world.upstream()

    answers = [await world.call() for _ in range(3)]

    for answer in answers:
        refused(answer, 503, "audit_unavailable", 50301)
    assert world.upstream() == reached
    directory.mkdir(mode=0o700)
    await eventually(world.serving, what="a call with a directory")
    assert [record["decision"] for record in world.records()] == ["allow"]


async def test_an_audit_file_that_was_deleted_takes_no_more_records(world: AuthorizerWorld) -> None:
    for file in world.envoy.deployment.audit_dir.iterdir():
        file.unlink()
    reached = world.upstream()

    refused(await world.call(), 503, "audit_unavailable", 50301)

    assert world.upstream() == reached
    await eventually(world.serving, what="a call with a new file")
    assert world.records()[-1]["decision"] == "allow"


# half a request, and far too much of one


async def test_a_body_that_is_cut_off_is_no_call(world: AuthorizerWorld) -> None:
    reached, decided = world.upstream(), len(world.records())
    for length in (len(CALL) + 1, len(CALL) + 10_000):
        async with raw_connection(world.envoy.port) as connection:
            await connection.send(world.request(length=length))
            connection.end()
            assert (await connection.answer()).status in {0, 400}
    async with raw_connection(world.envoy.port) as connection:
        head, _, body = world.request().partition(b"\r\n\r\n")
        chunks = b"%x\r\n%s\r\n" % (len(body), body)
        await connection.send(head.replace(b"content-length: %d" % len(body), b"transfer-encoding: chunked") + b"\r\n\r\n" + chunks)
        connection.end()
        assert (await connection.answer()).status in {0, 400}

    assert world.upstream() == reached
    assert [record for record in world.records()[decided:] if record["decision"] == "allow"] == []


async def test_a_body_of_ten_megabytes_is_a_413(world: AuthorizerWorld) -> None:
    reached = world.upstream()
    body = CALL.replace(b'"x"', b'"%s"' % (b"x" * 10 * 1024 * 1024))

    answer = await send_raw(world.envoy.port, world.request(body), seconds=60)

    refused(answer, 413, "body_too_large", 41300)
    assert world.upstream() == reached

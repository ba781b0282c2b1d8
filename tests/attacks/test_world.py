"""The suite itself: what is let through arrives byte for byte, what records records, what is looked for would be found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.attacks.leaks import Secrets
from tests.attacks.upstreams.flavours import FLAVOURS
from tests.attacks.wire import chunked, request_bytes
from tests.attacks.world import World, ran

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","arguments":{"text":"x"}}}'


def here(world: World, flavour: str) -> str:
    """The flavour, or a skip that says why it is missing."""
    if flavour in world.missing:
        pytest.skip(f"{flavour}: {world.missing[flavour]}")
    return flavour


@pytest.mark.parametrize("flavour", [name for name in FLAVOURS if name != "sdk"])
async def test_a_well_formed_call_reaches_its_upstream_byte_for_byte_and_no_other(world: World, flavour: str) -> None:
    before = await world.mark()

    answer = await world.post(CALL, flavour=here(world, flavour))

    assert await world.passed(before, answer, body=CALL, flavour=flavour) == {
        "flavour": flavour,
        "method": "tools/call",
        "name": "safe",
        "arguments": {"text": "x"},
    }


async def test_a_modern_call_reaches_the_official_sdk(world: World) -> None:
    body, headers = _modern_call(world, "sdk")
    before = await world.mark()

    answer = await world.post(body, flavour="sdk", headers=headers)

    assert (await world.passed(before, answer, body=body, flavour="sdk"))["name"] == "safe"


def _modern_call(world: World, flavour: str) -> tuple[bytes, list[tuple[str, str]]]:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    params = {"name": "safe", "arguments": {"text": "x"}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    return body, [*world.headers(flavour, version="2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "safe")]


async def test_the_same_call_passes_in_chunks_and_over_http_2(world: World) -> None:
    before = await world.mark()
    head = [*world.headers(), ("transfer-encoding", "chunked")]

    in_chunks = await world.send(request_bytes("POST", world.path(), head, chunked(CALL, 10)))
    over_h2 = await world.h2_post(CALL)

    assert ran(in_chunks) == ran(over_h2)
    assert ran(over_h2)["name"] == "safe"
    assert [event["reason"] for event in await world.events_after(before, at_least=2)] == ["allowed", "allowed"]
    assert world.received_since(before).keys() == {"python"}


async def test_a_denied_call_reaches_nobody(world: World) -> None:
    before = await world.mark()

    answer = await world.post(CALL.replace(b"safe", b"evil"))

    event = await world.refused(before, answer, status=200, reason="no_matching_permit", code=40300, request_id=1)
    assert event["tool"] == "evil"


async def test_each_flavour_reads_bodies_in_its_own_way(world: World) -> None:
    """Each of these is a way past a gateway that reads as another flavour does; past the gateway they all run."""
    evil = CALL.replace(b'"safe"', b'"evil"')
    executed = {
        "python": [
            CALL.replace(b'"name"', b'"name":"safe","name"').replace(b':"safe","arg', b':"evil","arg'),
            b"\xef\xbb\xbf" + evil,
            evil.decode().encode("utf-16"),
        ],
        "node": [b"\xef\xbb\xbf" + evil, evil.replace(b'"x"', b'"\xff"')],
        "go": [CALL.replace(b'"arguments"', b'"NAME":"evil","arguments"'), evil + b"{}", evil.replace(b"params", "param\u017f".encode())],
    }
    for flavour, bodies in executed.items():
        if flavour in world.upstreams:
            for body in bodies:
                assert ran(await world.post_directly(flavour, body)).get("name") == "evil", (flavour, body)


async def test_the_gateway_sends_its_own_credential_and_no_token(world: World) -> None:
    before = await world.mark()

    await world.post(CALL)

    received = world.bytes_since(before, "python")
    assert b"x-upstream-key: upstream-" in received
    assert b"authorization" not in received.lower()
    assert world.secrets.found_in(received) == ["upstream credential"]


async def test_a_canary_of_an_argument_is_seen_by_its_upstream(world: World) -> None:
    canary = world.canary("argument", upstreams_may=True, record_may=True)
    before = await world.mark()

    await world.post(CALL.replace(b'"x"', b'"%s"' % canary.encode()))

    assert world.secrets.found_in(world.bytes_since(before, "python")) == ["argument", "upstream credential"]


async def test_secrets_that_were_written_are_found(tmp_path: Path) -> None:
    kept = Secrets()
    kept.add("a token", "aaaaaaaaaaaa.bbbbbbbbbbbbb.cccccccccccc")
    (tmp_path / "a.wal").write_bytes(b"")
    (tmp_path / "a.log").write_text("signature: cccccccccccc\n")

    with pytest.raises(AssertionError, match="secrets were written"):
        kept.look_below(tmp_path)

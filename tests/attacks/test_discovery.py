"""Discovery under a process that misbehaves: what it floods or swells stays its own trouble, the other nodes go on."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from controlplane.xds.server import MAX_REQUEST_BYTES
from controlplane.xds.subscription import MAX_ERROR_CHARACTERS
from extauthz.discovery import DELTA_METHOD, MCP_SERVER, POLICY_SET
from extauthz.runtime import deployment_of
from extauthz.wire import discovery_pb2 as wire
from tests.attacks.case import LEGACY_CALL
from tests.attacks.world import World

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

FLOOD = 5_000


def _request(**fields: Any) -> wire.DeltaDiscoveryRequest:
    request = wire.DeltaDiscoveryRequest(**{"type_url": MCP_SERVER, **fields})
    request.node.id, request.node.cluster = "stranger-1", "authorizer"
    return request


def _stream(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(
        DELTA_METHOD,
        request_serializer=wire.DeltaDiscoveryRequest.SerializeToString,
        response_deserializer=wire.DeltaDiscoveryResponse.FromString,
    )()


def _channel(world: World) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"unix:{deployment_of(world.stack.data_dir).ads_socket}")


async def _the_others_go_on(world: World) -> None:
    assert (await world.stack.api("GET", "/readyz")).status == 200
    assert (await world.post(LEGACY_CALL)).status == 200


@pytest.mark.parametrize("nonce", ["", "1", "never-sent"])
async def test_g97_a_flood_of_refusals_is_answered_by_nothing_and_hurts_nobody(world: World, nonce: str) -> None:
    refusal = _request(response_nonce=nonce)
    refusal.error_detail.message = "no " * MAX_ERROR_CHARACTERS
    answers: list[wire.DeltaDiscoveryResponse] = []
    async with _channel(world) as channel:
        stream = _stream(channel)

        async def read() -> None:
            while (answer := await stream.read()) is not grpc.aio.EOF:
                answers.append(answer)

        await stream.write(_request())
        reading = asyncio.create_task(read())
        for _ in range(FLOOD):
            await stream.write(refusal)
        await _the_others_go_on(world)
        nodes = (await world.stack.api("GET", "/v1/nodes")).json["items"]
        reading.cancel()

    assert 1 <= len(answers) < 100, "what was sent first, and at most its halves"
    stranger = next(node for node in nodes if node["id"] == "stranger-1")
    assert all(len(type_["error"]) <= MAX_ERROR_CHARACTERS for type_ in stranger["types"])
    assert {node["state"] for node in nodes if node["id"] != "stranger-1"} == {"SYNCED"}


async def test_g97_a_flood_of_subscriptions_is_answered_once_for_each(world: World) -> None:
    async with _channel(world) as channel:
        stream = _stream(channel)
        await stream.write(_request(type_url=POLICY_SET, resource_names_subscribe=[f"none/{number}" for number in range(FLOOD)]))
        answer = await asyncio.wait_for(stream.read(), 60)
        await _the_others_go_on(world)

    assert len(answer.removed_resources) == FLOOD


async def test_g97_a_message_that_is_too_large_ends_its_own_stream_only(world: World) -> None:
    async with _channel(world) as channel:
        stream = _stream(channel)
        await stream.write(_request(resource_names_subscribe=["x" * MAX_REQUEST_BYTES]))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asyncio.wait_for(stream.read(), 60)
        await _the_others_go_on(world)

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

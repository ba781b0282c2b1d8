"""One delta ADS stream: requests in, the differences to the newest view out.

    reader ──▶ Subscription.receive ──▶ wake ──▶ NodeStream.responses ──▶ write
    cache.publish ───────────────────────▲

Types go out in the order of `TYPES_OF_KIND`. An authorizer's Revision is sent only when nothing else of the view is left to
send, so that what the authorizer holds when it arrives is exactly that view.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import structlog

from controlplane.xds.cache import View, ViewCache
from controlplane.xds.node import TYPES_OF_KIND, NodeKind
from controlplane.xds.rollout import NodeRecord, Rollout
from controlplane.xds.subscription import MAX_ERROR_CHARACTERS, Response
from extauthz.discovery import DISCOVERY_SERVICE, REVISION
from extauthz.wire import discovery_pb2 as wire

logger = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class NodeStream:
    """The protocol of one stream after its node is known. No I/O."""

    def __init__(self, *, record: NodeRecord) -> None:
        self._record = record
        self._nonces = itertools.count(1)

    def receive(self, request: wire.DeltaDiscoveryRequest) -> None:
        """Take one request; raises `ValueError` for a type that this kind of node does not get."""
        subscription = self._record.subscriptions.get(request.type_url)
        if subscription is None:
            raise ValueError(f"a node of kind {self._record.kind} gets no {request.type_url}")
        subscription.receive(request)
        if request.HasField("error_detail"):
            logger.warning(
                "xDS resource refused by node",
                node=self._record.node_id,
                type_url=request.type_url,
                error=request.error_detail.message[:MAX_ERROR_CHARACTERS],
            )

    def responses(self, view: View) -> Iterator[wire.DeltaDiscoveryResponse]:
        """Everything that can be sent now, in order."""
        for type_url in TYPES_OF_KIND[self._record.kind]:
            subscription = self._record.subscriptions[type_url]
            if type_url == REVISION and self._lacks_others(view):
                continue
            response = subscription.next_response(view)
            if response is not None:
                response.nonce = str(next(self._nonces))
                subscription.sending(response)
                yield _as_message(type_url, response)
        self._record.saw(view)

    def _lacks_others(self, view: View) -> bool:
        """Whether anything beside the Revision has still to be sent of this view."""
        for type_url, subscription in self._record.subscriptions.items():
            if type_url == REVISION:
                continue
            available = view.resources.get(type_url, {})
            if not subscription.started or any(subscription.sent.get(name) != r.version_info for name, r in available.items()):
                return True
            if any(version and name not in available for name, version in subscription.sent.items()):
                return True
        return False


def _as_message(type_url: str, response: Response) -> wire.DeltaDiscoveryResponse:
    message = wire.DeltaDiscoveryResponse(
        type_url=type_url, nonce=response.nonce, system_version_info=str(response.view.revision), removed_resources=response.removed
    )
    for resource in response.changed:
        sent = message.resources.add(name=resource.name, version=resource.version_info)
        sent.resource.type_url = type_url
        sent.resource.value = resource.value
    return message


class AggregatedDiscoveryService:
    """The gRPC service. `identify` says which kind the peer may be, or raises `PermissionError` with the reason."""

    def __init__(self, *, cache: ViewCache, rollout: Rollout, identify: Callable[[Context, str], NodeKind]) -> None:
        self._cache = cache
        self._rollout = rollout
        self._identify = identify

    def handler(self) -> grpc.GenericRpcHandler:
        """Serves under the real service name."""
        delta = grpc.stream_stream_rpc_method_handler(
            self.delta_aggregated_resources,
            request_deserializer=wire.DeltaDiscoveryRequest.FromString,
            response_serializer=wire.DeltaDiscoveryResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(DISCOVERY_SERVICE, {"DeltaAggregatedResources": delta})

    async def delta_aggregated_resources(self, _requests: object, context: Context) -> None:
        """One stream, from the first request (which names the node) to the end."""
        first = await context.read()
        if not isinstance(first, wire.DeltaDiscoveryRequest):
            return
        try:
            kind = self._identify(context, first.node.cluster)
        except PermissionError as error:
            logger.warning("xDS node refused", node=first.node.id, peer=context.peer(), reason=str(error))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        if self._cache.view(NodeKind.ENVOY) is None:  # authorizers may have to wait a moment longer: their stream is kept
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the registry is not loaded yet")
        record = self._rollout.connect(kind, first.node.id)
        logger.info("xDS node connected", node=first.node.id, kind=kind.value)
        try:
            await context.send_initial_metadata(())
            await self._serve(first, record, context)
        finally:
            self._rollout.disconnect(record)
            logger.info("xDS node disconnected", node=first.node.id, kind=kind.value)

    async def _serve(self, first: wire.DeltaDiscoveryRequest, record: NodeRecord, context: Context) -> None:
        stream = NodeStream(record=record)
        wake = asyncio.Event()
        unwatch = self._cache.watch(record.kind, wake)
        reader = asyncio.ensure_future(_read(stream, first, context, wake))
        try:
            while not reader.done():
                wake.clear()
                view = self._cache.view(record.kind)
                if view is not None:
                    for response in stream.responses(view):
                        await context.write(response)
                self._rollout.notify()
                await _wait_first(wake, reader)
            if (problem := reader.result()) is not None:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        finally:
            unwatch()
            reader.cancel()


async def _read(stream: NodeStream, first: wire.DeltaDiscoveryRequest, context: Context, wake: asyncio.Event) -> str | None:
    """Take requests until the node closes the stream; returns what was wrong, if anything."""
    request: object = first
    while isinstance(request, wire.DeltaDiscoveryRequest):
        try:
            stream.receive(request)
        except ValueError as error:
            return str(error)
        wake.set()
        request = await context.read()
    return None


async def _wait_first(wake: asyncio.Event, reader: asyncio.Future[str | None]) -> None:
    woken: asyncio.Future[Any] = asyncio.ensure_future(wake.wait())
    try:
        await asyncio.wait({woken, reader}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        woken.cancel()

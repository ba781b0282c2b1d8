"""The delta ADS client of our own nodes: how an authorizer learns what exists and who may do what.

    ADS stream ──▶ stage resources per type ──▶ Revision arrives ──▶ on_revision(everything, revision) ──▶ ACK or NACK

Resources of every type are ACKed as they are staged; only the Revision, which the control plane sends last, makes them
count: `on_revision` swaps to the new state as a whole or raises, and then the Revision is NACKed with its words and the
last good state stays. What was staged stays staged, so that the next Revision is built on everything received.
Before this: `controlplane.xds.stream`. After this: `extauthz.subscription`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass, field

import grpc
import grpc.aio
import structlog

from extauthz.errors import LegationError
from extauthz.v1 import registry_pb2 as pb
from extauthz.wire import discovery_pb2 as wire

DISCOVERY_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
DELTA_METHOD = f"/{DISCOVERY_SERVICE}/DeltaAggregatedResources"

TYPE_PREFIX = "type.googleapis.com/"
GATEWAY = TYPE_PREFIX + "legation.v1.Gateway"
TRUST_DOMAIN = TYPE_PREFIX + "legation.v1.TrustDomain"
IDENTITY_PROVIDER = TYPE_PREFIX + "legation.v1.IdentityProvider"
REVOCATION = TYPE_PREFIX + "legation.v1.Revocation"
CONTEXT_KEY = TYPE_PREFIX + "legation.v1.ContextKey"
POLICY_SET = TYPE_PREFIX + "legation.v1.PolicySet"
POLICY_CANDIDATE = TYPE_PREFIX + "legation.v1.PolicyCandidate"
ROLE_BINDING = TYPE_PREFIX + "legation.v1.RoleBinding"
MCP_SERVER = TYPE_PREFIX + "legation.v1.McpServer"
CATALOG = TYPE_PREFIX + "legation.v1.Catalog"
VIRTUAL_SERVER = TYPE_PREFIX + "legation.v1.VirtualServer"
SEALING_KEY = TYPE_PREFIX + "legation.v1.SealingKey"
AUDIT_POLICY = TYPE_PREFIX + "legation.v1.AuditPolicy"
AUDIT_SEALING_KEY = TYPE_PREFIX + "legation.v1.AuditSealingKey"
REVISION = TYPE_PREFIX + "legation.v1.Revision"
REVISION_NAME = "current"

AUTHORIZER_TYPES = (
    *(AUDIT_SEALING_KEY, AUDIT_POLICY, REVOCATION, GATEWAY, IDENTITY_PROVIDER, TRUST_DOMAIN, CONTEXT_KEY),
    *(POLICY_SET, POLICY_CANDIDATE, ROLE_BINDING, MCP_SERVER, VIRTUAL_SERVER, REVISION),
)
"""What an authorizer subscribes to, in the order in which it is sent: the Revision last."""

AGGREGATOR_TYPES = (
    *(AUDIT_SEALING_KEY, AUDIT_POLICY, SEALING_KEY),
    *(POLICY_SET, ROLE_BINDING, MCP_SERVER, VIRTUAL_SERVER, CATALOG, REVISION),
)
"""What an aggregator subscribes to: what policies decide by, without credentials, and what there is to list. It verifies nobody."""

MAX_MESSAGE_BYTES = 256 * 1024 * 1024  # ten thousand servers travel in one response
FIRST_BACKOFF_SECONDS = 0.05
LAST_BACKOFF_SECONDS = 0.5

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)

StagedResources = Mapping[str, Mapping[str, bytes]]
"""Serialised messages by type URL and resource name."""

logger = structlog.get_logger(__name__)


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """A channel to the control plane, for discovery and whatever else it serves to our nodes; None: a Unix socket, or TCP in trials."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def version_of(value: bytes) -> str:
    """The xDS version of a resource: a hash of its content, so that every replica of the control plane says the same."""
    return hashlib.sha256(value).hexdigest()[:16]


@dataclass(slots=True)
class _Staged:
    """What was received of one type: bytes and versions by resource name."""

    values: dict[str, bytes] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def take(self, response: wire.DeltaDiscoveryResponse) -> None:
        for received in response.resources:
            self.values[received.name] = received.resource.value
            self.versions[received.name] = received.version
        for name in response.removed_resources:
            self.values.pop(name, None)
            self.versions.pop(name, None)


class DiscoveryClient:
    """Keeps one delta ADS stream alive and hands over each complete revision.

    `on_revision(resources, revision)` runs on the event loop; when it raises a `LegationError` or `ValueError` the Revision is
    NACKed with the error's words. `initial` is the last good copy from disk: it is offered to the control plane as already
    held, so that only differences travel. `credentials` None = a Unix socket, or TCP in trials.
    """

    def __init__(
        self,
        *,
        address: str,
        node_id: str,
        on_revision: Callable[[StagedResources, int], None],
        node_kind: str = "authorizer",
        type_urls: tuple[str, ...] = AUTHORIZER_TYPES,
        credentials: grpc.ChannelCredentials | None = None,
        initial: StagedResources | None = None,
    ) -> None:
        self._address = address
        self._node_id = node_id
        self._node_kind = node_kind
        self._on_revision = on_revision
        self._type_urls = type_urls
        self._credentials = credentials
        self._staged = {type_url: _Staged() for type_url in type_urls}
        for type_url, resources in (initial or {}).items():
            if type_url in self._staged and type_url != REVISION:
                values = dict(resources)
                self._staged[type_url] = _Staged(values=values, versions={name: version_of(value) for name, value in values.items()})
        self._changed = True
        self.revision = 0
        self.connected = False
        self.error = ""

    async def run(self) -> None:
        """Serve until cancelled; a lost stream is opened again with jitter, nothing held is dropped."""
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            try:
                await self._stream()
                reason = "the control plane closed the stream"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except Exception as error:
                logger.exception("discovery failed and is begun again")
                reason = f"{type(error).__name__}: {error}"
            if self.connected:
                backoff = FIRST_BACKOFF_SECONDS
            self.connected = False
            if reason != self.error:
                logger.warning("discovery stream ended", address=self._address, reason=reason)
            self.error = reason
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            backoff = min(backoff * 2, LAST_BACKOFF_SECONDS)

    async def _stream(self) -> None:
        first, *others = self._first_requests()
        requests = _Requests()
        requests.put(first)
        async with open_channel(self._address, self._credentials) as channel:
            call = channel.stream_stream(
                DELTA_METHOD,
                request_serializer=wire.DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=wire.DeltaDiscoveryResponse.FromString,
            )(requests)
            await call.initial_metadata()  # accepted, or refused with words that a write under way would hide
            for request in others:
                requests.put(request)
            responses: AsyncIterable[wire.DeltaDiscoveryResponse] = call
            async for response in responses:
                self.connected = True
                requests.put(self._take(response))

    def _first_requests(self) -> list[wire.DeltaDiscoveryRequest]:
        """One wildcard subscription per type; the node is named once, as the protocol wants.

        The Revision is never said to be held: it always comes, and so tells that nothing else is missing.
        """
        requests = [
            wire.DeltaDiscoveryRequest(
                type_url=type_url,
                resource_names_subscribe=["*"],
                initial_resource_versions=self._staged[type_url].versions if type_url != REVISION else {},
            )
            for type_url in self._type_urls
        ]
        requests[0].node.id = self._node_id
        requests[0].node.cluster = self._node_kind
        return requests

    def _take(self, response: wire.DeltaDiscoveryResponse) -> wire.DeltaDiscoveryRequest:
        """Stage one response, swap when it is the Revision, and answer ACK or NACK."""
        answer = wire.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        staged = self._staged.get(response.type_url)
        if staged is None:
            answer.error_detail.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            answer.error_detail.message = f"{response.type_url} was not subscribed to"
            return answer
        if response.type_url != REVISION:
            staged.take(response)
            self._changed = True
            return answer
        try:
            self._swap(response)
        except (LegationError, ValueError) as error:
            logger.warning("revision refused", error=str(error))
            self.error = str(error)
            answer.error_detail.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            answer.error_detail.message = str(error)[:4000]
        else:
            staged.take(response)
            self._changed = False
            self.error = ""
        return answer

    def _swap(self, response: wire.DeltaDiscoveryResponse) -> None:
        held = self._staged[REVISION].values
        for received in response.resources:
            if not self._changed and held.get(received.name) == received.resource.value:
                continue  # a new stream, and nothing is different
            message = pb.Revision.FromString(received.resource.value)
            resources = {type_url: dict(staged.values) for type_url, staged in self._staged.items() if type_url != REVISION}
            resources[REVISION] = {received.name: received.resource.value}
            self._on_revision(resources, message.revision)
            self.revision = message.revision


class _Requests:
    """Requests as they come, for gRPC to read; it stops reading when the stream ends."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[wire.DeltaDiscoveryRequest] = asyncio.Queue()

    def put(self, request: wire.DeltaDiscoveryRequest) -> None:
        self._queue.put_nowait(request)

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> wire.DeltaDiscoveryRequest:
        return await self._queue.get()

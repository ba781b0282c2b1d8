"""The control plane process: wiring, start and stop. `python -m controlplane` runs it.

    registry (SQL) ─▶ live state ─▶ publisher ─▶ discovery streams ─▶ Envoys, authorizers
          ▲                  └────▶ prober ──▶ Envoy's egress listener ─▶ MCP servers
      HTTP API ◀── record (SQL) ◀── collector ◀── authorizers

Everything is made here, once, and handed to who needs it. While this process is away Envoys and authorizers go on with what
they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from functools import partial

import structlog
from aiohttp import web

from controlplane.api.application import make_api, make_routes
from controlplane.api.audit import AuditAccess
from controlplane.api.audit_proof import AuditProofRoutes
from controlplane.api.audit_sinks import AuditSinkRoutes
from controlplane.api.auth import OperatorAuthenticator
from controlplane.api.foreign import only_our_names
from controlplane.api.peer import only_envoy
from controlplane.api.problems import answer_problems
from controlplane.api.refused import REFUSALS
from controlplane.audit.collector import Collector
from controlplane.audit.database import audit_database_url, open_audit_database
from controlplane.audit.erasure import Erasure
from controlplane.audit.own_record import OwnRecord
from controlplane.audit.proving import build_proving
from controlplane.audit.retention import build_retention
from controlplane.audit.sinks.overview import SinkOverview
from controlplane.audit.sinks.sinks import Sinks
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.authorization_server.issuers import Issuers
from controlplane.authorization_server.oversight import Oversight
from controlplane.authorization_server.recorded_events import EventFollower
from controlplane.authorization_server.store import GrantStore
from controlplane.baseline.announcement import announce_by
from controlplane.baseline.keeper import BaselineKeeper
from controlplane.baseline.reader import read_anomalies
from controlplane.database import open_database
from controlplane.observation import CountedReader, observe, observe_sinks
from controlplane.prober import Prober
from controlplane.registry.authority import AuthorityReader
from controlplane.registry.encryption import RegistryKey, read_registry_key
from controlplane.registry.entry import Json
from controlplane.registry.exposure import Exposures
from controlplane.registry.key_pair_reader import KeyPairReader
from controlplane.registry.kind import Kind
from controlplane.registry.live import LiveState
from controlplane.registry.own_address import OwnAddresses, PublicAddress
from controlplane.registry.probe import ReadingLimits
from controlplane.registry.probe_batch import ProbeBatch
from controlplane.registry.pruning import prune_always
from controlplane.registry.service import RegistryService
from controlplane.registry.state import RegistryState
from controlplane.registry.store import RegistryStore
from controlplane.remote_reader import RemoteReader
from controlplane.settings import ControlPlaneSettings
from controlplane.usage.price_history import PriceHistory
from controlplane.usage.rollup import UsageRollup, forget_caller
from controlplane.what_if.runner import ReplayRunner, ReplaySources
from controlplane.workload_api import WorkloadApi, users_of_workload_api, workload_api_address
from controlplane.xds.authority_file import AuthorityFiles
from controlplane.xds.authorizer_resources import build_authorization_state, gateway_names, make_context_keys, make_identity_provider
from controlplane.xds.bundle_status import status_json
from controlplane.xds.bundle_store import BundleStore
from controlplane.xds.cache import ViewCache
from controlplane.xds.certificate_source import CertificateSources
from controlplane.xds.certificate_source import status_json as certificate_status_json
from controlplane.xds.gateway import gateway_settings
from controlplane.xds.node import NodeKind
from controlplane.xds.publisher import Publisher
from controlplane.xds.resolver import Resolver
from controlplane.xds.resource_cache import FileResourceCache, MemoryResourceCache
from controlplane.xds.rollout import Rollout
from controlplane.xds.server import AdsServer
from controlplane.xds.trust_bundle import BundleFollower
from extauthz.address import AddressRules
from extauthz.door import Door
from extauthz.egress_context import EgressContext, sign_egress_context, signing_key
from extauthz.errors import ConfigurationError
from extauthz.http_site import serving
from extauthz.identity.jwks import KeySource
from extauthz.identity.principal import PROBER
from extauthz.identity.provider import IdentityProvider
from extauthz.metrics_site import serving_metrics
from extauthz.state import AuthorizationState, context_keys_from_messages, identity_provider_from_message
from extauthz.telemetry.process import Telemetry, running_telemetry
from extauthz.transport import LinkIdentity

logger = structlog.get_logger(__name__)

_CONTEXT_SECONDS = 120
_STREAM_SLACK_SECONDS = 30
_AGGREGATOR_SECONDS = 60.0


async def run(settings: ControlPlaneSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving, stopping = asyncio.create_task(_serve(settings)), asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for task in (stopping, serving):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    logger.info("control plane stopped")


async def _serve(settings: ControlPlaneSettings) -> None:
    """Serve until cancelled. A background part that ends is a failure of the whole: the supervisor starts it again."""
    link = LinkIdentity(
        cert_file=settings.tls_cert_file, key_file=settings.tls_key_file, ca_file=settings.tls_ca_file, insecure=settings.insecure
    )
    key = read_registry_key(settings.encryption_key_file)
    store = RegistryStore(await asyncio.to_thread(open_database, settings.database_url))
    record: AuditStore | None = None
    try:
        audit_url = audit_database_url(settings.audit_database_url, settings.database_url)
        record = AuditStore(await asyncio.to_thread(open_audit_database, audit_url), key)
        live = await asyncio.to_thread(LiveState, store)
        async with (
            running_telemetry(settings, service="legation-control-plane", node_id=socket.gethostname()) as telemetry,
            serving_metrics(telemetry.metrics, settings, link),
            _parts(settings, link=link, key=key, store=store, record=record, live=live, telemetry=telemetry) as background,
        ):
            done, _ = await asyncio.wait(background, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        store.close()
        if record is not None:
            record.close()


@contextlib.asynccontextmanager
async def _parts(
    settings: ControlPlaneSettings,
    *,
    link: LinkIdentity,
    key: RegistryKey,
    store: RegistryStore,
    record: AuditStore,
    live: LiveState,
    telemetry: Telemetry,
) -> AsyncIterator[list[asyncio.Task[None]]]:
    rules = AddressRules(settings.allowed_upstream_networks)
    authorities, pairs = AuthorityReader(settings.secrets_dir), KeyPairReader(settings.secrets_dir, key)
    workload_api = WorkloadApi(workload_api_address(settings.workload_api, os.environ))
    service = RegistryService(
        store=store,
        live=live,
        key=key,
        address_rules=rules,
        own_addresses=own_addresses_of(settings),
        public=public_address_of(settings),
        authorities=authorities,
        pairs=pairs,
        has_workload_api=bool(workload_api.address),
    )
    bundles = BundleFollower(
        files=authorities,
        rules=rules,
        store=BundleStore(settings.cache_dir / "trust-bundles" if settings.cache_dir is not None else None),
        workload_api=workload_api,
    )
    certificates = CertificateSources(reader=pairs, workload_identity=workload_api)
    probers: list[Prober] = []  # it starts when everything else has, and the API is told to ask it
    cache = ViewCache()
    rollout = Rollout(cache=cache)
    publisher = Publisher(
        source=live,
        cache=cache,
        rollout=rollout,
        gateway=gateway_settings(settings, link_tls=link.cert_file is not None),
        key=key,
        resolver=Resolver(rules=rules),
        authorities=AuthorityFiles(reader=authorities),
        bundles=bundles,
        certificates=certificates,
        built=FileResourceCache(settings.cache_dir / "resources.db") if settings.cache_dir is not None else MemoryResourceCache(),
    )
    egress_address = settings.egress_address or settings.egress_listen
    collector = Collector(record, RecordWriter(record, key))
    own = OwnRecord(
        record=record,
        key=key,
        registry=store,
        live=live,
        lagging=collector.barrier,
        outcomes_expected=settings.outcome_log != "none",
        max_call_seconds=settings.max_call_seconds,
        max_stream_seconds=settings.max_stream_seconds,
        outcome_wait_seconds=settings.outcome_wait_seconds,
    )
    proving = build_proving(settings, record, os.environ)
    retention = build_retention(settings, record, proving.archive, own.writer, state=lambda: live.state)
    async with contextlib.AsyncExitStack() as parts:
        working = (live.follow(), publisher.run(), prune_always(service), workload_api.run(), _follow_needs(live, workload_api))
        background = [asyncio.create_task(part) for part in (*working, collector.run(), proving.run(), own.run(), retention.run())]
        parts.push_async_callback(_cancel, background)
        key_source = await parts.enter_async_context(KeySource(rules))
        authentication = OperatorAuthenticator(
            state=lambda: live.state,
            key_source=key_source,
            providers_of=identity_providers_of,
            resource_url=f"{settings.gateway_url}/v1",
            clock=time.time,
        )
        replay_sources = ReplaySources(
            database_url=settings.database_url,
            audit_database_url=audit_database_url(settings.audit_database_url, settings.database_url),
            encryption_key_file=settings.encryption_key_file,
        )
        books, rollup = GrantStore(store.engine, key=key), UsageRollup(store=record, read_prices=PriceHistory(store).book)
        routes = make_routes(
            service=service,
            store=store,
            live=live,
            rollout=rollout,
            audit=AuditAccess(
                store=record,
                archive=proving.archive,
                barrier=collector.barrier,
                erasure=Erasure(record, own.writer, forget=[forget_caller]),
            ),
            authentication=authentication,
            build_state=partial(_authorization_state, key=key, gateway_url=settings.gateway_url, exposures=Exposures()),
            live_status=partial(_live_status, live, bundles, certificates),
            problems=StartProblems(workload_api=workload_api, rollout=rollout, wants_aggregator=bool(settings.aggregator_addresses)).told,
            oversight=Oversight(state=lambda: live.state, books=books, service=service),
            replays=ReplayRunner(replay_sources).answers,
            anomalies=partial(read_anomalies, record),
            usage=record,
            catch_up_usage=rollup.catch_up,
            probe_now=lambda uid: any(prober.probe_now(uid) for prober in probers),
            proof=AuditProofRoutes(proving=proving, barrier=collector.barrier, retention=retention),
            sinks=AuditSinkRoutes(overview=SinkOverview(record, own.writer, state=lambda: live.state)),
        )
        application = make_api(routes, authentication)
        application[REFUSALS] = own.refusals
        our_names = only_our_names(_door(settings), lambda: gateway_names(live.state))
        application.middlewares.insert(1, our_names)  # right behind `answer_problems`
        observe(application, telemetry, revision=lambda: live.state.revision, nodes=rollout)
        issuers = await parts.enter_async_context(
            Issuers(
                state=lambda: live.state,
                service=service,
                engine=store.engine,
                key=key,
                configured_url=settings.gateway_url,
                address_rules=rules,
                secrets_dir=settings.secrets_dir,
            )
        )
        issuers.attach(application)
        background.append(asyncio.create_task(issuers.prune_always()))
        background.append(asyncio.create_task(EventFollower(books=books, store=record, writer=own.writer).run()))
        sinks = Sinks(store=record, live=live, key=key, rules=rules, secrets_dir=settings.secrets_dir, export_dir=settings.audit_export_dir)
        background.append(asyncio.create_task(sinks.run()))
        observe_sinks(telemetry.metrics, sinks.statistics)
        background.append(asyncio.create_task(BaselineKeeper(record, announce=announce_by(record, own.writer)).run()))
        background.append(asyncio.create_task(rollup.run()))
        await parts.enter_async_context(serving_api(application, settings.api_listen, link))
        await _first_of(_published(publisher), background)  # streams are not accepted before there is something to say
        discovery = AdsServer(listen=settings.xds_listen, cache=cache, rollout=rollout, identity=link, for_writers=(collector.handler,))
        await parts.enter_async_context(discovery)
        # its process imports for a second of CPU: only now, when nobody waits for us any more
        reader = await parts.enter_async_context(
            RemoteReader(
                egress_address=egress_address,
                sign=lambda server_id: sign_prober_context(server_id, key=key, revision=live.state.revision),
                link=link,
                limits=ReadingLimits(stream_seconds=settings.max_stream_seconds + _STREAM_SLACK_SECONDS),
            )
        )
        prober = Prober(
            reader=reader if telemetry.metrics is None else CountedReader(reader, telemetry.metrics),
            store=ProbeBatch(service.record_probes),
            programmed=lambda revision: rollout.wait(revision, 60.0),
            interval_seconds=settings.probe_interval_seconds,
            watched=settings.watched_servers,
        )
        parts.push_async_callback(prober.stop)
        probers.append(prober)
        following = asyncio.create_task(_follow(live, prober))
        background.append(following)
        logger.info("control plane listening", api=settings.api_listen, xds=settings.xds_listen, revision=live.state.revision)
        yield background


class StartProblems:
    """What keeps a start from being complete, beside database, Envoys and authorizers.

    An aggregator counts until one is there, and for a bounded time: later its loss must not take calls out of use that do without.
    """

    def __init__(self, *, workload_api: WorkloadApi, rollout: Rollout, wants_aggregator: bool) -> None:
        self._workload_api = workload_api
        self._rollout = rollout
        self._waiting_until = time.monotonic() + _AGGREGATOR_SECONDS if wants_aggregator else 0.0

    def told(self) -> list[str]:
        """The reasons, as sentences."""
        problem = self._workload_api.why_not_ready()
        problems = [problem] if problem else []
        if time.monotonic() < self._waiting_until:
            aggregators = [node for node in self._rollout.nodes() if node["kind"] == NodeKind.AGGREGATOR.value]
            if any(node["connected"] and node.get("serving") for node in aggregators):
                self._waiting_until = 0.0
            else:
                problems.append("no aggregator is connected and up to date")
        return problems


def identity_providers_of(state: RegistryState) -> tuple[IdentityProvider, ...]:
    """The identity providers of a state as the verifier knows them."""
    return tuple(identity_provider_from_message(make_identity_provider(entry)) for entry in state.identity_providers.values())


def _door(settings: ControlPlaneSettings) -> Door:
    return Door(gateway_url=settings.gateway_url, extra_hosts=settings.gateway_hosts, allowed_origins=settings.allowed_origins)


def own_addresses_of(settings: ControlPlaneSettings) -> OwnAddresses:
    """Every address that this deployment listens on or is known by, as far as its settings say."""
    scheme = settings.gateway_url.partition("://")[0]
    return OwnAddresses(
        (
            settings.gateway_url,
            *(f"{scheme}://{host}" for host in settings.gateway_hosts),
            *(settings.gateway_listen, settings.egress_listen, settings.egress_address),
            *(settings.api_listen, settings.api_address, settings.xds_listen),
            *(*settings.authorizer_addresses, *settings.processor_addresses, *settings.aggregator_addresses),
        )
    )


def public_address_of(settings: ControlPlaneSettings) -> PublicAddress:
    """The public listener of the settings, and what no Gateway may listen on."""
    others = (settings.egress_listen, settings.api_listen, settings.xds_listen, *settings.authorizer_addresses)
    others = (*others, *settings.processor_addresses, *settings.aggregator_addresses)
    return PublicAddress(
        url=settings.gateway_url,
        listen=settings.gateway_listen,
        egress_listen=settings.egress_listen,
        others=tuple(address for address in others if not address.startswith("unix:")),
    )


def sign_prober_context(server_id: str, *, key: RegistryKey, revision: int) -> str:
    """The signed header with which one reading by the prober passes the egress listener."""
    now = time.time()
    keys = context_keys_from_messages(make_context_keys(key, datetime.now(UTC)))
    signer = signing_key(keys, now)
    if signer is None:  # never: today's key is among them
        raise ConfigurationError("there is no key for the egress context; is the clock right?")
    context = EgressContext(
        decision_id=f"probe-{secrets.token_hex(8)}",
        principal=PROBER,
        mcp_server_id=server_id,
        revision=revision,
        expires_at_unix=now + _CONTEXT_SECONDS,
        kind="prober",
    )
    return sign_egress_context(context, signer)


def _authorization_state(
    state: RegistryState, previous: AuthorizationState | None, *, key: RegistryKey, gateway_url: str, exposures: Exposures
) -> AuthorizationState:
    return build_authorization_state(state, key=key, now=datetime.now(UTC), previous=previous, gateway_url=gateway_url, exposures=exposures)


def serving_api(application: web.Application, listen: str, link: LinkIdentity) -> contextlib.AbstractAsyncContextManager[None]:
    """The API, listening; on TCP with TLS every client must show Envoy's certificate, of our authority."""
    if link.server_ssl_context(listen) is not None:
        application.middlewares.insert(application.middlewares.index(answer_problems) + 1, only_envoy())
    return serving(application, listen, "LEGATION_API_LISTEN", link)


def _live_status(live: LiveState, bundles: BundleFollower, certificates: CertificateSources, kind: Kind, entry_id: str) -> Json | None:
    """What this process knows of an entry beside what is stored."""
    if kind is Kind.GATEWAY:
        entry = live.state.gateways.get(entry_id)
        return certificate_status_json(certificates.status(entry.uid)) if entry is not None else None
    status = bundles.status(entry_id) if kind is Kind.TRUST_DOMAIN else None
    return status_json(status, now=datetime.now(UTC)) if status is not None else None


async def _follow_needs(live: LiveState, workload_api: WorkloadApi) -> None:
    while True:
        state = live.state
        workload_api.need(users_of_workload_api(state))
        await live.wait(state.revision)


async def _follow(live: LiveState, prober: Prober) -> None:
    while True:
        state = live.state
        prober.update(state)
        await live.wait(state.revision)


async def _published(publisher: Publisher) -> None:
    while publisher.published is None:  # noqa: ASYNC110 - only until the first snapshot stands
        await asyncio.sleep(0.01)


async def _first_of(ready: Coroutine[None, None, None], background: list[asyncio.Task[None]]) -> None:
    """Wait for `ready`, or for a background part to fail first."""
    waiting = asyncio.create_task(ready)
    try:
        done, _ = await asyncio.wait({waiting, *background}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    for task in done:
        task.result()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

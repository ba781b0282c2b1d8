"""The authorizer process: wiring, start and stop. `python -m extauthz` runs it.

Everything is made here, once, and handed to who needs it; `async with` shows what lives how long. When this process is
away Envoy answers 503: there is no call without a decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from functools import partial

import structlog

from extauthz import transport
from extauthz.address import AddressRules
from extauthz.audit.edge_reader import EdgeLogReader
from extauthz.audit.flood import FloodGuard
from extauthz.audit.loss import Losses
from extauthz.audit.outcome import outcome_log_beside
from extauthz.audit.outcome_line import OutcomeLogReader
from extauthz.audit.outcome_log import OutcomeLog
from extauthz.audit.shipper import RecordShipper
from extauthz.audit.shipping import RESULTS, new_writer_id
from extauthz.audit.wal import AuditLog
from extauthz.authorizer_settings import AuthorizerSettings
from extauthz.check_server import make_check_server
from extauthz.credentials import CredentialSource
from extauthz.decision import Decider
from extauthz.discovery import DiscoveryClient, StagedResources, open_channel
from extauthz.door import Door
from extauthz.errors import ConfigurationError
from extauthz.grpcio_server import GrpcioServer
from extauthz.identity.jwks import KeySource
from extauthz.metrics_site import serving_metrics
from extauthz.observation import Observation, observe_audit, observe_shipping
from extauthz.outcome_service import OutcomeService
from extauthz.process import process_service
from extauthz.subscription import Subscription
from extauthz.telemetry.process import observe_node, running_telemetry

logger = structlog.get_logger(__name__)

STOP_GRACE_SECONDS = 2.0
TELLING_SECONDS = 0.3
"""Envoy tells in a moment how the last calls ended (`controlplane.xds.resources.access_log`)."""
SHIP_GRACE_SECONDS = 1.0


async def run(settings: AuthorizerSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    link = transport.LinkIdentity(
        cert_file=settings.tls_cert_file, key_file=settings.tls_key_file, ca_file=settings.tls_ca_file, insecure=settings.insecure
    )
    rules = AddressRules(settings.allowed_upstream_networks)
    async with (
        running_telemetry(settings, service="legation-authorizer", node_id=settings.node_id) as telemetry,
        serving_metrics(telemetry.metrics, settings, link),
        KeySource(rules) as key_source,
        CredentialSource(settings.secrets_dir, rules) as credentials,
    ):
        subscription = Subscription(
            key_source=key_source,
            cache_file=settings.cache_dir / "authorizer.json" if settings.cache_dir else None,
            max_staleness_seconds=settings.max_staleness_seconds,
        )
        audit = AuditLog(
            directory=settings.audit_dir,
            writer_id=new_writer_id(_node_id(settings)),
            max_bytes=settings.audit_max_bytes,
            sealing_key=subscription.audit_sealing_key,
        )
        audit.open()
        guard = FloodGuard(audit)
        losses = Losses(guard, audit)
        door = Door(gateway_url=settings.gateway_url, extra_hosts=settings.gateway_hosts, allowed_origins=settings.allowed_origins)
        decider = Decider(
            state=subscription,
            door=door,
            credentials=credentials,
            audit=losses,
            timeout_ms=settings.check_timeout_ms,
            session_max_age_seconds=settings.session_max_age_seconds,
            observation=Observation(telemetry) if telemetry.metrics is not None else None,
        )
        server = make_check_server(settings.check_server, settings.listen, link, decider)
        audit.follow(server)
        outcomes = OutcomeLog(audit)
        outcome_service = OutcomeService(outcomes)
        processor = GrpcioServer(
            settings.processor_listen,
            "LEGATION_PROCESSOR_LISTEN",
            link,
            lambda require_envoy: process_service(subscription, require_envoy=require_envoy),
            lambda require_envoy: outcome_service.handler(require_envoy=require_envoy),
        )
        keeper = LastGoodKeeper(subscription)
        discovery = DiscoveryClient(
            address=settings.xds_address,
            node_id=settings.node_id,
            on_revision=keeper.take,
            credentials=link.channel_credentials(settings.xds_address),
            initial=subscription.read_last_good(),
        )
        shipper = RecordShipper(
            directory=settings.audit_dir,
            node_id=settings.node_id,
            open_channel=partial(open_channel, settings.xds_address, link.channel_credentials(settings.xds_address)),
            durable_end=audit.durable_end,
        )
        subscription.watch_connection(lambda: discovery.connected)
        if telemetry.metrics is not None:
            observe_audit(telemetry.metrics, audit, losses)
            observe_shipping(telemetry.metrics, audit, shipper)
            observe_node(telemetry.metrics, discovery)
        await processor.start()
        await server.start()
        logger.info("authorizer listening", address=settings.listen, node=settings.node_id)
        tasks = [asyncio.create_task(part.run()) for part in (discovery, keeper, guard, losses)]
        shipping = asyncio.create_task(shipper.run())
        if settings.edge_log_file is not None:
            edge = EdgeLogReader(file=settings.edge_log_file, position_file=settings.audit_dir / "edge-position.json", log=audit)
            ended = OutcomeLogReader(
                file=outcome_log_beside(settings.edge_log_file),
                position_file=settings.audit_dir / "outcome-position.json",
                log=audit,
                outcomes=outcomes,
            )
            tasks.extend(asyncio.create_task(reader.run()) for reader in (edge, ended))
        await stop.wait()
        await server.stop(STOP_GRACE_SECONDS)
        await asyncio.sleep(TELLING_SECONDS)
        outcome_service.leave()
        await processor.stop(STOP_GRACE_SECONDS)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await guard.flush()
        await losses.flush()
        audit.close()
        await shipper.finish(SHIP_GRACE_SECONDS)  # what is not taken by then is sent when this process is back
        shipping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await shipping


class LastGoodKeeper:
    """Hands each revision to the subscription and keeps a copy on disk, at most once per `interval_seconds`, off the event loop."""

    def __init__(self, subscription: Subscription, *, interval_seconds: float = 1.0) -> None:
        self._subscription = subscription
        self._interval_seconds = interval_seconds
        self._newest: tuple[StagedResources, int] | None = None
        self._changed = asyncio.Event()

    def take(self, resources: StagedResources, revision: int) -> None:
        """Swap to the revision; raises when it cannot be built."""
        self._subscription.take(resources, revision)
        self._newest = (resources, revision)
        self._changed.set()

    async def run(self) -> None:
        """Write the newest copy whenever there is one, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._newest is not None:
                try:
                    await asyncio.to_thread(self._subscription.write_last_good, *self._newest)
                except OSError as error:
                    logger.warning("last good copy not written", error=str(error))
            await asyncio.sleep(self._interval_seconds)


def _node_id(settings: AuthorizerSettings) -> str:
    """Raises `ConfigurationError` for one whose log nobody would ship."""
    if settings.node_id.startswith(RESULTS):
        raise ConfigurationError(f"LEGATION_NODE_ID: an authorizer's name must not begin with {RESULTS}, as logs of aggregators do")
    return settings.node_id

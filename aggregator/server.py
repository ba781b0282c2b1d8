"""The aggregator process: wiring, start and stop. `python -m aggregator` runs it.

    discovery ──▶ Subscription ──▶ AggregatorState ──▶ `application` answers Envoy's lane `aggregate`
                                                          ├──▶ upstream ──▶ Envoy's egress listener ──▶ members
                                                          └──▶ recording ──▶ write-ahead log ──▶ the control plane

When this process is away Envoy answers 503 on that lane; calls that go to an MCP server directly go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal

import structlog

from aggregator.application import make_application
from aggregator.endpoint import Endpoint
from aggregator.observation import Observation
from aggregator.record_log import running_record_log
from aggregator.recording import Recording
from aggregator.search.sentence_model import read_sentence_model
from aggregator.settings import AggregatorSettings
from aggregator.subscription import Subscription
from aggregator.upstream.bridge import Bridge
from extauthz.discovery import AGGREGATOR_TYPES, DiscoveryClient
from extauthz.http_site import serving
from extauthz.metrics_site import serving_metrics
from extauthz.telemetry.process import observe_node, running_telemetry
from extauthz.transport import LinkIdentity

logger = structlog.get_logger(__name__)

NODE_KIND = "aggregator"


async def run(settings: AggregatorSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    link = LinkIdentity(
        cert_file=settings.tls_cert_file, key_file=settings.tls_key_file, ca_file=settings.tls_ca_file, insecure=settings.insecure
    )
    model = None if settings.search_model is None else await asyncio.to_thread(read_sentence_model, settings.search_model)
    subscription = Subscription()
    discovery = DiscoveryClient(
        address=settings.xds_address,
        node_id=settings.node_id,
        node_kind=NODE_KIND,
        type_urls=AGGREGATOR_TYPES,
        on_revision=subscription.take,
        credentials=link.channel_credentials(settings.xds_address),
    )
    async with contextlib.AsyncExitStack() as parts:
        upstream = await parts.enter_async_context(
            Bridge(egress_address=settings.egress_address, ssl_context=link.client_ssl_context(settings.egress_address))
        )
        telemetry = await parts.enter_async_context(running_telemetry(settings, service="legation-aggregator", node_id=settings.node_id))
        await parts.enter_async_context(serving_metrics(telemetry.metrics, settings, link))
        observation = Observation(telemetry) if telemetry.metrics is not None else None
        losses = await parts.enter_async_context(running_record_log(settings, link, telemetry.metrics, subscription.audit_sealing_key))
        endpoint = Endpoint(
            subscription=subscription,
            upstream=upstream,
            recording=Recording(losses),
            max_session_seconds=settings.session_max_age_seconds,
            observation=observation,
            search_model=model,
        )
        application = make_application(subscription=subscription, endpoint=endpoint)
        if telemetry.metrics is not None and observation is not None:
            application.middlewares.append(observation.observing)
            observe_node(telemetry.metrics, discovery)
        site = serving(application, settings.listen, "LEGATION_AGGREGATOR_LISTEN", link, handler_cancellation=True)
        await parts.enter_async_context(site)
        logger.info("aggregator listening", address=settings.listen, node=settings.node_id)
        following = asyncio.create_task(discovery.run())
        await stop.wait()
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following

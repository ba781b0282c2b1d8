"""The aggregator process: wiring, start and stop. `python -m aggregator` runs it.

    discovery ──▶ Subscription ──▶ AggregatorState ──▶ `application` answers Envoy's lane `aggregate`
                                                          └──▶ upstream ──▶ Envoy's egress listener ──▶ members

When this process is away Envoy answers 503 on that lane; calls that go to an MCP server directly go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from aiohttp import web

from aggregator.application import make_application
from aggregator.endpoint import Endpoint
from aggregator.settings import AggregatorSettings
from aggregator.subscription import Subscription
from aggregator.upstream.bridge import Bridge
from extauthz.discovery import AGGREGATOR_TYPES, DiscoveryClient
from extauthz.errors import ConfigurationError
from extauthz.transport import LinkIdentity, parse_link_address

logger = structlog.get_logger(__name__)

NODE_KIND = "aggregator"
STOP_GRACE_SECONDS = 2.0
MAX_HEAD_BYTES = 64 * 1024
"""Of a line of a request's head; Envoy takes no more for all of them (`max_request_headers_kb`)."""


async def run(settings: AggregatorSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    link = LinkIdentity(
        cert_file=settings.tls_cert_file, key_file=settings.tls_key_file, ca_file=settings.tls_ca_file, insecure=settings.insecure
    )
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
        endpoint = Endpoint(subscription=subscription, upstream=upstream, max_session_seconds=settings.session_max_age_seconds)
        await parts.enter_async_context(serving(make_application(subscription=subscription, endpoint=endpoint), settings.listen, link))
        logger.info("aggregator listening", address=settings.listen, node=settings.node_id)
        following = asyncio.create_task(discovery.run())
        await stop.wait()
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


@contextlib.asynccontextmanager
async def serving(application: web.Application, listen: str, link: LinkIdentity) -> AsyncIterator[None]:
    """The application, listening; on TCP with TLS every client must show Envoy's certificate, of our authority."""
    address = parse_link_address(listen)
    ssl_context = link.server_ssl_context(listen)
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,  # a client that goes away ends what it asked for
        shutdown_timeout=STOP_GRACE_SECONDS,
        max_line_size=MAX_HEAD_BYTES,
        max_field_size=MAX_HEAD_BYTES,
    )
    await runner.setup()
    try:
        site: web.BaseSite
        if address.is_unix:
            Path(address.path).unlink(missing_ok=True)  # noqa: ASYNC240 - once, at the start
            site = web.UnixSite(runner, address.path)
        else:
            site = web.TCPSite(runner, address.host, address.port, ssl_context=ssl_context)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(f"LEGATION_AGGREGATOR_LISTEN: cannot listen on {listen}: {os.strerror(error.errno or 0)}") from error
        if address.is_unix:
            Path(address.path).chmod(0o600)  # noqa: ASYNC240 - its directory is private already
        yield
    finally:
        await runner.cleanup()

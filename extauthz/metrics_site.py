"""Where Prometheus reads the metrics of a process: `GET /metrics` at `LEGATION_METRICS_LISTEN`.

Who may read: on a Unix socket this user; on the loopback whoever is on this machine; elsewhere whoever shows a certificate of our
authority. Metrics name namespaces, servers and tools, never callers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from ipaddress import ip_address

from extauthz.telemetry.exposition import CONTENT_TYPE, write_exposition
from extauthz.telemetry.metric import MetricRegistry
from extauthz.telemetry.settings import TelemetrySettings
from extauthz.transport import LinkIdentity, parse_link_address

SETTING = "LEGATION_METRICS_LISTEN"
PATH = "/metrics"


@contextlib.asynccontextmanager
async def serving_metrics(metrics: MetricRegistry | None, settings: TelemetrySettings, link: LinkIdentity) -> AsyncIterator[None]:
    """Answers until its block ends; does nothing where no address is set. Raises `ConfigurationError` when it cannot listen."""
    if metrics is None or not settings.metrics_listen:
        yield
        return

    # the authorizer does without an HTTP server otherwise
    from aiohttp import web  # noqa: PLC0415

    from extauthz.http_site import serving  # noqa: PLC0415

    async def answer(_request: web.Request) -> web.Response:
        written = await asyncio.to_thread(write_exposition, metrics.samples())  # thousands of lines; calls go on meanwhile
        return web.Response(body=written.encode(), headers={"content-type": CONTENT_TYPE})

    application = web.Application(client_max_size=0)
    application.router.add_get(PATH, answer)
    async with serving(application, settings.metrics_listen, SETTING, None if is_loopback(settings.metrics_listen) else link):
        yield


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the address; a name is not looked up. Raises `ConfigurationError`."""
    link = parse_link_address(address)
    if link.is_unix:
        return False
    try:
        return ip_address(link.host).is_loopback
    except ValueError:
        return link.host == "localhost"

"""An HTTP application of ours, listening: a Unix socket that is this user's alone, or TCP, whose clients must show a certificate.

Who of those that have one may connect is up to the application; `grpcio_server` is the same for gRPC.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from extauthz.errors import ConfigurationError
from extauthz.transport import LinkIdentity, parse_link_address

STOP_GRACE_SECONDS = 2.0
MAX_HEAD_BYTES = 64 * 1024
"""Of a line of a request's head; Envoy takes no more for all of them (`max_request_headers_kb`). What is refused here, by aiohttp itself,
stands in the log in part."""


@contextlib.asynccontextmanager
async def serving(
    application: web.Application, listen: str, setting: str, link: LinkIdentity | None, *, handler_cancellation: bool = False
) -> AsyncIterator[None]:
    """Serves until its block ends. `setting` names `listen` in errors; with `handler_cancellation` a client that goes away ends what it
    asked for. Without a `link` there is no TLS: what anybody on this machine may read. Raises `ConfigurationError` where it cannot
    listen."""
    address = parse_link_address(listen)
    ssl_context = link.server_ssl_context(listen) if link is not None else None
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        handler_cancellation=handler_cancellation,
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
            raise ConfigurationError(f"{setting}: cannot listen on {listen}: {os.strerror(error.errno or 0)}") from error
        if address.is_unix:
            Path(address.path).chmod(0o600)  # noqa: ASYNC240 - its directory is private already
        yield
    finally:
        await runner.cleanup()

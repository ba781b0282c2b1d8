"""Logs for operators: one line of JSON (or of text) on standard error per event; the audit is something else.

A successful call is not logged. Keys that may hold a secret are redacted by name, bytes by type.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from extauthz.errors import ConfigurationError
from extauthz.telemetry.span import current

_SECRET_KEYS = frozenset({"authorization", "access_token", "token", "client_secret", "secret", "password", "private_jwk", "cookie"})


def configure_logging(level: str, log_format: str) -> None:
    """Send structlog's and the standard library's events to standard error; called once by a process' main function."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigurationError(f"LEGATION_LOG_LEVEL must be debug, info, warning or error, got {level!r}")
    if log_format not in {"json", "console"}:
        raise ConfigurationError(f"LEGATION_LOG_FORMAT must be json or console, got {log_format!r}")
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)


def _name_trace(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = current.get()
    if context is not None:
        event["trace_id"], event["span_id"] = context.trace_id, context.span_id
    return event


def _redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key in _SECRET_KEYS or isinstance(value, bytes):
            event[key] = "[redacted]"
    return event

"""Log lines on their way to the receiver of OTLP: as they stand in the log, redacted there already. Imported only where they are sent."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from extauthz.telemetry.delivery import Delivery
from extauthz.telemetry.otlp import LogLine
from extauthz.telemetry.span import current

_SEVERITIES = ((logging.CRITICAL, 21), (logging.ERROR, 17), (logging.WARNING, 13), (logging.INFO, 9), (logging.NOTSET, 5))


class LogHandler(logging.Handler):
    """Puts each line into the delivery; never waits, never fails."""

    def __init__(self, delivery: Delivery) -> None:
        super().__init__()
        self._delivery = delivery

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        try:
            severity = next(number for level, number in _SEVERITIES if record.levelno >= level)
            at_ns = int(record.created * 1_000_000_000)
            self._delivery.put_line(LogLine(at_ns, severity, record.levelname.lower(), self.format(record), current.get()))
        except Exception:  # noqa: BLE001 - as logging wants it
            self.handleError(record)


@contextlib.contextmanager
def sending_logs(delivery: Delivery) -> Iterator[None]:
    """While the block runs, what is logged goes to `delivery` too, in the same words (`extauthz.log` has set the format)."""
    root, handler = logging.getLogger(), LogHandler(delivery)
    if root.handlers:
        handler.setFormatter(root.handlers[0].formatter)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)

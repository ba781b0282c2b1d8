"""Reads what authorizers wrote, in the order of their writing: newest at the end, by an opaque cursor.

Only whole frames with a right checksum are records; a torn tail is what a crash left and is not one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

from extauthz.audit.frames import SUFFIX, read_frames
from extauthz.audit.record import record_to_json

Position = dict[str, int]  # file name -> offset of the first byte not yet read
Filter = Callable[[dict[str, object]], bool]


class AuditReader:
    """Reads the audit directory of one machine; holds nothing between calls."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, *, after: str, limit: int, matches: Filter | None = None) -> tuple[list[dict[str, object]], str]:
        """Up to `limit` records in order of time, and the cursor behind them.

        With an empty `after` these are the newest ones; with a cursor they are the next ones after it, oldest first.
        Raises ValueError for a cursor that is not one.
        """
        position = _decode_cursor(after) if after else {}
        found: list[dict[str, object]] = []
        for name, start in self._files(position):
            offset = start
            for frame in read_frames(self._directory / name, start):
                offset = frame.end
                if frame.is_key:
                    continue
                record = record_to_json(frame.payload)
                if matches is not None and not matches(record):
                    continue
                found.append(record)
                if after and len(found) >= limit:
                    break
                if not after and len(found) > 4 * limit:
                    found = _newest(found, limit)
            position[name] = offset
            if after and len(found) >= limit:
                break
        return _newest(found, limit), _encode_cursor(position)

    def _files(self, position: Position) -> list[tuple[str, int]]:
        if not self._directory.is_dir():
            return []
        names = sorted(path.name for path in self._directory.iterdir() if path.name.endswith(SUFFIX))
        return [(name, position.get(name, 0)) for name in names]


def _newest(records: list[dict[str, object]], limit: int) -> list[dict[str, object]]:
    return sorted(records, key=lambda record: str(record["at"]))[-limit:]


def _encode_cursor(position: Position) -> str:
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> Position:
    try:
        value = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError as error:
        raise ValueError("this is not a cursor of the audit log") from error
    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, int) and v >= 0 for k, v in value.items()):
        raise ValueError("this is not a cursor of the audit log")
    return value

"""Moments of the past, as options take them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_AGO = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class PastMoment(click.ParamType[str]):
    """A moment: RFC 3339 (2026-12-31T00:00:00Z), or how long ago it was (30d, 8h)."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401 - click's signature
        """RFC 3339, in UTC."""
        text = str(value)
        if found := _AGO.fullmatch(text):
            return (datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})).isoformat()
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            self.fail(
                f"{text!r} is neither a moment with its zone, such as 2026-12-31T00:00:00Z, nor how long ago it was, as 30d", param, ctx
            )
        return moment.astimezone(UTC).isoformat()

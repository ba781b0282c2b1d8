"""Where records are shipped to, and under which names: known to both sides."""

from __future__ import annotations

import re
import secrets
import time

RECORD_SERVICE = "legation.v1.RecordService"
SHIP_METHOD = f"/{RECORD_SERVICE}/Ship"
RESULTS = "results-"
"""How the names of aggregators' writers begin: under any other name nothing is taken from an aggregator."""

_MADE_NAME = re.compile(r"(.+)-[0-9]{13}-[0-9a-f]+(-[0-9]+)?", re.DOTALL)


def new_writer_id(node: str) -> str:
    """The name of a writer that begins now: `<node>-<milliseconds>-<random>`. Nobody can claim it before it is used: 64 bits are random."""
    return f"{node}-{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(8)}"


def node_of_writer(writer_id: str) -> str:
    """The node in the name of a writer, also of one that goes on for another (`…-2`); the whole of a name that was not made so."""
    made = _MADE_NAME.fullmatch(writer_id)
    return made[1] if made is not None else writer_id

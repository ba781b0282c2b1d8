"""Waiting until a revision is programmed, and saying so from the nodes' acknowledgements."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from controlplane.cli.terminal import working

if TYPE_CHECKING:
    from controlplane.client import ApiClient, JsonObject

WAIT_SECONDS = 10.0
_NODE_NAMES = {"envoy": "Envoy", "authorizer": "authorizer", "aggregator": "aggregator"}


def wait_until_programmed(api: ApiClient, revision: int) -> JsonObject:
    """The revision's rollout once it is complete, or as it is when the time is over."""
    deadline = time.monotonic() + WAIT_SECONDS
    with working(f"waiting until the nodes accept revision {revision}"):
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            rollout = api.get(f"/v1/revisions/{revision}", {"wait": f"{left:.1f}"}, timeout_seconds=left + 10)
            if rollout.get("complete") or time.monotonic() >= deadline:
                return rollout
            time.sleep(0.02)


def rollout_sentence(rollout: JsonObject) -> str:
    """`42 accepted by 1 of 1 Envoys, 1 of 1 authorizers`."""
    programmed = rollout.get("programmed") or {}
    counts = ", ".join(f"{acked} of {total} {_NODE_NAMES.get(kind, kind)}s" for kind, (acked, total) in programmed.items())
    return f"{rollout.get('revision')} accepted by {counts or 'no node: none is connected'}"


def refusals_of(rollout: JsonObject) -> list[str]:
    """One line for each node that does not serve the revision, with its NACK's message if it sent one."""
    lines: list[str] = []
    for node in rollout.get("nodes") or []:
        errors = [f"{kind.get('type_url', '')}: {kind['error']}" for kind in node.get("types") or [] if kind.get("error")]
        if errors or node.get("state") in {"NACK", "STALE"}:
            lines += [f"{node.get('id')} {node.get('state', '')} {error}".rstrip() for error in errors or [""]]
    return lines

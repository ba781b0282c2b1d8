"""Changes of what one caller is listed: told when a revision changed the caller's own view, and when a member's grace has run out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from aggregator.front import Front, Viewer
from aggregator.subscription import Subscription
from extauthz.catalog.virtual import DefinitionKind, Mode

LIST_CHANGED: Mapping[str, tuple[DefinitionKind, ...]] = {
    "tools": (DefinitionKind.TOOL,),
    "prompts": (DefinitionKind.PROMPT,),
    "resources": (DefinitionKind.RESOURCE, DefinitionKind.RESOURCE_TEMPLATE),
}
"""Which lists a `notifications/<name>/list_changed` is about."""
SETTLE_SECONDS = 0.2
"""Revisions come in bursts: one look for all of them."""
LOOK_SECONDS = 30.0

FrontOf = Callable[[], Front | None]


async def watch(
    subscription: Subscription, front_of: FrontOf, viewer: Viewer, names: Collection[str], changed: Callable[[str], Awaitable[None]]
) -> None:
    """Tell of each list of `names` that changes for the viewer; returns when the front is no more."""
    state = subscription.current()
    front = front_of()
    known = _digests(front, viewer, names) if front is not None else {}
    while front is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                state = await subscription.wait(state)
                await asyncio.sleep(SETTLE_SECONDS)
        state = subscription.current()
        before, front = front, front_of()
        if front is None:
            return
        if not front.same_for(before) or front.outcomes(viewer, time.time()):
            now = _digests(front, viewer, names)
            for name in [name for name in names if now[name] != known.get(name)]:
                await changed(name)
            known = now


def _digests(front: Front, viewer: Viewer, names: Collection[str]) -> dict[str, tuple[bytes, ...]]:
    """Of a virtual server that offers only to search, the list of tools never changes."""
    outcomes = front.outcomes(viewer, time.time())
    fixed = {"tools"} if front.virtual_server.mode is Mode.SEARCH else set()
    return {
        name: () if name in fixed else tuple(front.view(kind, viewer, outcomes).digest for kind in LIST_CHANGED[name]) for name in names
    }

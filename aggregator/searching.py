"""Virtual servers in mode `search`: their two tools, listed instead of everything, and `find_tool` answered from memory.

`call_tool` is no tool of anybody: it stands for the named one, and goes on as a call of that (`calling`).

Where a sentence model is set, the vectors of definitions are computed in a thread, a few at a time. Nobody waits for them: until all of a
virtual server are there it is searched by words alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import structlog

from aggregator.call import Json
from aggregator.documents import Documents
from aggregator.front import Front, Viewer
from aggregator.listing import refuse_if_strict
from aggregator.search.index import Near, ToolIndex
from aggregator.search.nearness import Learned, Nearness
from aggregator.search.sentence_model import SentenceModel
from aggregator.search.tools import find_tool, make_index
from extauthz.catalog.server import Effect
from extauthz.catalog.virtual import DefinitionKind, Mode
from extauthz.mcp.era import Era
from extauthz.virtual_request import CALL_TOOL, FIND_TOOL

logger = structlog.get_logger(__name__)

LEARNED_AT_ONCE = 8
"""Tools in one go of the thread: a process that stops waits for no more."""


def is_search(front: Front, method: str, params: Json) -> bool:
    """Whether a request is answered by searching."""
    return _is_call_of(front, method, params, FIND_TOOL)


def is_found_call(front: Front, method: str, params: Json) -> bool:
    """Whether a request is a call of a tool that was found."""
    return _is_call_of(front, method, params, CALL_TOOL)


def _is_call_of(front: Front, method: str, params: Json, name: str) -> bool:
    return front.virtual_server.mode is Mode.SEARCH and method == "tools/call" and params.get("name") == name


class Searching:
    """The indexes of the virtual servers that are searched. One belongs to the definitions of a virtual server, and goes with them."""

    def __init__(self, model: SentenceModel | None = None) -> None:
        self._indexes: WeakKeyDictionary[Documents, asyncio.Task[ToolIndex]] = WeakKeyDictionary()
        self._nearness = None if model is None else Nearness(model)
        self._learned: WeakKeyDictionary[Documents, asyncio.Task[Learned | None]] = WeakKeyDictionary()
        self._learning = asyncio.Lock()

    async def find(self, front: Front, viewer: Viewer, params: Json, *, era: Era, now_unix: float) -> dict[str, Any]:
        """The result of `find_tool`: of what this caller would be listed, and of nothing else."""
        outcomes = front.outcomes(viewer, now_unix)
        refuse_if_strict(front, outcomes)
        index = await self._index(front)
        shown = front.shown(DefinitionKind.TOOL, viewer, outcomes)
        servers = front.state.authorization.mcp_servers
        effects: Mapping[str, Effect] = {e.name: servers[e.mcp_server_id].tools[e.own_name].effect for e in shown}
        documents, near = front.documents.of(DefinitionKind.TOOL), self._near(front, index)
        if near is None:
            result = find_tool(index, documents, effects, params.get("arguments"))
        else:
            result = await asyncio.to_thread(find_tool, index, documents, effects, params.get("arguments"), near)
        return {"resultType": "complete", **result} if era is Era.MODERN else result

    async def _index(self, front: Front) -> ToolIndex:
        """Made in a thread, once for all who ask meanwhile: thousands of tools take a moment."""
        task = self._indexes.get(front.documents)
        if task is None or task.cancelled() or (task.done() and task.exception() is not None):
            servers = {name: e.mcp_server_id for name, e in front.virtual_server.items[DefinitionKind.TOOL].items()}
            made = asyncio.to_thread(make_index, front.documents.of(DefinitionKind.TOOL), servers)
            task = self._indexes[front.documents] = asyncio.create_task(made)
        return await asyncio.shield(task)

    def _near(self, front: Front, index: ToolIndex) -> Near | None:
        """What the sentence model knows of these definitions; None without a model, and until it has read them."""
        if self._nearness is None:
            return None
        task = self._learned.get(front.documents)
        if task is None or task.cancelled():
            task = self._learned[front.documents] = asyncio.create_task(self._learn(self._nearness, index))
        learned = task.result() if task.done() else None
        return None if learned is None else partial(_near_or_nothing, self._nearness, learned)

    async def _learn(self, nearness: Nearness, index: ToolIndex) -> Learned | None:
        """One virtual server after the other. None where the model failed."""
        learned: dict[str, Any] = {}
        async with self._learning:
            try:
                for begin in range(0, len(index), LEARNED_AT_ONCE):
                    learned |= await asyncio.to_thread(nearness.learn, index.tools[begin : begin + LEARNED_AT_ONCE])
            except Exception as error:  # noqa: BLE001 - a failure of any kind leaves words
                logger.error("search model failed", error=type(error).__name__, until="definitions change")
                return None
        return learned


def _near_or_nothing(nearness: Nearness, learned: Learned, query: str, names: Collection[str]) -> Mapping[str, float]:
    """A model that fails leaves the ranking by words. What was asked is not logged."""
    try:
        return nearness.of(learned, query, names)
    except Exception as error:  # noqa: BLE001 - as above
        logger.error("search model failed", error=type(error).__name__, until="this request")
        return {}

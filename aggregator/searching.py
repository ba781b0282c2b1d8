"""Virtual servers in mode `search`: their two tools, listed instead of everything, and `find_tool` answered from memory.

`call_tool` is no tool of anybody: it stands for the named one, and goes on as a call of that (`calling`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from aggregator.call import Json
from aggregator.documents import Documents
from aggregator.front import Front, Viewer
from aggregator.listing import refuse_if_strict
from aggregator.search.index import ToolIndex
from aggregator.search.tools import find_tool, make_index
from extauthz.catalog.server import Effect
from extauthz.catalog.virtual import DefinitionKind, Mode
from extauthz.mcp.era import Era
from extauthz.virtual_request import CALL_TOOL, FIND_TOOL


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

    def __init__(self) -> None:
        self._indexes: WeakKeyDictionary[Documents, asyncio.Task[ToolIndex]] = WeakKeyDictionary()

    async def find(self, front: Front, viewer: Viewer, params: Json, *, era: Era, now_unix: float) -> dict[str, Any]:
        """The result of `find_tool`: of what this caller would be listed, and of nothing else."""
        outcomes = front.outcomes(viewer, now_unix)
        refuse_if_strict(front, outcomes)
        index = await self._index(front)
        shown = front.shown(DefinitionKind.TOOL, viewer, outcomes)
        servers = front.state.authorization.mcp_servers
        effects: Mapping[str, Effect] = {e.name: servers[e.mcp_server_id].tools[e.own_name].effect for e in shown}
        result = find_tool(index, front.documents.of(DefinitionKind.TOOL), effects, params.get("arguments"))
        return {"resultType": "complete", **result} if era is Era.MODERN else result

    async def _index(self, front: Front) -> ToolIndex:
        """Made in a thread, once for all who ask meanwhile: thousands of tools take a moment."""
        task = self._indexes.get(front.documents)
        if task is None or task.cancelled() or (task.done() and task.exception() is not None):
            servers = {name: e.mcp_server_id for name, e in front.virtual_server.items[DefinitionKind.TOOL].items()}
            made = asyncio.to_thread(make_index, front.documents.of(DefinitionKind.TOOL), servers)
            task = self._indexes[front.documents] = asyncio.create_task(made)
        return await asyncio.shield(task)

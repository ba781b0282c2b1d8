"""What was worked out about virtual servers at one revision, so that further pages of a list are free.

effective_view ──▶ Views, a part of `state.AuthorizationState` ──▶ gone with the revision
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final

from extauthz.catalog.virtual import VirtualServer

_KEPT_VIEWS: Final = 1024


class Views:
    """The newest thousand values, each of one very virtual server: an equal one made elsewhere has its own."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[VirtualServer, Any]] = OrderedDict()

    def get(self, virtual_server: VirtualServer, key: Hashable) -> Any:  # noqa: ANN401 - what was put there
        """What is kept under this key, or None."""
        full_key = (virtual_server.uid, key)
        found = self._kept.get(full_key)
        if found is None or found[0] is not virtual_server:
            return None
        self._kept.move_to_end(full_key)
        return found[1]

    def put(self, virtual_server: VirtualServer, key: Hashable, value: object) -> None:
        """Keep it."""
        self._kept[virtual_server.uid, key] = (virtual_server, value)
        if len(self._kept) > _KEPT_VIEWS:
            self._kept.popitem(last=False)

"""The two eras of MCP and what may be said in each: protocol versions and the table of methods.

"modern" is 2026-07-28 (stateless), "legacy" is the `initialize` era. A method that is not in the table is refused; `tasks/list`
is not in it, since its answer names everybody's tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from extauthz.mcp.jsonrpc import MessageClass
from extauthz.policy.model import Action, ResourceKind


class Era(StrEnum):
    """Which rules a message follows."""

    MODERN = "modern"
    LEGACY = "legacy"


MODERN_VERSIONS = ("2026-07-28",)
LEGACY_VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
SUPPORTED_VERSIONS = (*LEGACY_VERSIONS, *MODERN_VERSIONS)


class Scope(StrEnum):
    """What is decided about a method."""

    SERVER = "server"  # needs only that the server exists for the caller: handshake and lists
    TOOL = "tool"  # names a tool in params.name
    PROMPT = "prompt"  # names a prompt in params.name
    MCP_RESOURCE = "mcp_resource"  # names a resource in params.uri
    COMPLETION = "completion"  # names a prompt or a resource template in params.ref
    SUBSCRIPTIONS = "subscriptions"  # may name resources and tasks in params.notifications
    TASK = "task"  # names a task in params.taskId: needs a permit of its own, since nothing shows whose task it is


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRule:
    """How one method is treated. `prober` methods are those that the catalog prober may use, about the server as a whole only."""

    message_class: MessageClass
    eras: frozenset[Era]
    scope: Scope
    action: Action
    prober: bool = False

    @property
    def resource_kind(self) -> ResourceKind:
        return _KIND_OF_SCOPE.get(self.scope, ResourceKind.MCP_SERVER)


_KIND_OF_SCOPE = {Scope.TOOL: ResourceKind.TOOL, Scope.PROMPT: ResourceKind.PROMPT, Scope.MCP_RESOURCE: ResourceKind.MCP_RESOURCE}
_BOTH = frozenset(Era)
_LEGACY = frozenset({Era.LEGACY})
_MODERN = frozenset({Era.MODERN})


def _request(eras: frozenset[Era], scope: Scope, action: Action, *, prober: bool = False) -> MethodRule:
    return MethodRule(message_class=MessageClass.REQUEST, eras=eras, scope=scope, action=action, prober=prober)


def _notification(eras: frozenset[Era], *, prober: bool = False) -> MethodRule:
    return MethodRule(message_class=MessageClass.NOTIFICATION, eras=eras, scope=Scope.SERVER, action=Action.SERVER_CONNECT, prober=prober)


METHODS: Mapping[str, MethodRule] = {
    "initialize": _request(_LEGACY, Scope.SERVER, Action.SERVER_CONNECT, prober=True),
    "ping": _request(_LEGACY, Scope.SERVER, Action.SERVER_CONNECT, prober=True),
    "server/discover": _request(_MODERN, Scope.SERVER, Action.SERVER_CONNECT, prober=True),
    "tools/list": _request(_BOTH, Scope.SERVER, Action.TOOLS_LIST, prober=True),
    "tools/call": _request(_BOTH, Scope.TOOL, Action.TOOLS_CALL),
    "prompts/list": _request(_BOTH, Scope.SERVER, Action.PROMPTS_LIST, prober=True),
    "prompts/get": _request(_BOTH, Scope.PROMPT, Action.PROMPTS_GET),
    "resources/list": _request(_BOTH, Scope.SERVER, Action.RESOURCES_LIST, prober=True),
    "resources/templates/list": _request(_BOTH, Scope.SERVER, Action.RESOURCES_LIST, prober=True),
    "resources/read": _request(_BOTH, Scope.MCP_RESOURCE, Action.RESOURCES_READ),
    "resources/subscribe": _request(_LEGACY, Scope.MCP_RESOURCE, Action.RESOURCES_READ),
    "resources/unsubscribe": _request(_LEGACY, Scope.MCP_RESOURCE, Action.RESOURCES_READ),
    "completion/complete": _request(_BOTH, Scope.COMPLETION, Action.PROMPTS_GET),
    "logging/setLevel": _request(_LEGACY, Scope.SERVER, Action.SERVER_CONNECT),
    "tasks/get": _request(_BOTH, Scope.TASK, Action.TASKS_GET),
    "tasks/result": _request(_LEGACY, Scope.TASK, Action.TASKS_GET),
    "tasks/update": _request(_MODERN, Scope.TASK, Action.TASKS_UPDATE),
    "tasks/cancel": _request(_BOTH, Scope.TASK, Action.TASKS_CANCEL),
    "subscriptions/listen": _request(_MODERN, Scope.SUBSCRIPTIONS, Action.SERVER_CONNECT, prober=True),  # to hear of changed lists only
    "notifications/initialized": _notification(_LEGACY, prober=True),
    "notifications/cancelled": _notification(_BOTH, prober=True),
    "notifications/progress": _notification(_LEGACY),
    "notifications/roots/list_changed": _notification(_LEGACY),
    "notifications/tasks/status": _notification(_LEGACY),  # of a task that the client runs for the server
}

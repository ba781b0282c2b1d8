"""Requests that go on to a member: which member, by which name of its own, with which arguments; and the way back of its names.

    params of the client ──▶ `make_call` ──▶ Call (own names, defaults filled in) ──▶ upstream
    result of the member ──▶ `Names.result` ──▶ names that the client knows

What is asked for must be offered here; whether this caller may is decided by authorizers, before this and once more at the egress.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aggregator.call import Call, Client, Json, RpcError
from aggregator.front import Front
from aggregator.handshake import META_SERVER_INFO, server_info
from aggregator.refusal import denied
from extauthz.catalog.server import McpServer
from extauthz.catalog.virtual import DefinitionKind, Exposed
from extauthz.mcp.jsonrpc import INVALID_PARAMS
from extauthz.mcp.mapped import parse_task_id, task_id_of

_META = "io.modelcontextprotocol/"
_OF_THE_REQUEST = frozenset(_META + name for name in ("protocolVersion", "clientCapabilities", "clientInfo", "logLevel"))
_RELATED_TASK = _META + "related-task"
_BY_URI = frozenset({"resources/read", "resources/subscribe", "resources/unsubscribe"})
_TASKS = frozenset({"tasks/get", "tasks/result", "tasks/update", "tasks/cancel"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a member calls its things, as clients of this front know them."""

    front: Front
    mcp_server_id: str

    def uri(self, own_uri: object) -> object:
        """A URI of the member."""
        return self.front.uris.exposed(self.mcp_server_id, own_uri) if isinstance(own_uri, str) else own_uri

    def task(self, own_id: object) -> object:
        """An id of a task of the member."""
        return task_id_of(self.mcp_server_id, own_id) if isinstance(own_id, str) else own_id

    def result(self, method: str, result: Json) -> Json:
        """A result, as far as it names resources and tasks."""
        if not self.front.is_virtual:
            return result
        mapped = self._with_task(dict(result))
        if isinstance(meta := mapped.get("_meta"), dict) and META_SERVER_INFO in meta:
            mapped["_meta"] = {**meta, META_SERVER_INFO: server_info(self.front)}
        match method:
            case "tools/call" | "tasks/result":
                mapped = self._with_content(mapped, "content")
            case "prompts/get" if isinstance(messages := mapped.get("messages"), list):
                mapped["messages"] = [self._message(message) for message in messages]
            case "resources/read" if isinstance(contents := mapped.get("contents"), list):
                mapped["contents"] = [self._with_uri(content) for content in contents]
            case "tasks/get" if isinstance(done := mapped.get("result"), dict):
                mapped["result"] = self.result("tools/call", done)
        return mapped

    def notification(self, method: str, params: Json) -> Json:
        """The same for what comes on the way."""
        if not self.front.is_virtual:
            return params
        mapped = self._with_task(dict(params))
        return self._with_uri(mapped) if method == "notifications/resources/updated" else mapped

    def _with_task(self, mapped: dict[str, Any]) -> dict[str, Any]:
        if "taskId" in mapped:
            mapped["taskId"] = self.task(mapped["taskId"])
        if isinstance(task := mapped.get("task"), dict) and "taskId" in task:
            mapped["task"] = {**task, "taskId": self.task(task["taskId"])}
        if isinstance(meta := mapped.get("_meta"), dict) and isinstance(related := meta.get(_RELATED_TASK), dict):
            mapped["_meta"] = {**meta, _RELATED_TASK: {**related, "taskId": self.task(related.get("taskId"))}}
        return mapped

    def _with_content(self, place: dict[str, Any], member: str) -> dict[str, Any]:
        if isinstance(content := place.get(member), list):
            return {**place, member: [self._block(block) for block in content]}
        return {**place, member: self._block(content)} if isinstance(content, dict) else place

    def _message(self, message: Any) -> Any:  # noqa: ANN401 - any JSON
        return self._with_content(message, "content") if isinstance(message, dict) else message

    def _block(self, block: Any) -> Any:  # noqa: ANN401 - any JSON
        if not isinstance(block, dict):
            return block
        if block.get("type") == "resource_link":
            return self._with_uri(block)
        if block.get("type") == "resource" and isinstance(resource := block.get("resource"), dict):
            return {**block, "resource": self._with_uri(resource)}
        return block

    def _with_uri(self, place: Any) -> Any:  # noqa: ANN401 - any JSON
        return {**place, "uri": self.uri(place["uri"])} if isinstance(place, dict) and "uri" in place else place


def make_call(front: Front, client: Client, method: str, params: Json) -> Call:
    """The member's request for a client's. Raises `RpcError` for what is not offered here."""
    own = _cleaned(params)
    match method:
        case "tools/call":
            return make_tool_call(front, client, own)
        case "prompts/get":
            exposed = _exposed(front, client, DefinitionKind.PROMPT, own.get("name"))
            return _call(front, client, exposed.mcp_server_id, method, {**own, "name": exposed.own_name})
        case "completion/complete":
            mcp_server_id, ref = _completed(front, client, own.get("ref"))
            return _call(front, client, mcp_server_id, method, {**own, "ref": ref})
        case _ if method in _BY_URI:
            mcp_server_id, uri = resource_of(front, client, own.get("uri"))
            return _call(front, client, mcp_server_id, method, {**own, "uri": uri})
        case _ if method in _TASKS:
            mcp_server_id, task_id = task_of(front, client, own.get("taskId"))
            return _call(front, client, mcp_server_id, method, {**own, "taskId": task_id})
    raise denied(client.context.decision_id)


def make_tool_call(front: Front, client: Client, params: Json) -> Call:
    """The call of a tool by the name that is offered here. Hidden arguments are ours to fill in, and nobody else's."""
    exposed = _exposed(front, client, DefinitionKind.TOOL, params.get("name"))
    own: dict[str, Any] = {**params, "name": exposed.own_name}
    arguments = params.get("arguments", {})
    given = arguments if isinstance(arguments, Mapping) else {}
    if taken := sorted(exposed.hidden & given.keys()):
        raise RpcError(INVALID_PARAMS, f"This tool has no argument {taken[0][:64]!r} here.", {"reason": "invalid_params"})
    if exposed.defaults:
        own["arguments"] = {**exposed.defaults, **given}
    call = _call(front, client, exposed.mcp_server_id, "tools/call", own)
    return Call(client=client, member=call.member, method=call.method, params=own, tool=call.member.tools.get(exposed.own_name))


def resource_of(front: Front, client: Client, uri: object) -> tuple[str, str]:
    """The member that a URI is of, and the member's own URI."""
    if not front.is_virtual:
        return front.id, _text(uri, "uri")
    found = front.uris.find(_text(uri, "uri"))
    if found is None:
        raise denied(client.context.decision_id)
    return found.mcp_server_id, found.own_uri


def task_of(front: Front, client: Client, task_id: object) -> tuple[str, str]:
    """The member that a task is of, and the member's own id."""
    if not front.is_virtual:
        return front.id, _text(task_id, "taskId")
    found = parse_task_id(_text(task_id, "taskId"))
    if found is None or front.member(found[0]) is None:
        raise denied(client.context.decision_id)
    return found


def _completed(front: Front, client: Client, ref: object) -> tuple[str, Json]:
    if not isinstance(ref, Mapping):
        raise RpcError(INVALID_PARAMS, "params.ref must be a ref/prompt or a ref/resource")
    if ref.get("type") == "ref/prompt":
        exposed = _exposed(front, client, DefinitionKind.PROMPT, ref.get("name"))
        return exposed.mcp_server_id, {**ref, "name": exposed.own_name}
    template = front.virtual_server.items[DefinitionKind.RESOURCE_TEMPLATE].get(str(ref.get("uri")))
    if template is not None:
        return template.mcp_server_id, {**ref, "uri": template.own_name}
    mcp_server_id, uri = resource_of(front, client, ref.get("uri"))
    return mcp_server_id, {**ref, "uri": uri}


def _exposed(front: Front, client: Client, kind: DefinitionKind, name: object) -> Exposed:
    exposed = front.virtual_server.items[kind].get(_text(name, "name"))
    if exposed is not None:
        return exposed
    if front.is_virtual:
        raise denied(client.context.decision_id)
    # a single server is asked for whatever authorizers let through
    return Exposed(kind=kind, name=_text(name, "name"), mcp_server_id=front.id, own_name=_text(name, "name"))


def _call(front: Front, client: Client, mcp_server_id: str, method: str, params: Json) -> Call:
    member: McpServer | None = front.member(mcp_server_id)
    if member is None:
        raise denied(client.context.decision_id)
    return Call(client=client, member=member, method=method, params=params)


def _cleaned(params: Json) -> dict[str, Any]:
    """Without what the client says of itself in a modern request: that is in `Client`."""
    meta = params.get("_meta")
    if not isinstance(meta, Mapping):
        return dict(params)
    kept = {name: value for name, value in meta.items() if name not in _OF_THE_REQUEST}
    rest = {name: value for name, value in params.items() if name != "_meta"}
    return {**rest, "_meta": kept} if kept else rest


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise RpcError(INVALID_PARAMS, f"{name} must be a string", {"reason": "invalid_params"})
    return value

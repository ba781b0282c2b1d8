"""One HTTP request on an MCP path, read strictly and once: what it asks, in which era, about which tool, prompt or resource.

`parse_request` is step (2) of `extauthz.decision`; nobody unauthenticated gets this far.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from extauthz.errors import MessageError, Reason
from extauthz.mcp import headers as mcp_headers
from extauthz.mcp.document import INVALID_REQUEST
from extauthz.mcp.era import METHODS, Era, MethodRule, Scope
from extauthz.mcp.headers import META_CAPABILITIES, HeaderMap
from extauthz.mcp.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Message, MessageClass, parse_message
from extauthz.mcp.uri import in_ascii, is_normal
from extauthz.policy.model import Action, ResourceKind

MAX_NAME_CHARACTERS = 2000
MAX_TARGETS = 32  # each is a decision of its own, in a row
MAX_INPUT_RESPONSES = 100
TASKS_EXTENSION = "io.modelcontextprotocol/tasks"
_JSON = re.compile(r'application/json[ \t]*(?:;[ \t]*(?:charset=("?)utf-?8\1[ \t]*)?)?', re.ASCII | re.IGNORECASE)
_TAKE_INPUT = frozenset({"tools/call", "prompts/get", "resources/read", "tasks/update"})  # may answer a server's `input_required`
_FLAGS_OF_SUBSCRIPTIONS = frozenset({"toolsListChanged", "promptsListChanged", "resourcesListChanged"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing that the message is about and that must be decided."""

    action: Action
    kind: ResourceKind
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpRequest:
    """What is asked. `targets` are all decided; every one must be allowed. `method` is "" for a response or a bare stream."""

    era: Era
    protocol_version: str
    method: str
    id_json: str = "null"
    message_class: MessageClass | None = None
    targets: tuple[Target, ...] = ()
    arguments: Mapping[str, object] = field(default_factory=dict, repr=False)
    has_arguments: bool = False
    prober_may: bool = False
    streaming: bool = False
    task_ids: tuple[str, ...] = ()
    may_begin_task: bool = False  # the caller takes a task for an answer
    traceparent: object = None  # what the client says of its own trace (`params._meta.traceparent`), for telemetry only

    @property
    def tool(self) -> str:
        return next((target.name for target in self.targets if target.kind is ResourceKind.TOOL), "")


def parse_request(http_method: str, headers: HeaderMap, body: bytes) -> McpRequest:
    """Read the request; raises `MessageError` for everything that is not exactly one acceptable MCP request."""
    mcp_headers.refuse_repeated(headers)
    if http_method == "POST":
        return _parse_post(headers, body)
    return _parse_bodiless(http_method, headers, body, mcp_headers.protocol_version(headers))


def _parse_post(headers: HeaderMap, body: bytes) -> McpRequest:
    _require_json(headers)
    message = parse_message(body)
    version = mcp_headers.protocol_version(headers, message.id_json)
    era = mcp_headers.era_of(version)
    mcp_headers.check_equality(message, headers, version)
    if message.message_class is MessageClass.RESPONSE:
        return _response(message, era, version, headers)
    rule = _rule_of(message, era)
    _check_input(message, era)
    arguments = _arguments(message, rule)
    targets = _targets(message, rule)
    return McpRequest(
        era=era,
        protocol_version=version,
        method=message.method,
        id_json=message.id_json,
        message_class=message.message_class,
        targets=targets,
        arguments=arguments if arguments is not None else {},
        has_arguments=arguments is not None,
        prober_may=rule.prober and len(targets) == 1,  # more of them: resources or tasks that a subscription names
        streaming=rule.scope is Scope.SUBSCRIPTIONS,
        task_ids=_task_ids(message, rule),
        may_begin_task=_may_begin_task(message),
        traceparent=meta.get("traceparent") if isinstance(meta := message.params.get("_meta"), dict) else None,
    )


def _parse_bodiless(http_method: str, headers: HeaderMap, body: bytes, version: str) -> McpRequest:
    if http_method not in {"GET", "DELETE"} or mcp_headers.era_of(version) is Era.MODERN:
        raise MessageError(
            Reason.HTTP_METHOD_REFUSED,
            f"{http_method[:16]} is not part of this protocol version; use POST",
            status=405,
            code=INVALID_REQUEST,
        )
    if body:
        raise MessageError(Reason.INVALID_REQUEST, f"a {http_method} request must not have a body", status=400, code=INVALID_REQUEST)
    if http_method == "DELETE" and not headers.get("mcp-session-id"):
        raise MessageError(
            Reason.INVALID_REQUEST, "DELETE ends a session and needs the header Mcp-Session-Id", status=400, code=INVALID_REQUEST
        )
    server = Target(action=Action.SERVER_CONNECT, kind=ResourceKind.MCP_SERVER)
    return McpRequest(
        era=Era.LEGACY, protocol_version=version, method="", targets=(server,), prober_may=True, streaming=http_method == "GET"
    )


def _require_json(headers: HeaderMap) -> None:
    encoding = headers.get("content-encoding", ("identity",))[0].strip().lower()
    if encoding not in {"", "identity"}:
        raise MessageError(Reason.CONTENT_ENCODING_REFUSED, "the body must not be compressed", status=415, code=INVALID_REQUEST)
    if not _JSON.fullmatch(headers.get("content-type", ("",))[0].strip(" \t")):
        raise MessageError(
            Reason.CONTENT_TYPE_REFUSED, "the header Content-Type must be application/json (UTF-8)", status=415, code=INVALID_REQUEST
        )


def _response(message: Message, era: Era, version: str, headers: HeaderMap) -> McpRequest:
    """A client's answer to a server's request: only within a legacy session, which shows whom the server had asked."""
    if era is Era.MODERN:
        raise MessageError(
            Reason.INVALID_REQUEST, "responses are not sent to servers in this protocol version", status=400, code=INVALID_REQUEST
        )
    if not headers.get("mcp-session-id"):
        raise MessageError(
            Reason.INVALID_REQUEST, "a response belongs to a session and needs the header Mcp-Session-Id", status=400, code=INVALID_REQUEST
        )
    server = Target(action=Action.SERVER_CONNECT, kind=ResourceKind.MCP_SERVER)
    return McpRequest(
        era=era, protocol_version=version, method="", id_json=message.id_json, message_class=MessageClass.RESPONSE, targets=(server,)
    )


def _rule_of(message: Message, era: Era) -> MethodRule:
    rule = METHODS.get(message.method)
    if rule is None or era not in rule.eras:
        status = 404 if era is Era.MODERN else 200
        raise MessageError(
            Reason.METHOD_UNKNOWN, "this method is not served", status=status, code=METHOD_NOT_FOUND, request_id_json=message.id_json
        )
    if rule.message_class is not message.message_class:
        wanted = "needs an id" if rule.message_class is MessageClass.REQUEST else "must not have an id"
        raise MessageError(
            Reason.INVALID_REQUEST, f"{message.method} {wanted}", status=400, code=INVALID_REQUEST, request_id_json=message.id_json
        )
    return rule


def _arguments(message: Message, rule: MethodRule) -> dict[str, object] | None:
    """The arguments of a tool, or of a prompt, which are texts: what some servers make of another value differs."""
    arguments = message.params.get("arguments")
    if arguments is None:
        return None
    if not isinstance(arguments, dict):
        raise _invalid_params(message, "params.arguments must be an object")
    if rule.scope is Scope.PROMPT and not all(isinstance(value, str) for value in arguments.values()):
        raise _invalid_params(message, "the arguments of a prompt must be strings")
    return arguments


def _check_input(message: Message, era: Era) -> None:
    """Answers to a server's `input_required` stand only where a server may have asked, and have the shape of answers."""
    present = message.params.keys() & {"inputResponses", "requestState"}
    if present and (era is Era.LEGACY or message.method not in _TAKE_INPUT):
        raise _invalid_params(message, "inputResponses and requestState are not part of this method")
    responses = message.params.get("inputResponses", {})
    if not isinstance(responses, dict) or len(responses) > MAX_INPUT_RESPONSES or not all(isinstance(r, dict) for r in responses.values()):
        raise _invalid_params(message, f"params.inputResponses must be an object of at most {MAX_INPUT_RESPONSES} objects")
    if not isinstance(message.params.get("requestState", ""), str):
        raise _invalid_params(message, "params.requestState must be a string")


def _targets(message: Message, rule: MethodRule) -> tuple[Target, ...]:
    if rule.scope in {Scope.TOOL, Scope.PROMPT}:
        return (Target(action=rule.action, kind=rule.resource_kind, name=_name(message, message.params, "name")),)
    if rule.scope is Scope.MCP_RESOURCE:
        return _resource_targets(message, message.params.get("uri"), rule.action)
    if rule.scope is Scope.COMPLETION:
        return (_completion_target(message),)
    server = Target(action=rule.action, kind=ResourceKind.MCP_SERVER)
    if rule.scope is Scope.TASK:
        _name(message, message.params, "taskId")
    if rule.scope is Scope.SUBSCRIPTIONS:
        return (server, *_subscribed(message))
    return (server,)


def _task_ids(message: Message, rule: MethodRule) -> tuple[str, ...]:
    """The tasks that the targets of the message are about; `_targets` has read them."""
    if rule.scope is Scope.TASK:
        return (str(message.params["taskId"]),)
    wanted = message.params.get("notifications") if rule.scope is Scope.SUBSCRIPTIONS else None
    tasks = wanted.get("taskIds") if isinstance(wanted, dict) else None
    return tuple(map(str, tasks)) if isinstance(tasks, list) else ()


def _may_begin_task(message: Message) -> bool:
    """Whether the caller asks for a task, or says that it can do with one (extension tasks)."""
    meta = message.params.get("_meta")
    capabilities = meta.get(META_CAPABILITIES) if isinstance(meta, dict) else None
    if "task" in message.params or not isinstance(capabilities, dict):
        return "task" in message.params
    extensions = capabilities.get("extensions")
    return "tasks" in capabilities or (isinstance(extensions, dict) and TASKS_EXTENSION in extensions)


def _name(message: Message, place: Mapping[str, object], member: str) -> str:
    name = place.get(member)
    if not isinstance(name, str) or not name or len(name) > MAX_NAME_CHARACTERS:
        raise _invalid_params(message, f"{member} must be a string of 1 to {MAX_NAME_CHARACTERS} characters")
    return name


def _completion_target(message: Message) -> Target:
    ref = message.params.get("ref")
    if isinstance(ref, dict) and "name" in ref and "uri" in ref:
        raise _invalid_params(message, "params.ref must hold a name or a uri, not both")
    if isinstance(ref, dict) and ref.get("type") == "ref/prompt":
        return Target(action=Action.PROMPTS_GET, kind=ResourceKind.PROMPT, name=_name(message, ref, "name"))
    if isinstance(ref, dict) and ref.get("type") == "ref/resource":
        return Target(action=Action.RESOURCES_READ, kind=ResourceKind.MCP_RESOURCE, name=_name(message, ref, "uri"))
    raise _invalid_params(message, "params.ref must be a ref/prompt or a ref/resource")


def _subscribed(message: Message) -> tuple[Target, ...]:
    """What a subscription names. Its filter is known member by member: an unknown one could name what nobody decided."""
    wanted = message.params.get("notifications", {})
    if not isinstance(wanted, dict) or wanted.keys() - _FLAGS_OF_SUBSCRIPTIONS - {"resourceSubscriptions", "taskIds"}:
        raise _invalid_params(message, "params.notifications must be an object of known members")
    if message.params.keys() & {"resourceSubscriptions", "taskIds", *_FLAGS_OF_SUBSCRIPTIONS}:
        raise _invalid_params(message, "what is subscribed to stands in params.notifications")
    uris = _listed(message, wanted, "resourceSubscriptions")
    targets = [target for uri in uris for target in _resource_targets(message, uri, Action.RESOURCES_READ)]
    tasks = _listed(message, wanted, "taskIds")
    if [_name(message, {"taskId": task}, "taskId") for task in tasks]:
        targets.append(Target(action=Action.TASKS_GET, kind=ResourceKind.MCP_SERVER))
    return tuple(targets)


def _listed(message: Message, place: Mapping[str, object], member: str) -> list[object]:
    listed = place.get(member, [])
    if not isinstance(listed, list) or len(listed) > MAX_TARGETS:
        raise _invalid_params(message, f"{member} must be a list of at most {MAX_TARGETS} texts")
    return listed


def _resource_targets(message: Message, uri: object, action: Action) -> tuple[Target, ...]:
    """What is decided about one URI: itself and, when it has letters outside ASCII, also the form that some servers make of it."""
    name = _name(message, {"uri": uri}, "uri")
    if not is_normal(name):
        raise _invalid_params(message, "uri must be an absolute URI in normal form: no upper case in scheme or host, no dot segments")
    return tuple(Target(action=action, kind=ResourceKind.MCP_RESOURCE, name=form) for form in dict.fromkeys((in_ascii(name), name)))


def _invalid_params(message: Message, sentence: str) -> MessageError:
    return MessageError(Reason.INVALID_PARAMS, sentence, status=400, code=INVALID_PARAMS, request_id_json=message.id_json)

"""The invariant: refused by us, or what every server executes is what we decided about.

Compared are method, what is named (tool, prompt, resource, completion, subscriptions) and the arguments, numbers in the number type
of the server; and each argument that a policy could read, which must be the very value that the server computes with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from extauthz.catalog.server import ArgumentType, McpServer, Tool
from extauthz.check_input import CheckInput
from extauthz.errors import MessageError
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.mcp.jsonrpc import MessageClass
from extauthz.mcp.request import McpRequest, parse_request
from extauthz.passage import make_passage
from extauthz.policy.arguments import UnreadableArgumentError, typed_arguments
from extauthz.policy.compiled import Reads
from extauthz.policy.model import Action, AuthorizationRequest, Caller, ResourceKind
from tests.fuzz.readers import Executed, Reader
from tests.fuzz.sent import Sent

DECLARED = MappingProxyType(
    {
        "amount": ArgumentType.LONG,
        "ratio": ArgumentType.DECIMAL,
        "owner": ArgumentType.STRING,
        "dry": ArgumentType.BOOL,
        "labels": ArgumentType.STRING_SET,
    }
)
_ZERO: Mapping[str, object] = MappingProxyType({"amount": 0, "ratio": 0, "owner": "", "dry": False, "labels": None})
_ANYBODY = Principal(kind=PrincipalKind.USER, id="local/ann", provider="local", subject="ann", issuer="https://issuer.example")
_NAMED = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
}
_SERVER = McpServer(uid="u", namespace="demo", name="crm", cluster="c", path="/mcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A request that our gate lets through: how we understood it, and what the server gets."""

    ours: McpRequest
    upstream: Sent


def gate(sent: Sent) -> Passed | None:
    """What passes; None for a refusal. Any other exception than a refusal is a fault of ours."""
    headers = sent.header_map()
    try:
        ours = parse_request(sent.method, headers, sent.body)
    except MessageError:
        return None
    check = CheckInput(
        listener="ingress", http_method=sent.method, path="/servers/demo/crm/mcp", host="gw", headers=headers, body=sent.body
    )
    removed = make_passage(check, _SERVER, None, ours, []).remove_headers
    kept = tuple(pair for pair in sent.headers if pair[0].lower() not in removed)
    return Passed(ours=ours, upstream=Sent(method=sent.method, headers=kept, body=sent.body))


def disagreements(passed: Passed, reader: Reader, executed: Executed) -> Iterator[str]:
    """How a server's reading differs from ours, in words; nothing when it does not."""
    ours = passed.ours
    for call in executed:
        method, params = call["method"], call["params"] or {}
        if method != ours.method:
            if (reader.name, method, ours.method) != ("python-2", "tools/list", "tools/call"):  # it looks up the tool's schema by itself
                yield f"executes {method!r} instead of {ours.method!r}"
            continue
        if ours.message_class is MessageClass.REQUEST:
            yield from _differences(ours, params, reader)
        if "typed" in call:
            yield from _typed_differences(ours, call["typed"])


def _differences(ours: McpRequest, params: Mapping[str, Any], reader: Reader) -> Iterator[str]:
    named = [target.name for target in ours.targets if target.kind is not ResourceKind.MCP_SERVER]
    if (member := _NAMED.get(ours.method)) is not None and params.get(member) not in named:
        yield f"{member} is {params.get(member)!r} instead of {named!r}"
    if ours.method == "completion/complete":
        ref = params.get("ref", {})
        kind = {"ref/prompt": ResourceKind.PROMPT, "ref/resource": ResourceKind.MCP_RESOURCE}.get(ref.get("type"))
        theirs = ref.get("uri") if kind is ResourceKind.MCP_RESOURCE else ref.get("name")
        if [(target.kind, target.name) for target in ours.targets] != [(kind, theirs)]:
            yield f"ref is {ref!r} instead of {named!r}"
    if ours.method == "subscriptions/listen":
        wanted = params.get("notifications") or {}
        theirs = (wanted.get("resourceSubscriptions") or []) if isinstance(wanted, dict) else [wanted]
        if any(uri not in named for uri in theirs):
            yield f"resourceSubscriptions are {theirs!r} instead of {named!r}"
    if ours.method in {"tools/call", "prompts/get"}:
        theirs = params.get("arguments") or {}
        if not same(ours.arguments, theirs, doubles=reader.doubles):
            yield f"arguments are {theirs!r} instead of {dict(ours.arguments)!r}"
        elif ours.method == "tools/call":
            yield from _unlike_what_a_policy_reads(ours, theirs)


def same(ours: object, theirs: object, *, doubles: bool) -> bool:
    """Whether two JSON values are equal, numbers as doubles or exactly."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key], doubles=doubles) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(same(a, b, doubles=doubles) for a, b in zip(ours, theirs, strict=True))
    if _is_number(ours) and _is_number(theirs):
        return float(ours) == float(theirs) if doubles else ours == theirs  # type: ignore[arg-type]
    return type(ours) is type(theirs) and ours == theirs


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_by_policy(ours: McpRequest, name: str) -> object:
    """The value of an argument as a policy reads it; raises when a policy that reads it denies."""
    tool = Tool(name=ours.tool, arguments=DECLARED)
    mcp_server = McpServer(uid="u", namespace="demo", name="crm", cluster="c", path="/mcp", tools={ours.tool: tool})
    question = AuthorizationRequest(
        principal=_ANYBODY,
        action=Action.TOOLS_CALL,
        resource_kind=ResourceKind.TOOL,
        mcp_server=mcp_server,
        name=ours.tool,
        arguments=ours.arguments,
        caller=Caller(era=ours.era.value),
    )
    return typed_arguments(question, Reads(arguments=frozenset({name}))).get(name)


def _unlike_what_a_policy_reads(ours: McpRequest, theirs: Mapping[str, Any]) -> Iterator[str]:
    for name in DECLARED:
        try:
            read = read_by_policy(ours, name)
        except UnreadableArgumentError:
            continue
        if not _is_the_value(read, theirs.get(name)):
            yield f"a policy reads {name} as {read!r}, the server has {theirs.get(name)!r}"


def _typed_differences(ours: McpRequest, typed: Mapping[str, object]) -> Iterator[str]:
    """A server with declared arguments that ignores case: what a policy may read is what it has."""
    if ours.method != "tools/call":
        return
    for name, zero in _ZERO.items():
        try:
            read = read_by_policy(ours, name)
        except UnreadableArgumentError:
            continue
        if not _is_the_value(read, typed[name]) and not (read is None and typed[name] == zero):
            yield f"a policy reads {name} as {read!r}, the server has {typed[name]!r}"


def _is_the_value(read: object, theirs: object) -> bool:
    if isinstance(read, Mapping):  # a decimal: four places, exactly
        text = read["__extn"]["arg"]
        return _is_number(theirs) and float(text) == float(theirs)  # type: ignore[arg-type]
    if _is_number(read):
        return _is_number(theirs) and read == theirs
    return type(read) is type(theirs) and read == theirs


def judged(
    passed: Sequence[Passed], readings: Mapping[str, Sequence[Executed]], readers: Mapping[str, Reader]
) -> Iterator[tuple[int, str, str]]:
    """Index of the request, reader and disagreement, for everything that differs."""
    for name, answers in readings.items():
        for index, (one, executed) in enumerate(zip(passed, answers, strict=True)):
            for told in disagreements(one, readers[name], executed):
                yield index, name, told

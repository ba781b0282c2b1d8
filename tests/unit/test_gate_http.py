"""Each guard over the headers and the meaning of a message by itself. `make mutate-gate` takes them away."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import pytest

from extauthz.errors import MessageError, Reason
from extauthz.mcp.headers import META_CAPABILITIES, META_VERSION
from extauthz.mcp.jsonrpc import MessageClass
from extauthz.mcp.request import McpRequest, parse_request
from extauthz.policy.model import Action, ResourceKind

MODERN, LEGACY = "2026-07-28", "2025-11-25"
META = {META_VERSION: MODERN, META_CAPABILITIES: {}}
JSON = {"content-type": ["application/json"]}
Headers = Mapping[str, list[str]]


def legacy(method: str = "tools/call", params: object = None, headers: Headers | None = None, **members: object) -> McpRequest:
    """A legacy request; `...` leaves a header or member out."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "x"} if params is None else params, **members}
    return _parse(message, {**JSON, "mcp-protocol-version": [LEGACY], **(headers or {})})


def modern(method: str = "tools/call", params: object = None, headers: Headers | None = None, **members: object) -> McpRequest:
    """A modern request with its headers and metadata."""
    given = params if params is not None else {"name": "x"}
    assert isinstance(given, dict)
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": META, **given}, **members}
    named = {"mcp-name": ["x"]} if method in {"tools/call", "prompts/get"} else {}
    return _parse(message, {**JSON, "mcp-protocol-version": [MODERN], "mcp-method": [method], **named, **(headers or {})})


def _parse(message: Mapping[str, object], headers: Headers) -> McpRequest:
    body = {key: value for key, value in message.items() if value is not ...}
    return parse_request("POST", {name: values for name, values in headers.items() if values}, json.dumps(body).encode())


def refused(call: object) -> MessageError:
    with pytest.raises(MessageError) as error:
        call()  # type: ignore[operator]
    return error.value


SINGLE = ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "content-type", "content-encoding", "last-event-id"]


@pytest.mark.parametrize("name", [*SINGLE, "mcp-param-x"])
def test_a_header_that_must_stand_alone_does(name: str) -> None:
    assert refused(lambda: legacy(headers={name: ["identity", "identity"]})).reason is Reason.HEADER_REPEATED
    error = refused(lambda: parse_request("GET", {name: ["a", "a"]}, b""))
    assert error.reason is Reason.HEADER_REPEATED
    assert (f"the header {name} is" in error.sentence) is (name in SINGLE)  # the names of the others are the caller's own words


def test_other_headers_may_be_repeated() -> None:
    assert legacy(headers={"accept": ["a", "b"], "x-mcp-param-x": ["a", "b"], "mcp-param-a": ["1"], "mcp-param-b": ["1"]}).tool == "x"


@pytest.mark.parametrize(
    "meta",
    [
        ..., None, [], "x", {}, {META_VERSION: MODERN}, {META_CAPABILITIES: {}}, {META_VERSION: 5, META_CAPABILITIES: {}},
        {META_VERSION: MODERN, META_CAPABILITIES: []}, {META_VERSION: None, META_CAPABILITIES: {}},
    ],
)  # fmt: skip
def test_a_modern_request_has_its_metadata(meta: object) -> None:
    params = {"name": "x", "_meta": meta} if meta is not ... else {"name": "x"}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {**JSON, "mcp-protocol-version": [MODERN], "mcp-method": ["tools/call"], "mcp-name": ["x"]}

    assert refused(lambda: _parse(message, headers)).reason is Reason.INVALID_PARAMS


def test_the_version_of_the_body_is_that_of_the_header() -> None:
    other = {"_meta": {**META, META_VERSION: "2025-11-25"}}
    cancelled = "notifications/cancelled"

    assert refused(lambda: modern("tools/list", other)).reason is Reason.HEADER_MISMATCH
    assert refused(lambda: modern(cancelled, other, id=...)).reason is Reason.HEADER_MISMATCH
    assert modern(cancelled, {"_meta": {}}, {"mcp-method": []}, id=...).message_class is MessageClass.NOTIFICATION
    assert refused(lambda: modern(cancelled, {}, {"mcp-method": ["tools/list"]}, id=...)).reason is Reason.HEADER_MISMATCH
    for version in (MODERN, "2025-06-18", 5, ""):
        assert refused(lambda version=version: legacy("ping", {"_meta": {META_VERSION: version}})).reason is Reason.HEADER_MISMATCH
    assert legacy("ping", {"_meta": {META_VERSION: LEGACY}}).method == "ping"
    assert legacy("ping", {"_meta": "x"}).method == "ping"


@pytest.mark.parametrize("value", ["tools/Call", "tools/list", "", "tools/call, tools/call", "=?base64?dG9vbHMvY2FsbA==?="])
def test_the_method_of_the_header_is_that_of_the_body(value: str) -> None:
    assert refused(lambda: modern(headers={"mcp-method": [value]})).reason is Reason.HEADER_MISMATCH


def test_an_unknown_method_is_unknown_whatever_its_headers_say() -> None:
    assert refused(lambda: modern("x/y", headers={"mcp-name": ["x"]})).reason is Reason.METHOD_UNKNOWN


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"])
def test_a_version_that_is_served_is_served(version: str) -> None:
    stream = {"mcp-protocol-version": [version]}

    if version == MODERN:
        assert modern().protocol_version == version
        assert refused(lambda: parse_request("GET", stream, b"")).status == 405
    else:
        assert legacy(headers=stream).protocol_version == version
        assert parse_request("GET", stream, b"").protocol_version == version
    assert legacy(headers={"mcp-protocol-version": []}).protocol_version == ""


@pytest.mark.parametrize("version", ["", "2024-11-05", "2025-11-26", "2026-07-28 ", "2026-07-28, 2025-11-25", "9999-01-01", "x" * 100])
def test_a_version_that_is_not_served_is_refused_with_those_that_are(version: str) -> None:
    error = refused(lambda: legacy(headers={"mcp-protocol-version": [version]}))

    assert (error.reason, error.code, error.status) == (Reason.PROTOCOL_VERSION_UNSUPPORTED, -32022, 400)
    assert error.data == {"supported": [MODERN], "requested": version[:64]}
    assert error.request_id_json == "1"


def encoded(data: bytes) -> str:
    return "=?base64?" + base64.b64encode(data).decode() + "?="


@pytest.mark.parametrize("value", ["x", " x\t", encoded(b"x")])
def test_a_name_in_the_header_may_be_encoded(value: str) -> None:
    assert modern(headers={"mcp-name": [value]}).tool == "x"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("y", "x"),
        ("x", "X"),
        ("\xe9", "\xe9"),
        ("x\x01", "x\x01"),
        (encoded(b"y"), "x"),
        ("=?base64?eA=?=", "x"),
        ("=?base64?eB==?=", "x"),  # the same text, with bits that no encoder sets
        ("=?base64?e A==?=", "x"),
        ("=?base64?%%%?=", "x"),
        (encoded(b"\xff"), "\xff"),
        ("=?BASE64?eA==?=", "x"),
        ("=?base64?eA==", "x"),
        ("eA==?=", "x"),
    ],
)
def test_a_name_in_the_header_that_is_not_that_of_the_body_is_refused(value: str, name: str) -> None:
    assert refused(lambda: modern(params={"name": name}, headers={"mcp-name": [value]})).reason is Reason.HEADER_MISMATCH


@pytest.mark.parametrize("value", ["=?base64?%%%?=", "=?base64?eB==?=", encoded(b"\xff")])
def test_a_header_that_cannot_be_decoded_is_no_absent_name(value: str) -> None:
    assert refused(lambda: modern(params={"name": None}, headers={"mcp-name": [value]})).reason is Reason.HEADER_MISMATCH


def test_what_only_looks_encoded_is_the_name_itself() -> None:
    assert modern(params={"name": "=?base64?eA=="}, headers={"mcp-name": ["=?base64?eA=="]}).tool == "=?base64?eA=="
    assert modern(params={"name": "eA==?="}, headers={"mcp-name": ["eA==?="]}).tool == "eA==?="


@pytest.mark.parametrize(
    "value",
    ["application/json", "Application/JSON", "application/json;charset=utf-8", 'application/json; charset="UTF-8" ', " application/json"],
)
def test_json_in_utf_8_is_read(value: str) -> None:
    assert legacy(headers={"content-type": [value]}).tool == "x"


@pytest.mark.parametrize(
    "value",
    ["", "text/plain", "application/jsonx", "application/json; charset=utf-16", "application/json, text/plain", "xapplication/json",
     "application/json; charset=utf-8; charset=utf-16", 'application/json; charset="utf-8', "application/json; boundary=x"],
)  # fmt: skip
def test_another_content_type_is_not_read(value: str) -> None:
    assert refused(lambda: legacy(headers={"content-type": [value] if value else []})).reason is Reason.CONTENT_TYPE_REFUSED


@pytest.mark.parametrize(
    ("value", "passes"), [("identity", True), (" Identity ", True), ("", True), ("gzip", False), ("identity, gzip", False)]
)
def test_a_body_is_not_compressed(value: str, passes: bool) -> None:
    if passes:
        assert legacy(headers={"content-encoding": [value]}).tool == "x"
    else:
        assert refused(lambda: legacy(headers={"content-encoding": [value]})).reason is Reason.CONTENT_ENCODING_REFUSED


def test_streams_and_ends_of_sessions_are_legacy_and_empty() -> None:
    session = {"mcp-session-id": ["s"], "mcp-protocol-version": [LEGACY]}
    stream, end = parse_request("GET", {}, b""), parse_request("DELETE", session, b"")

    assert [(each.streaming, each.prober_may, each.method) for each in (stream, end)] == [(True, True, ""), (False, True, "")]
    for each in (stream, end):
        assert [(target.action, target.kind) for target in each.targets] == [(Action.SERVER_CONNECT, ResourceKind.MCP_SERVER)]
    for method in ("GET", "DELETE"):
        assert refused(lambda method=method: parse_request(method, session, b"{}")).reason is Reason.INVALID_REQUEST
        assert refused(lambda method=method: parse_request(method, {**session, "mcp-protocol-version": [MODERN]}, b"")).status == 405
        assert refused(lambda method=method: parse_request(method, {**session, "mcp-protocol-version": ["1"]}, b"")).code == -32022
    for method in ("PUT", "HEAD", "get", ""):
        assert refused(lambda method=method: parse_request(method, session, b"")).status == 405
    assert refused(lambda: parse_request("DELETE", {}, b"")).reason is Reason.INVALID_REQUEST


def test_a_response_belongs_to_a_legacy_session() -> None:
    response = {"jsonrpc": "2.0", "id": 1, "result": {}}

    request = _parse(response, {**JSON, "mcp-session-id": ["s"]})

    assert (request.message_class, request.method, request.prober_may) == (MessageClass.RESPONSE, "", False)
    assert [target.action for target in request.targets] == [Action.SERVER_CONNECT]
    assert "session" in refused(lambda: _parse(response, JSON)).sentence
    modern_headers = {**JSON, "mcp-session-id": ["s"], "mcp-protocol-version": [MODERN]}
    assert "this protocol version" in refused(lambda: _parse(response, modern_headers)).sentence


def test_arguments_are_in_no_log_by_accident() -> None:
    assert "s3cret" not in repr(legacy(params={"name": "x", "arguments": {"a": "s3cret"}}))


def test_absent_and_empty_arguments_are_told_apart() -> None:
    assert [legacy(params={"name": "x", **given}).has_arguments for given in ({}, {"arguments": None}, {"arguments": {}})] == [
        False,
        False,
        True,
    ]
    assert legacy(params={"name": "x", "arguments": {"a": 1}}).arguments == {"a": 1}
    assert refused(lambda: legacy(params={"name": "x", "arguments": [1]})).reason is Reason.INVALID_PARAMS


@pytest.mark.parametrize("name", [None, 5, "", [], "x" * 2001])
@pytest.mark.parametrize(
    ("method", "member"),
    [
        *(("tools/call", "name"), ("prompts/get", "name"), ("resources/read", "uri")),
        *(("tasks/get", "taskId"), ("tasks/result", "taskId"), ("tasks/cancel", "taskId")),
    ],
)
def test_what_is_named_is_one_text(method: str, member: str, name: object) -> None:
    assert refused(lambda: legacy(method, {member: name})).reason is Reason.INVALID_PARAMS
    assert refused(lambda: legacy(method, {})).reason is Reason.INVALID_PARAMS


def test_a_long_name_is_a_name() -> None:
    long = "t" * 2001
    assert refused(lambda: modern("tasks/update", {"taskId": long}, {"mcp-name": [long]})).reason is Reason.INVALID_PARAMS
    assert legacy(params={"name": "x" * 2000}).tool == "x" * 2000


@pytest.mark.parametrize(
    ("params", "passes"),
    [
        ({"inputResponses": {"a": {}}, "requestState": "s"}, True),
        ({"inputResponses": {str(n): {} for n in range(100)}}, True),
        ({"inputResponses": {str(n): {} for n in range(101)}}, False),
        ({"inputResponses": []}, False),
        ({"inputResponses": {"a": 1}}, False),
        ({"requestState": 5}, False),
    ],
)
def test_answers_to_a_server_have_the_shape_of_answers(params: dict[str, object], passes: bool) -> None:
    if passes:
        assert modern(params={"name": "x", **params}).tool == "x"
    else:
        assert refused(lambda: modern(params={"name": "x", **params})).reason is Reason.INVALID_PARAMS


@pytest.mark.parametrize("member", ["inputResponses", "requestState"])
def test_answers_to_a_server_stand_where_a_server_may_ask(member: str) -> None:
    value: object = {} if member == "inputResponses" else "s"

    assert refused(lambda: modern("tools/list", {member: value})).reason is Reason.INVALID_PARAMS
    assert refused(lambda: legacy(params={"name": "x", member: value})).reason is Reason.INVALID_PARAMS
    for method, named, header in (
        ("prompts/get", {"name": "x"}, "x"),
        ("resources/read", {"uri": "a:b"}, "a:b"),
        ("tasks/update", {"taskId": "t"}, "t"),
    ):
        assert modern(method, {**named, member: value}, {"mcp-name": [header]}).method == method


@pytest.mark.parametrize(
    ("ref", "kind"),
    [
        ({"type": "ref/prompt", "name": "x"}, ResourceKind.PROMPT),
        ({"type": "ref/resource", "uri": "x"}, ResourceKind.MCP_RESOURCE),
        ({"type": "ref/prompt", "uri": "x"}, None),
        ({"type": "ref/resource", "name": "x"}, None),
        ({"type": "ref/prompt", "name": "x", "uri": "y"}, None),
        ({"type": "ref/tool", "name": "x"}, None),
        ({"type": "ref/tool", "uri": "x"}, None),
        ({"name": "x"}, None),
        (["ref/prompt"], None),
        (None, None),
    ],
)
def test_a_completion_names_one_prompt_or_one_resource(ref: object, kind: ResourceKind | None) -> None:
    if kind is None:
        assert refused(lambda: legacy("completion/complete", {"ref": ref})).reason is Reason.INVALID_PARAMS
        return

    (target,) = legacy("completion/complete", {"ref": ref}).targets

    assert (target.kind, target.name) == (kind, "x")
    assert target.action is (Action.PROMPTS_GET if kind is ResourceKind.PROMPT else Action.RESOURCES_READ)


def listen(notifications: object, **params: object) -> McpRequest:
    return modern("subscriptions/listen", {"notifications": notifications, **params})


def test_every_thing_that_is_subscribed_to_is_decided() -> None:
    flags = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
    request = listen({**flags, "resourceSubscriptions": ["a:b", "a:c"], "taskIds": ["t"]})

    assert [(target.action, target.name) for target in request.targets] == [
        (Action.SERVER_CONNECT, ""),
        (Action.RESOURCES_READ, "a:b"),
        (Action.RESOURCES_READ, "a:c"),
        (Action.TASKS_GET, ""),
    ]
    assert len(listen({"resourceSubscriptions": [f"a:{n}" for n in range(32)]}).targets) == 33
    assert [target.action for target in listen({"taskIds": []}).targets] == [Action.SERVER_CONNECT]


@pytest.mark.parametrize(
    "notifications",
    [
        {"resourceSubscriptions": [f"a:{n}" for n in range(33)]},
        {"taskIds": [f"t{n}" for n in range(33)]},
        {"taskIds": [5]},
        {"taskIds": "t"},
        {"resourceSubscriptions": ["a:b", 5]},
        {"resourceSubscriptions": {"a": "b"}},
        {"everything": True},
        [],
        None,
    ],
)
def test_a_subscription_of_another_shape_is_refused(notifications: object) -> None:
    assert refused(lambda: listen(notifications)).reason is Reason.INVALID_PARAMS


@pytest.mark.parametrize("member", ["resourceSubscriptions", "taskIds", "toolsListChanged", "promptsListChanged", "resourcesListChanged"])
def test_a_subscription_stands_in_its_place_only(member: str) -> None:
    assert refused(lambda: listen({}, **{member: ["a:b"]})).reason is Reason.INVALID_PARAMS

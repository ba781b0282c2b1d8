"""What a request on an MCP path asks, in each era, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import pytest

from extauthz.errors import MessageError, Reason
from extauthz.mcp.era import METHODS, Era
from extauthz.mcp.headers import META_CAPABILITIES, META_VERSION
from extauthz.mcp.request import McpRequest, parse_request
from extauthz.policy.model import Action, ResourceKind

MODERN = "2026-07-28"
LEGACY = "2025-11-25"


def legacy(method: str, params: object = None, *, headers: Mapping[str, list[str]] | None = None, message_id: object = 1) -> McpRequest:
    body: dict[str, object] = {"jsonrpc": "2.0", "method": method}
    if message_id is not None:
        body["id"] = message_id
    if params is not None:
        body["params"] = params
    given = {"content-type": ["application/json"], "mcp-protocol-version": [LEGACY], **(headers or {})}
    return parse_request("POST", given, json.dumps(body).encode())


def modern(
    method: str, params: dict[str, object], *, name: str | None = None, headers: Mapping[str, list[str]] | None = None
) -> McpRequest:
    meta = {META_VERSION: MODERN, META_CAPABILITIES: {}}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta, **params}}
    given = {"content-type": ["application/json"], "mcp-protocol-version": [MODERN], "mcp-method": [method], **(headers or {})}
    if name is not None:
        given["mcp-name"] = [name]
    return parse_request("POST", given, json.dumps(body).encode())


def refused(call: object) -> MessageError:
    with pytest.raises(MessageError) as error:
        call()  # type: ignore[operator]
    return error.value


@pytest.mark.parametrize("era", list(Era))
def test_a_tool_call_is_decided_on_the_tool_that_the_body_names(era: Era) -> None:
    params: dict[str, object] = {"name": "update_contact", "arguments": {"id": 1}}

    request = legacy("tools/call", params) if era is Era.LEGACY else modern("tools/call", params, name="update_contact")

    assert (request.era, request.tool, request.arguments) == (era, "update_contact", {"id": 1})
    assert request.targets[0].action is Action.TOOLS_CALL


def test_a_lying_name_header_is_refused_in_the_modern_era() -> None:
    error = refused(lambda: modern("tools/call", {"name": "drop_table"}, name="query"))

    assert (error.reason, error.code, error.status) == (Reason.HEADER_MISMATCH, -32020, 400)


def test_a_lying_header_is_not_believed_in_the_legacy_era() -> None:
    request = legacy("tools/call", {"name": "drop_table"}, headers={"mcp-method": ["tools/list"], "mcp-name": ["query"]})

    assert (request.method, request.tool) == ("tools/call", "drop_table")


def test_an_encoded_name_header_is_decoded_before_it_is_compared() -> None:
    encoded = "=?base64?" + base64.b64encode("tööl".encode()).decode() + "?="

    assert modern("tools/call", {"name": "tööl"}, name=encoded).tool == "tööl"
    assert refused(lambda: modern("tools/call", {"name": "tööl"}, name="=?base64?%%%?=")).code == -32020


@pytest.mark.parametrize("missing", ["mcp-method", "mcp-name"])
def test_a_modern_call_without_its_headers_is_refused(missing: str) -> None:
    def call() -> None:
        headers = {"content-type": ["application/json"], "mcp-protocol-version": [MODERN], "mcp-method": ["tools/call"], "mcp-name": ["t"]}
        del headers[missing]
        meta = {META_VERSION: MODERN, META_CAPABILITIES: {}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "_meta": meta}}
        parse_request("POST", headers, json.dumps(body).encode())

    assert refused(call).code == -32020


def test_a_modern_body_under_a_legacy_or_absent_version_header_is_refused() -> None:
    meta = {"_meta": {META_VERSION: MODERN, META_CAPABILITIES: {}}}

    assert refused(lambda: legacy("tools/list", meta)).reason is Reason.HEADER_MISMATCH
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": meta}).encode()
    assert refused(lambda: parse_request("POST", {"content-type": ["application/json"]}, body)).code == -32020


def test_a_modern_request_without_meta_is_refused_with_invalid_params() -> None:
    headers = {"content-type": ["application/json"], "mcp-protocol-version": [MODERN], "mcp-method": ["tools/list"]}
    body = b'{"jsonrpc":"2.0","id":"x","method":"tools/list","params":{}}'

    error = refused(lambda: parse_request("POST", headers, body))

    assert (error.code, error.status, error.request_id_json) == (-32602, 400, '"x"')


def test_an_unknown_version_is_refused_with_the_id_of_the_request_and_the_modern_versions() -> None:
    error = refused(lambda: legacy("tools/list", headers={"mcp-protocol-version": ["2099-01-01"]}))

    assert (error.code, error.status) == (-32022, 400)
    assert error.request_id_json != "null"
    assert error.data == {"requested": "2099-01-01", "supported": [MODERN]}


@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "content-type"])
def test_a_header_that_must_stand_alone_is_refused_when_repeated(name: str) -> None:
    assert refused(lambda: legacy("tools/list", headers={name: ["a", "b"]})).reason is Reason.HEADER_REPEATED


@pytest.mark.parametrize("method", ["tools/Call", "tools/call ", "shutdown", "tasks/list", "notifications/tools/list_changed"])
def test_a_method_that_is_not_in_the_table_is_refused(method: str) -> None:
    error = refused(lambda: legacy(method, {"name": "x"}))

    assert (error.reason, error.code, error.status) == (Reason.METHOD_UNKNOWN, -32601, 200)


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "resources/subscribe"])
def test_methods_of_the_legacy_era_do_not_exist_in_the_modern_one(method: str) -> None:
    error = refused(lambda: modern(method, {}))

    assert (error.code, error.status) == (-32601, 404)


def test_a_tool_call_without_id_is_refused() -> None:
    assert refused(lambda: legacy("tools/call", {"name": "x"}, message_id=None)).reason is Reason.INVALID_REQUEST


@pytest.mark.parametrize("name", [None, "", ["x"], 5, {"a": 1}, "x" * 3000])
def test_a_call_must_name_its_tool_by_one_string(name: object) -> None:
    assert refused(lambda: legacy("tools/call", {"name": name})).reason is Reason.INVALID_PARAMS
    assert refused(lambda: legacy("tools/call", {})).reason is Reason.INVALID_PARAMS


@pytest.mark.parametrize("arguments", [[], "x", 5, True])
def test_arguments_must_be_an_object(arguments: object) -> None:
    assert refused(lambda: legacy("tools/call", {"name": "x", "arguments": arguments})).reason is Reason.INVALID_PARAMS


def test_every_uri_of_a_subscription_is_decided() -> None:
    request = modern("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["test://a", "test://b"]}})

    assert [t.name for t in request.targets if t.kind is ResourceKind.MCP_RESOURCE] == ["test://a", "test://b"]
    assert request.streaming


@pytest.mark.parametrize(
    "notifications", [None, 5, "test://a", ["test://a"], {"resourceSubscriptions": "test://a"}, {"resourceSubscriptions": [5]}]
)
def test_subscriptions_of_another_shape_are_refused(notifications: object) -> None:
    assert refused(lambda: modern("subscriptions/listen", {"notifications": notifications})).reason is Reason.INVALID_PARAMS
    assert refused(lambda: modern("subscriptions/listen", {"resourceSubscriptions": ["TEST://a"]})).reason is Reason.INVALID_PARAMS


@pytest.mark.parametrize("value", [None, 5, True, [], {}])
def test_the_arguments_of_a_prompt_are_strings(value: object) -> None:
    assert legacy("prompts/get", {"name": "greet", "arguments": {"a": "x"}}).arguments == {"a": "x"}
    assert refused(lambda: legacy("prompts/get", {"name": "greet", "arguments": {"a": "x", "b": value}})).reason is Reason.INVALID_PARAMS


@pytest.mark.parametrize("uri", ["TEST://a", "test://a/../b", "test://a/%2e%2e/b", "test://a\tb", "https://h.example", "a"])
def test_a_uri_that_servers_read_differently_is_refused_wherever_it_stands(uri: str) -> None:
    for call in (
        lambda: legacy("resources/read", {"uri": uri}),
        lambda: legacy("resources/subscribe", {"uri": uri}),
        lambda: legacy("resources/unsubscribe", {"uri": uri}),
        lambda: modern("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["test://a", uri]}}),
    ):
        assert refused(call).reason is Reason.INVALID_PARAMS


def test_a_uri_with_letters_outside_ascii_is_decided_in_both_its_forms() -> None:
    request = legacy("resources/read", {"uri": "test://ä"})

    assert [target.name for target in request.targets] == ["test://%C3%A4", "test://ä"]
    assert {target.action for target in request.targets} == {Action.RESOURCES_READ}


def test_a_completion_is_decided_on_what_it_refers_to() -> None:
    prompt = legacy("completion/complete", {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "a", "value": ""}})
    template = legacy("completion/complete", {"ref": {"type": "ref/resource", "uri": "test://{id}"}})

    assert (prompt.targets[0].kind, prompt.targets[0].name) == (ResourceKind.PROMPT, "greet")
    assert (template.targets[0].kind, template.targets[0].name) == (ResourceKind.MCP_RESOURCE, "test://{id}")
    assert refused(lambda: legacy("completion/complete", {"ref": {"type": "ref/tool", "name": "x"}})).reason is Reason.INVALID_PARAMS


@pytest.mark.parametrize(
    "content_type",
    [
        *(
            "text/plain",
            "application/json; charset=utf-16",
            "",
            "multipart/form-data",
            "application/json; boundary=x",
            "application/json; utf-8",
        ),
        *('application/json; charset="utf-8', "application/json; charset=utf-8; charset=utf-8", "application/jsonx", "x/application/json"),
    ],
)
def test_only_json_in_utf8_is_read(content_type: str) -> None:
    assert refused(lambda: legacy("ping", headers={"content-type": [content_type]})).reason is Reason.CONTENT_TYPE_REFUSED


def test_a_compressed_body_is_refused() -> None:
    assert refused(lambda: legacy("ping", headers={"content-encoding": ["gzip"]})).reason is Reason.CONTENT_ENCODING_REFUSED


def test_streams_and_session_ends_belong_to_the_legacy_era_and_have_no_body() -> None:
    stream = parse_request("GET", {}, b"")
    end = parse_request("DELETE", {"mcp-session-id": ["s"]}, b"")

    assert stream.streaming
    assert not end.streaming
    assert refused(lambda: parse_request("GET", {}, b'{"jsonrpc":"2.0"}')).status == 400
    assert refused(lambda: parse_request("DELETE", {}, b"")).status == 400
    assert refused(lambda: parse_request("GET", {"mcp-protocol-version": [MODERN]}, b"")).status == 405
    assert refused(lambda: parse_request("PUT", {}, b"")).status == 405


def test_a_client_response_is_a_legacy_message() -> None:
    body = b'{"jsonrpc":"2.0","id":5,"result":{}}'
    in_session = {"content-type": ["application/json"], "mcp-session-id": ["s"]}

    assert parse_request("POST", in_session, body).targets[0].kind is ResourceKind.MCP_SERVER
    assert refused(lambda: parse_request("POST", {"content-type": ["application/json"]}, body)).reason is Reason.INVALID_REQUEST
    modern_headers = {"content-type": ["application/json"], "mcp-protocol-version": [MODERN]}
    assert refused(lambda: parse_request("POST", modern_headers, body)).reason is Reason.INVALID_REQUEST


TASK_ACTIONS = {
    "tasks/get": Action.TASKS_GET,
    "tasks/result": Action.TASKS_GET,
    "tasks/update": Action.TASKS_UPDATE,
    "tasks/cancel": Action.TASKS_CANCEL,
}


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
def test_a_legacy_request_about_a_task_is_decided(method: str) -> None:
    request = legacy(method, {"taskId": "t-1"})

    assert [(target.action, target.kind) for target in request.targets] == [(TASK_ACTIONS[method], ResourceKind.MCP_SERVER)]
    assert not request.prober_may
    for task in (None, "", 5, ["t"], "x" * 2001):
        assert refused(lambda task=task: legacy(method, {"taskId": task})).reason is Reason.INVALID_PARAMS


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_a_modern_request_about_a_task_is_decided_and_names_it_in_its_header(method: str) -> None:
    request = modern(method, {"taskId": "t-1"}, name="t-1")

    assert [target.action for target in request.targets] == [TASK_ACTIONS[method]]
    assert refused(lambda: modern(method, {"taskId": "t-1"})).reason is Reason.HEADER_MISMATCH
    assert refused(lambda: modern(method, {"taskId": "t-1"}, name="t-2")).reason is Reason.HEADER_MISMATCH


def test_nobody_lists_tasks_and_each_era_has_its_own_methods_about_them() -> None:
    for call in (
        lambda: legacy("tasks/list", {}),
        lambda: modern("tasks/list", {}),
        lambda: legacy("tasks/update", {"taskId": "t"}),
        lambda: modern("tasks/result", {"taskId": "t"}, name="t"),
    ):
        assert refused(call).reason is Reason.METHOD_UNKNOWN


def test_a_subscription_to_tasks_is_decided_like_reading_them() -> None:
    request = modern("subscriptions/listen", {"notifications": {"toolsListChanged": True, "taskIds": ["t-1", "t-2"]}})

    assert [target.action for target in request.targets] == [Action.SERVER_CONNECT, Action.TASKS_GET]
    assert len(modern("subscriptions/listen", {"notifications": {"taskIds": []}}).targets) == 1


@pytest.mark.parametrize(
    "params",
    [
        {"notifications": {"everything": True}},
        {"notifications": ["toolsListChanged"]},
        {"notifications": {"taskIds": "t"}},
        {"notifications": {"taskIds": [7]}},
        {"notifications": {"resourceSubscriptions": None}},
        {"resourceSubscriptions": ["test://a"]},
        {"taskIds": ["t"]},
    ],
)
def test_a_subscription_to_what_nobody_knows_is_refused(params: dict[str, object]) -> None:
    assert refused(lambda: modern("subscriptions/listen", params)).reason is Reason.INVALID_PARAMS


def test_answers_to_a_server_that_asked_for_input_pass_where_it_may_have_asked() -> None:
    answers = {"inputResponses": {"name": {"action": "accept", "content": {"name": "Ann"}}}, "requestState": "opaque"}

    assert modern("tools/call", {"name": "t", **answers}, name="t").tool == "t"
    assert modern("prompts/get", {"name": "p", **answers}, name="p").targets[0].action is Action.PROMPTS_GET
    assert modern("tasks/update", {"taskId": "t", **answers}, name="t").targets[0].action is Action.TASKS_UPDATE


@pytest.mark.parametrize(
    "answers",
    [
        {"inputResponses": None},
        {"inputResponses": []},
        {"inputResponses": {"a": 5}},
        {"inputResponses": {"a": None}},
        {"inputResponses": {str(n): {} for n in range(101)}},
        {"requestState": {}},
        {"requestState": None},
    ],
)
def test_answers_of_another_shape_are_refused(answers: dict[str, object]) -> None:
    assert refused(lambda: modern("tools/call", {"name": "t", **answers}, name="t")).reason is Reason.INVALID_PARAMS


@pytest.mark.parametrize("answers", [{"inputResponses": {}}, {"requestState": "s"}])
def test_answers_that_nobody_asked_for_are_refused(answers: dict[str, object]) -> None:
    assert refused(lambda: legacy("tools/call", {"name": "t", **answers})).reason is Reason.INVALID_PARAMS
    assert refused(lambda: modern("tools/list", answers)).reason is Reason.INVALID_PARAMS


def test_a_completion_refers_to_one_thing() -> None:
    ref = {"type": "ref/prompt", "name": "greet", "uri": "test://closed"}

    assert refused(lambda: legacy("completion/complete", {"ref": ref})).reason is Reason.INVALID_PARAMS


def test_a_name_header_beside_a_method_that_names_nothing_is_refused() -> None:
    assert refused(lambda: modern("tools/list", {}, name="x")).reason is Reason.HEADER_MISMATCH


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("t\xf6\xf6l", "t\xf6\xf6l"),
        ("=?base64?dA?=", "t"),
        ("=?base64?dB==?=", "t"),
        ("=?BASE64?dA==?=", "t"),
        ("=?base64?d A==?=", "t"),
        ("=?base64?/w==?=", "\xff"),
        ("=?base64??=", "t"),
    ],
)
def test_a_name_header_has_one_form_only(header: str, name: str) -> None:
    assert refused(lambda: modern("tools/call", {"name": name}, name=header)).reason is Reason.HEADER_MISMATCH


@pytest.mark.parametrize("version", ["2025-06-18", "", 7, ["2025-11-25"]])
def test_a_legacy_body_that_names_another_version_than_its_header_is_refused(version: object) -> None:
    assert refused(lambda: legacy("tools/list", {"_meta": {META_VERSION: version}})).reason is Reason.HEADER_MISMATCH
    assert legacy("tools/list", {"_meta": {META_VERSION: LEGACY}}).method == "tools/list"


@pytest.mark.parametrize(
    ("notifications", "may"),
    [
        ({"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}, True),
        ({"toolsListChanged": True, "resourceSubscriptions": [], "taskIds": []}, True),
        ({"toolsListChanged": True, "resourceSubscriptions": ["crm://contacts/ann"]}, False),
        ({"resourceSubscriptions": ["crm://contacts/ann"]}, False),
        ({"taskIds": ["t1"]}, False),
    ],
)
def test_the_prober_may_hear_of_lists_and_of_no_resource_or_task(notifications: dict[str, object], may: bool) -> None:
    assert modern("subscriptions/listen", {"notifications": notifications}).prober_may is may


def test_the_prober_may_only_read_catalogs() -> None:
    probing = {name for name, rule in METHODS.items() if rule.prober}

    assert "tools/call" not in probing
    assert "resources/read" not in probing
    assert "resources/subscribe" not in probing
    assert {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "initialize", "server/discover"} <= probing


@pytest.mark.parametrize("era", list(Era))
def test_what_the_client_says_of_its_trace_is_read_and_decides_nothing(era: Era) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    meta: dict[str, object] = {"traceparent": traceparent}
    params: dict[str, object] = {"name": "read", "arguments": {}}

    if era is Era.LEGACY:
        told, untold = legacy("tools/call", {**params, "_meta": meta}), legacy("tools/call", params)
    else:
        whole = meta | {META_VERSION: MODERN, META_CAPABILITIES: {}}
        told, untold = modern("tools/call", {**params, "_meta": whole}, name="read"), modern("tools/call", params, name="read")

    assert (told.traceparent, untold.traceparent) == (traceparent, None)
    assert told.targets == untold.targets

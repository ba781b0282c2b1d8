"""The table of methods, written down a second time: what each is in each era, what is decided about it, who may use it.

A rule that is lost, widened or mixed up in `extauthz.mcp.era` differs from this table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from extauthz.errors import MessageError, Reason
from extauthz.mcp.era import METHODS, Era, Scope
from extauthz.mcp.headers import META_CAPABILITIES, META_VERSION
from extauthz.mcp.jsonrpc import MessageClass
from extauthz.mcp.request import McpRequest, parse_request
from extauthz.policy.model import Action, ResourceKind

MODERN, LEGACY = "2026-07-28", "2025-11-25"
TOOL, PROMPT, RESOURCE, SERVER = ResourceKind.TOOL, ResourceKind.PROMPT, ResourceKind.MCP_RESOURCE, ResourceKind.MCP_SERVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method. `eras`: l, m or both; `named`: the name that must be in its target and, when modern, in Mcp-Name."""

    method: str
    eras: str
    action: Action
    kind: ResourceKind = SERVER
    params: str = "{}"
    named: str = ""
    mirrored: str = ""
    notification: bool = False
    prober: bool = False


ROWS = [
    Row(method="initialize", eras="l", action=Action.SERVER_CONNECT, prober=True),
    Row(method="ping", eras="l", action=Action.SERVER_CONNECT, prober=True),
    Row(method="server/discover", eras="m", action=Action.SERVER_CONNECT, prober=True),
    Row(method="tools/list", eras="lm", action=Action.TOOLS_LIST, prober=True),
    Row(method="tools/call", eras="lm", action=Action.TOOLS_CALL, kind=TOOL, params='{"name":"x"}', named="x", mirrored="x"),
    Row(method="prompts/list", eras="lm", action=Action.PROMPTS_LIST, prober=True),
    Row(method="prompts/get", eras="lm", action=Action.PROMPTS_GET, kind=PROMPT, params='{"name":"x"}', named="x", mirrored="x"),
    Row(method="resources/list", eras="lm", action=Action.RESOURCES_LIST, prober=True),
    Row(method="resources/templates/list", eras="lm", action=Action.RESOURCES_LIST, prober=True),
    Row(
        method="resources/read", eras="lm", action=Action.RESOURCES_READ, kind=RESOURCE, params='{"uri":"a:x"}', named="a:x", mirrored="a:x"
    ),
    Row(method="resources/subscribe", eras="l", action=Action.RESOURCES_READ, kind=RESOURCE, params='{"uri":"a:x"}', named="a:x"),
    Row(method="resources/unsubscribe", eras="l", action=Action.RESOURCES_READ, kind=RESOURCE, params='{"uri":"a:x"}', named="a:x"),
    Row(
        method="completion/complete",
        eras="lm",
        action=Action.PROMPTS_GET,
        kind=PROMPT,
        params='{"ref":{"type":"ref/prompt","name":"x"}}',
        named="x",
    ),
    Row(method="logging/setLevel", eras="l", action=Action.SERVER_CONNECT),
    Row(method="tasks/get", eras="lm", action=Action.TASKS_GET, params='{"taskId":"t"}', mirrored="t"),
    Row(method="tasks/result", eras="l", action=Action.TASKS_GET, params='{"taskId":"t"}'),
    Row(method="tasks/update", eras="m", action=Action.TASKS_UPDATE, params='{"taskId":"t"}', mirrored="t"),
    Row(method="tasks/cancel", eras="lm", action=Action.TASKS_CANCEL, params='{"taskId":"t"}', mirrored="t"),
    Row(method="subscriptions/listen", eras="m", action=Action.SERVER_CONNECT, params='{"notifications":{}}', prober=True),
    Row(method="notifications/initialized", eras="l", action=Action.SERVER_CONNECT, notification=True, prober=True),
    Row(method="notifications/cancelled", eras="lm", action=Action.SERVER_CONNECT, notification=True, prober=True),
    Row(method="notifications/progress", eras="l", action=Action.SERVER_CONNECT, notification=True),
    Row(method="notifications/roots/list_changed", eras="l", action=Action.SERVER_CONNECT, notification=True),
    Row(method="notifications/tasks/status", eras="l", action=Action.SERVER_CONNECT, notification=True),
]
IDS = [row.method for row in ROWS]


def send(row: Row, era: Era, *, with_id: bool | None = None, mirrored: str | None = None) -> McpRequest:
    """The method, as this era sends it; `mirrored` replaces the header Mcp-Name."""
    params = json.loads(row.params)
    headers = {"content-type": ["application/json"], "mcp-protocol-version": [LEGACY]}
    if era is Era.MODERN:
        params["_meta"] = {META_VERSION: MODERN, META_CAPABILITIES: {}}
        headers |= {"mcp-protocol-version": [MODERN], "mcp-method": [row.method]}
        if name := row.mirrored if mirrored is None else mirrored:
            headers["mcp-name"] = [name]
    message: dict[str, object] = {"jsonrpc": "2.0", "method": row.method, "params": params}
    if with_id if with_id is not None else not row.notification:
        message["id"] = 1
    return parse_request("POST", headers, json.dumps(message).encode())


def refused(row: Row, era: Era, *, with_id: bool | None = None, mirrored: str | None = None) -> MessageError:
    with pytest.raises(MessageError) as error:
        send(row, era, with_id=with_id, mirrored=mirrored)
    return error.value


def test_no_method_is_missing_here() -> None:
    assert [*METHODS] == IDS


@pytest.mark.parametrize("row", ROWS, ids=IDS)
@pytest.mark.parametrize("era", list(Era))
def test_a_method_is_served_in_its_eras_only_and_decided_as_what_it_is(row: Row, era: Era) -> None:
    if era.value[0] not in row.eras:
        assert refused(row, era).reason is Reason.METHOD_UNKNOWN
        assert refused(row, era).status == (404 if era is Era.MODERN else 200)
        return

    request = send(row, era)

    assert [(target.action, target.kind, target.name) for target in request.targets] == [(row.action, row.kind, row.named)]
    assert (request.method, request.era, request.prober_may) == (row.method, era, row.prober)
    assert request.message_class is (MessageClass.NOTIFICATION if row.notification else MessageClass.REQUEST)
    assert request.streaming is (METHODS[row.method].scope is Scope.SUBSCRIPTIONS)
    assert METHODS[row.method].resource_kind is row.kind or row.method == "completion/complete"


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_request_has_an_id_and_a_notification_none(row: Row) -> None:
    era = Era.LEGACY if "l" in row.eras else Era.MODERN

    error = refused(row, era, with_id=row.notification)

    assert (error.reason, error.status) == (Reason.INVALID_REQUEST, 400)
    assert ("must not have an id" if row.notification else "needs an id") in error.sentence


@pytest.mark.parametrize("row", [row for row in ROWS if "m" in row.eras], ids=lambda row: row.method)
def test_what_a_modern_method_names_stands_in_its_header_and_nothing_else_does(row: Row) -> None:
    assert refused(row, Era.MODERN, mirrored="other").reason is Reason.HEADER_MISMATCH
    if row.mirrored:
        assert refused(row, Era.MODERN, mirrored="").reason is Reason.HEADER_MISMATCH

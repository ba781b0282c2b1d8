"""The forms in which records are sent on: what a caller chose stays a value. Read back by parsers of these tests' own."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.audit.sinks.form.cef import cef_message
from controlplane.audit.sinks.form.http_json import SENTINEL_FIELD_CHARACTERS, bulk_lines, sentinel_row, splunk_event
from controlplane.audit.sinks.form.json_form import ascii_json_text, fitting, json_document, json_line, json_text
from controlplane.audit.sinks.form.leef import leef_message
from controlplane.audit.sinks.form.ocsf import ocsf_event
from controlplane.audit.sinks.form.otlp import export_request, log_record
from controlplane.audit.sinks.form.plain_text import visible
from controlplane.audit.sinks.form.syslog import MAX_MESSAGE_BYTES, syslog_frame
from controlplane.audit.sinks.receiver.receiver import retry_after_seconds
from controlplane.audit.sinks.sent_record import SentRecord

HOSTILE = (
    "two\nlines",
    "carriage\r\nreturn",
    "pipe|pipe",
    "a=b c=d",
    'quote" bracket] back\\slash',
    "tab\tx09|",
    "nul\0nul",
    "\x1b[31mred\x07",
    "right\u202eto left\u2066",
    "line\u2028para\u2029next\x85",
    "e\u0301 漢字 😀 \U000e0041",
    "\\",
    "\\n",
    "=",
    "|",
    " leading and trailing ",
    "<13>1 - - - - - - forged",
    "CEF:0|a|b|c|d|e|9|act=allow",
    'x" decision="allow',
    "]",
    "\ufeffbom",
    "x" * 5000,
    "漢" * 5000,
    "%s %n {0} ${jndi:ldap://x}",
)
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=200))
TEXT_FIELDS = (
    "reason",
    "sentence",
    "namespace",
    "mcp_server",
    "method",
    "tool",
    "path",
    "user_agent",
    "trace_id",
    "decision_id",
    "arguments_json",
)


def record(event: str = "tool_call", decision: str = "deny", **fields: Any) -> SentRecord:
    document = {
        "at": "2026-11-22T10:00:00.123456+00:00",
        "at_unix_us": 1_795_341_600_123_456,
        "event": event,
        "decision": decision,
        "decision_id": "d-1",
        "writer_id": "node-1-1700000000000-77",
        "sequence": 5,
        "record_hash": "ab" * 32,
        **fields,
    }
    return SentRecord(
        position=9,
        writer_id="node-1-1700000000000-77",
        sequence=5,
        at_unix_us=1_795_341_600_123_456,
        event=event,
        decision=decision,
        document=document,
    )


def hostile_record(text: str) -> SentRecord:
    principal = {"kind": "User", "id": text, "subject": text, "oauth_client_id": text, "groups": [text, text], "provider": text}
    return record(**dict.fromkeys(TEXT_FIELDS, text), principal=principal, determining_policies=[text, text], downstream_address=text)


def harmless(text: str) -> bool:
    """Nothing in it acts on a line or a screen."""
    return not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in text)


# parsers of these tests' own


def parse_cef(message: str) -> tuple[list[str], dict[str, str]]:
    """By the rules of the format: header fields, then key=value; a backslash takes the next character as it is, or begins a line break."""
    fields, current, at = [], "", 0
    while len(fields) < 7:
        if message[at] == "\\":
            current, at = current + message[at + 1], at + 2
        elif message[at] == "|":
            fields, current, at = [*fields, current], "", at + 1
        else:
            current, at = current + message[at], at + 1
    pieces = re.split(r"(?:^|(?<= ))([A-Za-z0-9_]+)(?<!\\)=", message[at:])
    values = {key: value.removesuffix(" ") for key, value in zip(pieces[1::2], pieces[2::2], strict=True)}
    unescape = {"n": "\n", "r": "\r"}
    return fields, {key: re.sub(r"\\(.)", lambda m: unescape.get(m[1], m[1]), value) for key, value in values.items()}


def parse_leef(message: str) -> tuple[list[str], dict[str, str]]:
    *header, attributes = message.split("|", 6)
    assert header[5] == "x09"
    return header, dict(pair.split("=", 1) for pair in attributes.split("\t"))


def parse_syslog(frame: bytes) -> dict[str, Any]:
    """RFC 5424, section 6, behind the count of RFC 5425."""
    count, _, rest = frame.partition(b" ")
    assert len(rest) == int(count)
    text = rest.decode()
    found = re.match(r"<(\d{1,3})>1 (\S+) (\S{1,255}) (\S{1,48}) (\S{1,128}) (\S{1,32}) \[([^\s=\]\"]{1,32})", text)
    assert found is not None
    at, parameters = found.end(), {}
    while text[at] == " ":
        name = re.compile(r' ([^\s=\]"]{1,32})="((?:[^"\\\]]|\\["\\\]])*)"').match(text, at)
        assert name is not None, text[at : at + 80]
        parameters[name[1]] = re.sub(r'\\(["\\\]])', r"\1", name[2])
        at = name.end()
    assert text[at : at + 2] == "] "
    datetime.fromisoformat(found[2])
    return {
        "priority": int(found[1]),
        "host": found[3],
        "program": found[4],
        "msgid": found[6],
        "data": parameters,
        "message": text[at + 2 :],
    }


@given(text=texts)
@settings(max_examples=300, deadline=None)
def test_json_keeps_every_value_on_one_harmless_line(text: str) -> None:
    line = json_line(hostile_record(text))

    assert line.count(b"\n") == 1
    assert harmless(line.decode().removesuffix("\n"))
    assert len(line.decode().splitlines()) == 1
    said = json.loads(line)
    assert {name: said[name] for name in TEXT_FIELDS} == dict.fromkeys(TEXT_FIELDS, text)
    assert (said["id"], said["position"]) == ("node-1-1700000000000-77/5", 9)


@given(text=texts)
@settings(max_examples=300, deadline=None)
def test_cef_gives_each_value_back(text: str) -> None:
    message = cef_message(hostile_record(text), 1_000_000)
    header, values = parse_cef(message)

    assert harmless(message)
    assert header[:3] == ["CEF:0", "Legation", "Legation"]
    assert header[6] == "6"
    shown = "\n".join(visible(line) for line in (text if len(text) <= 1023 else text[:1022] + "…").split("\n"))
    for key in ("suser", "msg", "cs1", "request", "requestClientApplication"):
        assert values.get(key, "").strip(" ") == shown.strip(" "), key
    assert values["act"] == "deny"
    assert values["externalId"] == "node-1-1700000000000-77/5"


@given(text=texts)
@settings(max_examples=300, deadline=None)
def test_leef_gives_each_value_back(text: str) -> None:
    message = leef_message(hostile_record(text), 1_000_000)
    header, values = parse_leef(message)

    assert harmless(message.replace("\t", " "))
    assert (header[0], header[1]) == ("LEEF:2.0", "Legation")
    shown = visible(text if len(text) <= 1023 else text[:1022] + "…")
    for key in ("usrName", "msg", "tool", "url", "userAgent", "arguments"):
        assert values.get(key, "") == shown, key
    assert (values["action"], values["recordId"]) == ("deny", "node-1-1700000000000-77/5")


@pytest.mark.parametrize("message_format", ["json", "cef", "leef", "text"])
@given(text=texts)
@settings(max_examples=150, deadline=None)
def test_syslog_is_one_message_by_the_rfc_and_never_too_long(message_format: str, text: str) -> None:
    frame = syslog_frame(hostile_record(text), message_format=message_format, facility="audit", app_name="legation")
    said = parse_syslog(frame)

    assert len(frame) <= MAX_MESSAGE_BYTES + 5
    assert (said["priority"], said["host"], said["program"], said["msgid"]) == (13 * 8 + 4, "node-1", "legation", "tool_call")
    assert said["data"]["id"] == "node-1-1700000000000-77/5"
    assert said["data"]["decision"] == "deny"
    message = said["message"]
    assert harmless(message.removeprefix("\ufeff").replace("\t", " "))
    if message_format == "json":
        assert message.isascii()
        document = json.loads(message)
        if "truncated" not in document:
            assert document["tool"] == text
        elif document["truncated"] != ["*"]:  # of an astral character the escape takes twelve
            assert document["tool"].startswith(text[:40])
    elif message_format == "text":
        assert message.startswith("\ufeff") == (not message.isascii())
    else:
        assert message.startswith({"cef": "CEF:0|", "leef": "LEEF:2.0|"}[message_format])


@given(text=texts)
@settings(max_examples=150, deadline=None)
def test_what_http_receivers_take_keeps_every_value(text: str) -> None:
    hostile = hostile_record(text)

    event = json.loads(splunk_event(hostile, index="i", source="s", sourcetype="t", record_format="json"))
    assert event["event"]["tool"] == text
    assert event["fields"]["legation_id"] == hostile.id
    assert event["time"] == "1795341600.123456"

    action, body = bulk_lines(hostile, index="i", record_format="json").splitlines()
    assert json.loads(action) == {"create": {"_index": "i", "_id": hostile.id}}
    assert json.loads(body)["legation"]["tool"] == text

    row = json.loads(sentinel_row(hostile, record_format="json"))
    assert all(len(str(value).encode()) <= 64 * 1024 for value in row.values())
    if len(text) < 500:
        assert json.loads(row["Record"])["tool"] == text

    sent = log_record(hostile)
    assert json.loads(sent.body.string_value)["tool"] == text
    assert export_request([sent])


def test_a_huge_record_loses_its_longest_texts_and_says_which() -> None:
    document = json_document(record(arguments_json="x" * 1_000_000, tool="short", sentence="y" * 30_000))

    shortened = fitting(document, 8000)

    assert len(ascii_json_text(shortened)) <= 8000
    assert shortened["truncated"] == ["arguments_json", "sentence"]
    assert shortened["tool"] == "short"
    assert shortened["record_hash"] == "ab" * 32
    assert document["arguments_json"] == "x" * 1_000_000


def test_a_record_of_very_many_small_parts_still_fits() -> None:
    document = json_document(record(principal={"groups": ["g" * 60] * 5000}, **{f"field_{number}": "v" * 60 for number in range(2000)}))

    shortened = fitting(document, 8000)

    assert len(ascii_json_text(shortened)) <= 8000
    assert (shortened["id"], shortened["truncated"]) == ("node-1-1700000000000-77/5", ["*"])


def test_a_long_column_of_sentinel_is_shortened_to_what_it_holds() -> None:
    row = json.loads(sentinel_row(record(arguments_json="漢" * 100_000), record_format="json"))

    assert len(row["Record"]) <= SENTINEL_FIELD_CHARACTERS
    assert json.loads(row["Record"])["id"] == "node-1-1700000000000-77/5"


def test_json_is_the_same_value_as_without_the_escapes() -> None:
    value = {"text": "".join(map(chr, range(1, 0x2100))) + "😀"}

    assert json.loads(json_text(value)) == json.loads(ascii_json_text(value)) == value


@pytest.mark.parametrize(
    ("sent", "expected"), [("3", 3.0), ("0", 0.0), ("", 0.0), ("soon", 0.0), ("999999", 600.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)]
)
def test_retry_after_is_understood_and_bounded(sent: str, expected: float) -> None:
    assert retry_after_seconds(sent) == expected


# OCSF: what version 1.4.0 of the schema requires of the classes that are used

BASE = {"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}
REQUIRED = {6003: BASE | {"actor", "api", "src_endpoint"}, 3002: BASE | {"user"}, 3004: BASE | {"entity"}, 0: BASE}
CHANGE = {"actor": "idp/ops", "op": "update", "kind": "PolicySet", "namespace": "demo", "name": "crm", "uid": "u1", "message": "why"}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (record(tool="drop", effect="destructive", mcp_server="crm", namespace="demo"), (6003, 99)),
        (record(decision="allow", tool="list", effect="read"), (6003, 2)),
        (record(decision="allow", tool="put", effect="write"), (6003, 3)),
        (record("outcome", "unspecified", outcome={"http_status": 500, "duration_us": 12_000}), (6003, 99)),
        (record("refused", "deny", reason="access_token_expired"), (3002, 1)),
        (record("refused", "deny", reason="parse_error"), (6003, 99)),
        (record("change", "unspecified", change=CHANGE), (3004, 3)),
        (record("alarm", "unspecified", reason="audit_disk_full"), (0, 99)),
        (record("api_refused", "deny", reason="not_permitted"), (6003, 99)),
    ],
)
def test_ocsf_events_have_what_their_class_requires(event: SentRecord, expected: tuple[int, int]) -> None:
    said = ocsf_event(event)

    assert (said["class_uid"], said["activity_id"]) == expected
    assert said.keys() >= REQUIRED[said["class_uid"]]
    assert said["type_uid"] == said["class_uid"] * 100 + said["activity_id"]
    assert said["category_uid"] == said["class_uid"] // 1000
    assert said["metadata"]["version"] == "1.4.0"
    assert said["metadata"]["product"]["vendor_name"] == "Legation"
    assert said["metadata"]["uid"] == event.id
    if said["class_uid"] == 6003:
        assert said["api"]["operation"]
        assert said["api"]["request"]["uid"]
        assert said["src_endpoint"].keys() & {"ip", "name"}
        assert said["actor"].keys() & {"user", "app_uid", "app_name"}
    if said["class_uid"] == 3002:
        assert said["user"].keys() & {"uid", "name"}
        assert said["service"]["name"]


def test_ocsf_says_what_was_decided_and_by_which_policies() -> None:
    said = ocsf_event(
        record(
            tool="drop",
            determining_policies=["demo/crm#0"],
            downstream_address="192.0.2.7:40123",
            principal={"kind": "User", "id": "idp/ann"},
        )
    )

    assert (said["action_id"], said["disposition_id"], said["status_id"]) == (2, 2, 2)
    assert said["authorizations"] == [{"decision": "deny", "policy": {"uid": "demo/crm#0", "name": "demo/crm#0"}}]
    assert said["src_endpoint"] == {"ip": "192.0.2.7", "port": 40123}
    assert said["actor"]["user"] == {"uid": "idp/ann", "name": "idp/ann", "type_id": 1, "type": "User"}


@given(text=texts)
@settings(max_examples=100, deadline=None)
def test_ocsf_of_hostile_values_is_json(text: str) -> None:
    line = json_text(ocsf_event(hostile_record(text)))

    assert harmless(line)
    assert json.loads(line)["metadata"]["uid"] == "node-1-1700000000000-77/5"

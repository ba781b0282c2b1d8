"""Documents that were written to cost, to break others, or to slip through: each is refused with a sentence, cheaply."""

from __future__ import annotations

import json
import time

import pytest

from controlplane.registry.manifest import MAX_ERRORS, MAX_ERRORS_OF_DOCUMENT, parse_document, parse_documents, read_json
from controlplane.registry.own_address import OwnAddresses
from controlplane.registry.refusal import InvalidDocumentsError

ENDPOINTS = [{"url": "https://crm.example.com/mcp"}]


def _server(metadata: dict[str, object] | None = None, **spec: object) -> dict[str, object]:
    named = {"namespace": "demo", "name": "crm", **(metadata or {})}
    return {"apiVersion": "legation/v1", "kind": "McpServer", "metadata": named, "spec": {"endpoints": ENDPOINTS, **spec}}


def _errors(document: object) -> list[tuple[str, str]]:
    return [(error.path, error.message) for error in parse_document(document)[1]]


def _header(header: str = "x-api-key", prefix: str = "") -> dict[str, object]:
    return _server(credential={"staticHeader": {"header": header, "prefix": prefix, "secret": {"file": "key"}}})


def test_a_thousand_unknown_keys_cost_milliseconds_and_the_errors_end():
    document = _server(**{f"key{number}": 1 for number in range(1000)})
    _errors(_server(kee=1))  # the schema is made once

    started = time.process_time()
    errors = _errors(document)
    took = time.process_time() - started

    assert took < 5.0
    assert len(errors) == MAX_ERRORS_OF_DOCUMENT + 1
    assert errors[-1] == ("spec", "and 900 more errors")


def test_a_manifest_of_faults_is_read_until_there_are_enough():
    faulty = _server(**{f"key{number}": 1 for number in range(90)})

    _, errors = parse_documents(json.dumps([faulty] * 1000).encode())

    assert MAX_ERRORS <= len(errors) <= MAX_ERRORS + MAX_ERRORS_OF_DOCUMENT + 2
    assert "were not read" in errors[-1].message
    assert errors[-1].document == errors[-2].document < 20


def test_a_refusal_never_holds_more_errors_than_anybody_reads():
    _, errors = parse_documents(json.dumps([_server(kee=1)] * 900).encode())

    refusal = InvalidDocumentsError(errors * 3)

    assert len(refusal.errors) == MAX_ERRORS + 1
    assert refusal.errors[-1].message == f"and {3 * len(errors) - MAX_ERRORS} more errors"


@pytest.mark.parametrize(
    "text",
    [
        b"a: [" + b"1," * 2_000_000 + b"]",
        b"".join(b"k%d: 1\n" % number for number in range(380_000)),
        b"---\n[" + b"1," * 40_000 + b"]\n" * 1,
    ],
)
def test_very_many_values_are_refused_before_they_are_built(text: bytes):
    started = time.process_time()
    _, errors = parse_documents(text[: 4 * 1024 * 1024])

    assert time.process_time() - started < 30.0
    assert errors


def test_a_document_of_too_many_values_is_refused_whole():
    assert _errors(_server(**{f"key{number}": 1 for number in range(60_000)})) == [("", "holds more than 50000 values")]


def test_what_was_sent_comes_back_shortened():
    long_key = [(path, message) for path, message in _errors(_server(**{"k" * 400: 1}))]
    longer_key = _errors(_server(**{"k" * 4000: 1}))
    long_kind = _errors({"kind": "k" * 100_000})

    assert all(len(path) < 300 for path, _ in long_key)
    assert "longer than 512 characters" in longer_key[0][1]
    assert all(len(path) < 300 and len(message) < 500 for path, message in long_kind)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (_server({"labels": {"a": "\ud800"}}), "metadata.labels.a"),
        (_server({"labels": {"\udfff": "a"}}), "metadata.labels.'\\udfff'"),
        (_server({"annotations": {"a": "x\udc00y"}}), "metadata.annotations.a"),
        (_server(description="\ud83d"), "spec.description"),
        (_server(**{"\ud800": 1}), "spec.'\\ud800'"),
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(document: dict[str, object], path: str):
    errors = _errors(document)

    assert [found for found, _ in errors] == [path]
    assert "surrogate" in errors[0][1]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "\\ud800"}',
        '{"\\ud800": 1}',
        '["\\udc00\\ud800"]',
        '{"a": {"b": ["x", {"c": "\\udfff"}]}}',
        '"\\ud800"',
    ],
)
def test_json_with_half_a_surrogate_pair_is_no_json(text: str):
    with pytest.raises(ValueError, match="surrogate"):
        read_json(text)


def test_yaml_with_half_a_surrogate_pair_is_refused_and_a_whole_pair_is_not():
    half = parse_documents(b'apiVersion: legation/v1\nkind: Namespace\nmetadata: {name: demo}\nspec: {description: "\\ud800"}\n')
    whole = parse_documents(json.dumps(_server(description="\U0001f600")).encode())

    assert half[0] == []
    assert half[1]
    assert whole[1] == []


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x7f", "\x9b"])
def test_control_characters_are_refused_and_line_breaks_are_not(character: str):
    errors = _errors(_server(description=f"a{character}b"))

    assert errors == [("spec.description", f"holds the control character U+{ord(character):04X}")]
    assert _errors(_server(description="two\nlines\tof text")) == []


@pytest.mark.parametrize(
    "labels",
    [
        {"app": "crm"},
        {"app.kubernetes.io/managed-by": "git_ops.1"},
        {"a": ""},
        {"x" * 63: "y" * 63},
        {"example.com/" + "x" * 63: "1"},
    ],
)
def test_labels_are_those_of_kubernetes(labels: dict[str, str]):
    assert _errors(_server({"labels": labels})) == []


@pytest.mark.parametrize(
    ("metadata", "path"),
    [
        ({"labels": {"": "x"}}, "metadata.labels."),
        ({"labels": {"x" * 64: "x"}}, "metadata.labels." + "x" * 64),
        ({"labels": {"-a": "x"}}, "metadata.labels.-a"),
        ({"labels": {"a/b/c": "x"}}, "metadata.labels.a/b/c"),
        ({"labels": {"a b": "x"}}, "metadata.labels.a b"),
        ({"labels": {"a": "x" * 64}}, "metadata.labels.a"),
        ({"labels": {"a": "two\nlines"}}, "metadata.labels.a"),
        ({"labels": {"a": "ends\n"}}, "metadata.labels.a"),
        ({"labels": {"a": "ä"}}, "metadata.labels.a"),
        ({"labels": {"a": 1}}, "metadata.labels.a"),
        ({"annotations": {"a": "x" * 4097}}, "metadata.annotations.a"),
        ({"annotations": {"a b": "x"}}, "metadata.annotations.a b"),
        ({"labels": {f"k{number}": "x" for number in range(65)}}, "metadata.labels"),
    ],
)
def test_other_labels_and_annotations_are_refused_at_their_place(metadata: dict[str, object], path: str):
    assert [found for found, _ in _errors(_server(metadata))] == [path]


@pytest.mark.parametrize(
    "header",
    [
        *("Proxy-Authorization", "proxy-connection", "Keep-Alive", "Origin", "TE", "Trailer", "Expect", "Forwarded", "Via", "Host"),
        *("connection", "Transfer-Encoding", "Upgrade", "Cookie", "Set-Cookie", "Referer", "Accept", "Content-Length", "Sec-Fetch-Site"),
        *("X-Forwarded-For", "x-envoy-original-path", "X-Real-IP", "X-Request-Id", "traceparent", "Mcp-Session-Id", "Last-Event-ID"),
        *("X-HTTP-Method-Override", "grpc-timeout", "access-control-allow-origin", "X-Legation-Lane", "Range", "Max-Forwards"),
    ],
)
def test_headers_that_frame_route_or_name_the_sender_carry_no_credential(header: str):
    assert _errors(_header(header)) == [("spec.credential.staticHeader.header", f"{header} cannot carry a credential")]


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key", "Api-Key", "X-Auth-Token", "Private-Token", "apikey"])
def test_headers_that_are_used_for_credentials_do(header: str):
    assert _errors(_header(header)) == []


@pytest.mark.parametrize("prefix", ["Bearer \r\nX-Evil: 1", "a\nb", "tab\t", "schlüssel ", "\x7f", "ends\n"])
def test_a_prefix_that_is_no_header_text_is_refused(prefix: str):
    assert [path for path, _ in _errors(_header(prefix=prefix))] == ["spec.credential.staticHeader.prefix"]


OWN = OwnAddresses(
    ("https://gateway.example.com", "0.0.0.0:8080", "unix:/run/api", "[::1]:18000", "control-plane:18080", "", "192.0.2.7:9000")
)


@pytest.mark.parametrize(
    "url",
    [
        "https://gateway.example.com/servers/demo/crm/mcp",
        "https://GATEWAY.example.com.:443/",
        "http://127.0.0.1:8080/mcp",
        "http://127.8.9.1:8080/mcp",
        "http://localhost:8080/mcp",
        "http://a.localhost:8080/mcp",
        "http://2130706433:8080/mcp",
        "http://0x7f.1:8080/mcp",
        "http://[::1]:8080/mcp",
        "http://[::ffff:127.0.0.1]:8080/mcp",
        "http://0.0.0.0:8080/mcp",
        "http://[::]:8080/mcp",
        "http://127.0.0.1:18000/",
        "http://control-plane:18080/",
        "http://192.0.2.7:9000/",
        "http://[::ffff:192.0.2.7]:9000/",
    ],
)
def test_the_gateway_knows_its_own_address_in_every_notation(url: str):
    assert OWN.include(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://gateway.example.com/",
        "https://crm.example.com/mcp",
        "http://127.0.0.1:9101/mcp",
        "http://crm:8080/mcp",
        "http://192.0.2.7:8080/",
        "not a url",
    ],
)
def test_other_addresses_are_not_the_gateways(url: str):
    assert not OWN.include(url)
    assert not OwnAddresses().include(url)

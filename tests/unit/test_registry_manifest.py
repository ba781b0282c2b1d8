"""Manifests: what is read, what is refused, and how it is said."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from controlplane.registry.manifest import MAX_BYTES, MAX_DOCUMENTS, parse_documents
from controlplane.registry.spec import Kind, McpServerSpec
from controlplane.registry.yaml_text import YamlTextError, read_yaml_documents

NAMESPACE = "apiVersion: legation/v1\nkind: Namespace\nmetadata: {name: demo}\n"


def _messages(text: str | bytes) -> list[tuple[int, str, str]]:
    _, errors = parse_documents(text.encode() if isinstance(text, str) else text)
    return [(error.document, error.path, error.message) for error in errors]


def test_yaml_and_json_mean_the_same_document():
    document = {
        "apiVersion": "legation/v1",
        "kind": "McpServer",
        "metadata": {"namespace": "demo", "name": "crm", "annotations": {"note": "smile \U0001f600"}},
        "spec": {"endpoints": [{"url": "https://crm.example.com/mcp"}]},
    }

    from_yaml, no_errors = parse_documents(yaml.safe_dump(document).encode())
    from_json, none_either = parse_documents(json.dumps(document).encode())

    assert from_yaml == from_json
    assert (no_errors, none_either) == ([], [])
    assert from_json[0].metadata.annotations["note"] == "smile \U0001f600"
    assert isinstance(from_json[0].spec, McpServerSpec)


def test_several_documents_come_in_order_and_empty_ones_do_not_count():
    documents, errors = parse_documents(f"---\n# nothing\n---\n{NAMESPACE}---\n{NAMESPACE.replace('demo', 'other')}---\n".encode())

    assert errors == []
    assert [(document.index, document.metadata.name) for document in documents] == [(0, "demo"), (1, "other")]


def test_a_json_array_is_several_documents():
    one = {"apiVersion": "legation/v1", "kind": "Namespace", "metadata": {"name": "demo"}}

    documents, errors = parse_documents(json.dumps([one, one | {"metadata": {"name": "other"}}]).encode())

    assert [document.index for document in documents] == [0, 1]
    assert errors == []


def test_what_the_registry_itself_writes_can_be_applied_again():
    text = (
        NAMESPACE.replace("{name: demo}", "{name: demo, uid: x, resourceRevision: 3, createdAt: a, updatedAt: b}")
        + "status: {conditions: []}\n"
    )

    documents, errors = parse_documents(text.encode())

    assert (len(documents), errors) == (1, [])


def test_every_fault_of_every_document_is_told_at_once_with_its_place():
    text = """
apiVersion: legation/v2
kind: McpServr
metadata: {name: Demo}
---
apiVersion: legation/v1
kind: McpServer
metadata: {name: crm, namespace: demo}
spec: {endpoints: [{url: ftp://a}], maxBodyBytes: 3, credentail: {}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {name: r}
spec: {role: "Not a role", subjects: []}
extra: 1
"""
    found = {(document, path) for document, path, _ in _messages(text)}

    assert (
        found
        == {
            (0, "apiVersion"),
            (0, "kind"),
            (0, "metadata.name"),
            (1, "spec.endpoints[0].url"),
            (1, "spec.maxBodyBytes"),
            (1, "spec.credentail"),
            (2, "extra"),
            (2, "metadata.namespace"),
            (2, "spec.role"),
            (2, "spec.subjects"),
        }
        | {(1, "spec.endpoints")} & found
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (NAMESPACE.replace("Namespace", "namespace"), "did you mean 'Namespace'?"),
        (NAMESPACE.replace("metadata", "metdata"), "did you mean 'metadata'?"),
        (NAMESPACE.replace("{name: demo}", "{nmae: demo}"), "did you mean 'name'?"),
        (NAMESPACE + "spec: {descripton: x}\n", "did you mean 'description'?"),
        (NAMESPACE.replace("{name: demo}", "{name: demo, namespace: x}"), "a Namespace is not in a namespace"),
        ("", "there is no document in here"),
        ("just text", "a document must be a mapping"),
        (NAMESPACE + "---\n" + NAMESPACE, "is already document 0"),
        (b"\xff\xfe", "must be UTF-8"),
        ("a: [", "did not find expected"),
        ('{"apiVersion": "legation/v1", "apiVersion": "x"}', "a key is given twice"),
        ('{"apiVersion": NaN}', "NaN is not JSON"),
        ("[" * 100, "nested"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested"),
    ],
)
def test_a_fault_says_what_to_write_instead(text: str | bytes, hint: str):
    assert any(hint in message for _, _, message in _messages(text)), _messages(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a: &x 1\nb: *x\n", "anchors and aliases"),
        ("a: 1\na: 2\n", "line 2, column 1: the key 'a' is given twice"),
        ("{a: 1, 'a': 2}", "given twice"),
        ("!!python/object/apply:os.system ['true']", "is not accepted"),
        ("a: !!binary aGk=", "is not accepted"),
        ("a: !secret x", "is not accepted"),
        ("<<: {a: 1}", "not a string"),
        ("1: x", "not a string"),
        ("null: x", "not a string"),
        ("? [a]\n: x\n", "a key must be a string"),
        ("a: 1.0e+999", "out of range"),
        ("[" * 61 + "]" * 61, "nested deeper than 60 levels"),
        ("[" * 200_000, "nested deeper than 60 levels"),
        ("{a: " * 200_000, "nested deeper than 60 levels"),
        ("- " * 20_000, "nested"),
        ("a: \x07", "does not allow"),
    ],
)
def test_yaml_that_costs_or_confuses_is_refused(text: str, hint: str):
    with pytest.raises(YamlTextError, match=re.escape(hint)):
        list(read_yaml_documents(text))


def test_scalars_are_those_of_json_and_nothing_else():
    (read,) = read_yaml_documents(
        "{a: no, b: on, c: 2026-11-22, d: 0x10, e: 1_000, f: .inf, g: true, h: ~, i: 1.5, j: -3, k: !!str 1, l: '1', m: 012}"
    )

    expected = {"a": "no", "b": "on", "c": "2026-11-22", "d": "0x10", "e": "1_000", "f": ".inf", "g": True, "h": None}
    assert read == expected | {"i": 1.5, "j": -3, "k": "1", "l": "1", "m": "012"}


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), children, max_size=4)
    ),
    max_leaves=12,
)


@given(_JSON)
@example("0E0")
@example("08")
@example("1.5e5")
def test_what_a_yaml_writer_means_is_what_is_read(value: object):
    text = yaml.safe_dump(value)
    if "&id" in text:
        return  # the writer chose an anchor

    assert list(read_yaml_documents(text)) == [value]


@given(st.text(max_size=200))
def test_no_text_makes_the_reader_fail_otherwise(text: str):
    documents, errors = parse_documents(text.encode("utf-8", "surrogatepass"))

    assert documents or errors


def test_too_much_is_refused():
    assert "larger than 4 MiB" in _messages(b"#" * (MAX_BYTES + 1))[0][2]
    many = json.dumps([{"apiVersion": "legation/v1", "kind": "Namespace", "metadata": {"name": "a"}}] * (MAX_DOCUMENTS + 1))
    assert any("more than 5000 documents" in message for _, _, message in _messages(many))


def test_no_message_repeats_what_was_written_into_a_secret():
    for secret in ('{value: "hunter2", file: a}', "{value: [hunter2]}", "{valeu: hunter2}", "hunter2", '{file: "hunter2/../x"}'):
        text = (
            "apiVersion: legation/v1\nkind: McpServer\nmetadata: {name: crm, namespace: demo}\n"
            f"spec: {{endpoints: [{{url: 'https://a.example.com/'}}], credential: {{staticHeader: {{secret: {secret}}}}}}}\n"
        )
        messages = _messages(text)
        assert messages
        assert "hunter2" not in repr(messages)


def test_every_kind_has_a_spec_and_a_name():
    for kind in Kind:
        documents, errors = parse_documents(f"apiVersion: legation/v1\nkind: {kind}\nmetadata: {{name: a, namespace: b}}\n".encode())
        assert documents == []
        assert errors

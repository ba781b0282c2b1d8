"""AuditPolicy, AuditSink and CostModel as documents: what the registry takes, refuses with which words, seals, and tells authorizers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.registry.audit_key import audit_key_id, audit_private_key, audit_public_key
from controlplane.registry.audit_rules import EVENT_NAMES, audit_policy_of, retention_of
from controlplane.registry.encryption import RegistryKey, open_secret
from controlplane.registry.kind import Kind
from controlplane.registry.permissions import PERMISSIONS_OF_ROLE, Permission
from controlplane.registry.refusal import ConflictError, InvalidDocumentsError, NotPermittedError
from controlplane.registry.service import Precondition
from controlplane.xds.authorizer_resources import build_authorization_state
from extauthz.catalog.audit_policy import BUILT_IN, AuditMode, Keep, policy_for
from extauthz.state import AuthorizationState
from tests.functional.registry import ADMIN, Registry, open_registry, operator
from tests.pki import TestAuthority

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    (f"{page}-{number}", block)
    for page in ("audit-policy", "audit-sinks", "usage")
    for number, block in enumerate(re.findall(r"```yaml\n(apiVersion:.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL))
]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = open_registry(f"sqlite:///{tmp_path}/registry.db", secrets_dir=tmp_path / "secrets")
    yield registry
    registry.store.close()


def document(kind: str, namespace: str, name: str, spec: dict[str, Any]) -> bytes:
    metadata = {"namespace": namespace, "name": name}
    return yaml.safe_dump({"apiVersion": "legation/v1", "kind": kind, "metadata": metadata, "spec": spec}).encode()


def policy(namespace: str = "system", name: str = "default", **spec: Any) -> bytes:
    return document("AuditPolicy", namespace, name, spec)


def sink(namespace: str = "demo", **spec: Any) -> bytes:
    return document("AuditSink", namespace, "siem", spec)


def faults(registry: Registry, text: bytes) -> dict[str, str]:
    with pytest.raises(InvalidDocumentsError) as caught:
        registry.apply(text)
    return {error.path: error.message for error in caught.value.errors}


def authorization_state(registry: Registry) -> AuthorizationState:
    return build_authorization_state(registry.live.state, key=registry.key, now=datetime.now(UTC))


@pytest.mark.parametrize("block", [block for _, block in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_the_documents_of_the_pages_are_taken_as_they_stand_there(registry: Registry, block: str) -> None:
    results = registry.apply(block.encode()).results

    assert {result.action for result in results} == {"created"}
    assert [result.warnings for result in results] == [()] * len(results)


def test_the_page_names_every_event() -> None:
    text = (DOCS / "audit-policy.md").read_text()

    assert [event for event in EVENT_NAMES if f"`{event}`" not in text] == []


def test_without_any_document_calls_are_strict_and_arguments_hashed(registry: Registry) -> None:
    state = authorization_state(registry)

    assert policy_for(state, "demo") is policy_for(None, "demo") is BUILT_IN
    assert (BUILT_IN.mode, BUILT_IN.argument_rules.keep, BUILT_IN.result_rules.keep) == (AuditMode.STRICT, Keep.HASHED, Keep.OFF)


def test_the_policy_of_a_namespace_replaces_that_of_system(registry: Registry) -> None:
    registry.apply(policy(mode="available", arguments={"keep": "full"}))
    registry.apply(policy("demo", results={"keep": "redacted"}))

    state = authorization_state(registry)

    assert (policy_for(state, "other").mode, policy_for(state, "other").argument_rules.keep) == (AuditMode.AVAILABLE, Keep.FULL)
    assert (policy_for(state, "demo").mode, policy_for(state, "demo").argument_rules.keep) == (AuditMode.STRICT, Keep.HASHED)
    assert policy_for(state, "demo").result_rules.keep is Keep.REDACTED


def test_rules_arrive_compiled_with_classes_and_globs_resolved(registry: Registry) -> None:
    rules = [
        {"servers": ["crm"], "path": "$..email", "dataClass": "contact"},
        {"servers": ["demo/er*"], "tools": ["put"], "path": "$.rows[*]['a b'][0]", "keep": "full"},
    ]
    registry.apply(policy("demo", dataClasses={"contact": "off"}, arguments={"rules": rules}))

    arguments = policy_for(authorization_state(registry), "demo").argument_rules

    assert arguments.treatment("demo/crm", "get").keep_at(("a", "email")) is Keep.OFF
    assert arguments.treatment("other/crm", "get").keep_at(("a", "email")) is Keep.HASHED
    assert arguments.treatment("demo/erp", "put").keep_at(("rows", 3, "a b", 0)) is Keep.FULL
    assert arguments.treatment("demo/erp", "put").keep_at(("rows", 3, "a b", 1)) is Keep.HASHED
    assert arguments.treatment("demo/erp", "get").rules == ()


def test_a_glob_without_a_namespace_means_every_one_in_system(registry: Registry) -> None:
    registry.apply(policy(arguments={"rules": [{"servers": ["crm"], "keep": "full"}]}))

    arguments = policy_for(authorization_state(registry), "other").argument_rules

    assert arguments.treatment("other/crm", "get").keep_at(()) is arguments.treatment("demo/crm", "get").keep_at(()) is Keep.FULL
    assert arguments.treatment("demo/crm2", "get").keep_at(()) is Keep.HASHED


def test_authorizers_are_told_the_public_half_of_the_key_that_only_the_registry_key_makes(registry: Registry) -> None:
    told = authorization_state(registry).audit_sealing_key

    assert told is not None
    assert (told.key_id, told.public_key) == (audit_key_id(registry.key), audit_public_key(registry.key))
    assert told.public_key == audit_private_key(registry.key).public_key().public_bytes_raw()
    assert audit_key_id(RegistryKey(b"f" * 32)) != told.key_id


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ({"mode": "sometimes"}, "spec.mode", "'strict' or 'available'"),
        ({"arguments": {"keep": "some"}}, "spec.arguments.keep", "'full', 'redacted', 'hashed' or 'off'"),
        ({"arguments": {"rules": [{"path": "$.a-b", "keep": "off"}]}}, "spec.arguments.rules[0].path", "written ['name']"),
        ({"arguments": {"rules": [{"path": "$.a"}]}}, "spec.arguments.rules[0]", "exactly one of 'keep' and 'dataClass'"),
        ({"arguments": {"rules": [{"path": "$.a", "dataClass": "pii"}]}}, "spec", "which 'dataClasses' does not name"),
        ({"results": {"rules": [{"path": "$.a", "kept": "off"}]}}, "spec.results.rules[0].kept", "did you mean 'keep'"),
        ({"retention": [{"events": ["tool_call"], "hotDays": 10, "keepDays": 9}]}, "spec.retention[0]", "not be less than 'hotDays'"),
        ({"retention": [{"events": ["tool_call"], "keepDays": 40_000}]}, "spec.retention[0].keepDays", "36500"),
        ({"retention": [{"events": ["tool_cal"]}]}, "spec.retention[0].events[0]", "did you mean 'tool_call'?"),
        ({"retention": [{"events": ["change"]}, {"events": ["change"]}]}, "spec", "names the event change twice"),
        ({"legalHolds": [{"name": "a", "reason": ""}]}, "spec.legalHolds[0].reason", "at least 1"),
        (
            {"legalHolds": [{"name": "a", "reason": "x", "from": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}]},
            "spec.legalHolds[0]",
            "later than 'from'",
        ),
        ({"legalHolds": [{"name": "a", "reason": "x", "from": "2026-02-01T00:00:00"}]}, "spec.legalHolds[0].from", "timezone"),
    ],
)
def test_a_policy_that_means_nothing_is_refused_with_its_place(registry: Registry, spec: dict[str, Any], path: str, words: str) -> None:
    found = faults(registry, policy(**spec))

    assert path in found, found
    assert words in found[path]


def test_a_policy_of_another_name_is_refused(registry: Registry) -> None:
    assert "must be 'default'" in faults(registry, policy(name="strict-one"))["metadata.name"]


def test_a_namespace_rules_only_its_own_servers(registry: Registry) -> None:
    found = faults(registry, policy("demo", arguments={"rules": [{"servers": ["crm", "other/*"], "keep": "off"}]}))

    assert "other/* names servers of another namespace" in found["spec.arguments.rules[0].servers[1]"]


def test_available_mode_and_the_end_of_a_legal_hold_are_warned_of(registry: Registry) -> None:
    (first,) = registry.apply(policy(legalHolds=[{"name": "case", "reason": "x"}])).results
    (second,) = registry.apply(policy(mode="available")).results

    assert first.warnings == ()
    assert [warning.partition(":")[0] for warning in second.warnings] == ["spec.mode", "spec.legalHolds"]


def test_a_policy_with_legal_holds_is_not_deleted_by_mistake(registry: Registry) -> None:
    registry.apply(policy("demo", legalHolds=[{"name": "case-1", "reason": "x"}]))
    key = (Kind.AUDIT_POLICY, "demo", "default")

    with pytest.raises(ConflictError, match="case-1"):
        registry.service.delete(ADMIN, key, precondition=Precondition(if_match=("*",)))
    registry.apply(policy("demo"))
    registry.service.delete(ADMIN, key, precondition=Precondition(if_match=("*",)))

    assert registry.live.state.audit_policies == {}


def test_retention_is_that_of_the_namespace_of_its_rule_else_of_all(registry: Registry) -> None:
    registry.apply(policy("demo", retention=[{"events": ["tool_call"], "keepDays": 730}, {"events": ["*"], "keepDays": 90}]))
    state = registry.live.state

    kept = [
        retention_of(audit_policy_of(state, namespace), event).keep_days
        for namespace in ("demo", "other")
        for event in ("tool_call", "change")
    ]

    assert kept == [730, 90, 400, 400]


SYSLOG: dict[str, Any] = {"syslog": {"address": "127.0.0.1:6514"}}
SPLUNK: dict[str, Any] = {"splunkHec": {"url": "https://splunk.example.com:8088", "token": {"value": "secret-token"}}}


def test_secrets_of_a_sink_are_sealed_and_stay_with_their_address(registry: Registry) -> None:
    registry.apply(sink(**SPLUNK))
    entry = registry.live.state.audit_sinks["demo/siem"]
    sealed = entry.spec.splunk_hec.token.value
    assert open_secret(registry.key, uid=entry.uid, path="spec.splunkHec.token", sealed=sealed) == b"secret-token"

    read = registry.reader.read_document(operator("vera", "legation:viewer", "demo"), (Kind.AUDIT_SINK, "demo", "siem"))
    assert read["spec"]["splunkHec"]["token"] == {"encrypted": True}
    kept = {"splunkHec": {"url": "https://splunk.example.com:8088/other", "token": {"encrypted": True}}}
    registry.apply(sink(**kept))
    assert registry.live.state.audit_sinks["demo/siem"].spec.splunk_hec.token.value == sealed

    moved = {"splunkHec": {"url": "https://elsewhere.example.com", "token": {"encrypted": True}}}
    assert "the address has changed" in faults(registry, sink(**moved))["spec.splunkHec.token"]


def test_headers_of_otlp_are_sealed_each_and_s3_and_sentinel_too(registry: Registry) -> None:
    tenant = "11111111-2222-3333-4444-555555555555"
    sentinel = {
        "endpoint": "https://dce.example.com",
        "ruleId": "dcr-" + "0" * 32,
        "stream": "Custom-Legation",
        "tenantId": tenant,
        "clientId": tenant,
        "clientSecret": {"value": "s"},
    }
    s3 = {"endpoint": "https://s3.example.com", "bucket": "audit", "accessKeyId": "AK", "secretAccessKey": {"value": "s"}}
    for spec in (
        {"otlp": {"endpoint": "https://otel.example.com/v1/logs", "headers": {"x-api-key": {"value": "s"}}}},
        {"sentinel": sentinel},
        {"parquet": {"s3": s3}},
        {"elastic": {"url": "https://elastic.example.com", "dataStream": "logs-legation", "apiKey": {"value": "s"}}},
    ):
        registry.apply(sink(**spec))
        stored = registry.store.read_entry((Kind.AUDIT_SINK, "demo", "siem"))
        assert stored is not None
        assert "sealed:v1:" in str(stored.spec)

    moved = {"sentinel": {**sentinel, "clientSecret": {"encrypted": True}, "authority": "https://evil.example.com"}}
    registry.apply(sink(sentinel=sentinel))
    assert "the address has changed" in faults(registry, sink(**moved))["spec.sentinel.clientSecret"]


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ({}, "spec", "exactly one of"),
        ({**SYSLOG, "file": {}}, "spec", "exactly one of"),
        ({**SYSLOG, "format": "ocsf"}, "spec", "'format: ocsf' goes with"),
        ({"syslog": {"address": "logs.example.com"}}, "spec.syslog.address", "host:port"),
        ({"syslog": {"address": "10.0.0.1:6514"}}, "spec.syslog.address", "private"),
        ({"syslog": {"address": "127.0.0.1:514", "transport": "tcp", "tls": {"serverName": "a"}}}, "spec.syslog.tls", "does not go"),
        ({"syslog": {"address": "127.0.0.1:514", "appName": "a b"}}, "spec.syslog.appName", "form"),
        ({"file": {"path": "../other"}}, "spec.file.path", "a relative directory"),
        ({"file": {"path": "/etc"}}, "spec.file.path", "a relative directory"),
        ({"file": {"rotateMiB": 0}}, "spec.file.rotateMiB", "greater"),
        ({"elastic": {"url": "https://e.example.com", "apiKey": {"value": "s"}}}, "spec.elastic", "'index' and 'dataStream'"),
        ({"elastic": {"url": "http://e.example.com", "index": "a", "apiKey": {"value": "s"}}}, "spec.elastic.url", "must be https"),
        ({"elastic": {"url": "https://169.254.169.254", "index": "a", "apiKey": {"value": "s"}}}, "spec.elastic.url", "refused"),
        ({"otlp": {"endpoint": "https://u:p@o.example.com"}}, "spec.otlp.endpoint", "password"),
        ({"otlp": {"endpoint": "https://o.example.com", "tls": {"caFile": "missing.pem"}}}, "spec.otlp.tls.caFile", "missing.pem"),
        ({"otlp": {"endpoint": "http://127.0.0.1:4318", "tls": {"serverName": "a"}}}, "spec.otlp.tls", "without TLS"),
        ({"parquet": {}}, "spec.parquet", "'directory' and 's3'"),
        ({**SYSLOG, "filter": {"events": ["tool_call", "denial"]}}, "spec.filter.events[1]", "is no event"),
        ({**SYSLOG, "filter": {"servers": ["other/crm"]}}, "spec.filter.servers[0]", "another namespace"),
        ({**SYSLOG, "batch": {"records": 0}}, "spec.batch.records", "greater"),
    ],
)
def test_a_sink_that_cannot_work_is_refused_with_its_place(registry: Registry, spec: dict[str, Any], path: str, words: str) -> None:
    found = faults(registry, sink(**spec))

    assert path in found, found
    assert words in found[path]


def test_files_of_a_sink_are_read_when_it_is_applied(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "secrets" / "demo"
    folder.mkdir(parents=True, mode=0o700)
    authority = TestAuthority("ca")
    client, other = authority.issue("client"), authority.issue("other")
    files = {"ca.pem": authority.pem, "chain.pem": client.chain_pem, "key.pem": client.key_pem, "other.pem": other.key_pem}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    tls = {"caFile": "ca.pem", "clientCertificate": {"chain": "chain.pem", "key": "key.pem"}}
    wrong = {**tls, "clientCertificate": {"chain": "chain.pem", "key": "other.pem"}}

    (good,) = registry.apply(sink(syslog={"address": "127.0.0.1:6514", "tls": tls})).results
    found = faults(registry, sink(syslog={"address": "127.0.0.1:6514", "tls": wrong}))
    (suspended,) = registry.apply(sink(syslog={"address": "127.0.0.1:6514", "tls": wrong}, suspended=True)).results

    assert good.warnings == ()
    assert "is not the private key" in found["spec.syslog.tls.clientCertificate.key"]
    assert len(suspended.warnings) == 1


def test_plain_text_to_another_machine_is_warned_of(registry: Registry) -> None:
    (result,) = registry.apply(sink(syslog={"address": "logs.example.com:514", "transport": "tcp"})).results

    assert "plain text" in result.warnings[0]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"currency": "EUR", "prices": []}, "spec.prices"),
        ({"currency": "euro", "prices": [{"price": "1"}]}, "spec.currency"),
        ({"currency": "EUR", "prices": [{"price": 0.1}]}, "spec.prices[0].price"),
        ({"currency": "EUR", "prices": [{"price": "-1"}]}, "spec.prices[0].price"),
        ({"currency": "EUR", "prices": [{"price": "1e3"}]}, "spec.prices[0].price"),
        ({"currency": "EUR", "prices": [{"price": "1", "per": "day"}]}, "spec.prices[0].per"),
        ({"currency": "EUR", "prices": [{"price": "1", "servers": ["other/x"]}]}, "spec.prices[0].servers[0]"),
    ],
)
def test_a_cost_model_that_means_no_money_is_refused(registry: Registry, spec: dict[str, Any], path: str) -> None:
    assert path in faults(registry, document("CostModel", "demo", "prices", spec))


def test_whoever_edits_servers_does_not_govern_the_record_nor_the_prices(registry: Registry) -> None:
    editor, accountant = operator("edith", "legation:editor", "demo"), operator("ada", "legation:accountant", "demo")
    prices = document("CostModel", "demo", "prices", {"currency": "EUR", "prices": [{"price": "0.10"}]})

    for text in (policy("demo", mode="available"), sink(**SYSLOG), prices):
        with pytest.raises(NotPermittedError):
            registry.apply(text, editor)
    with pytest.raises(NotPermittedError):
        registry.apply(policy("demo"), accountant)
    registry.apply(prices, accountant)

    assert registry.live.state.cost_models["demo/prices"].spec.prices[0].price == "0.10"
    assert Permission.USAGE_READ in PERMISSIONS_OF_ROLE["legation:accountant"]

"""Does an AuditPolicy, an AuditSink or a CostModel make sense where it stands? And what the policies of a state say together.

Faults refuse the document, warnings go with its answer. Next: `xds.audit_resources` tells authorizers, `audit` keeps and sends.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from controlplane.registry.audit_policy_spec import AUDIT_POLICY_NAME, ContentRuleSpec, RetentionSpec
from controlplane.registry.audit_sink_spec import SinkTlsSpec, SyslogSinkSpec
from controlplane.registry.authority import AuthorityReader
from controlplane.registry.key_pair import KeyPairError, check_key_pair
from controlplane.registry.manifest import DocumentError
from controlplane.registry.spec import SYSTEM_NAMESPACE, AuditPolicySpec, AuditSinkSpec, CostModelSpec
from controlplane.registry.state import RegistryState
from controlplane.registry.validation import Findings, WrittenEntry
from extauthz.address import AddressRules, is_loopback_name, parse_host_literal
from extauthz.errors import AddressError, ConfigurationError
from extauthz.v1 import audit_pb2

EVENT_NAMES = tuple(name.removeprefix("AUDIT_EVENT_").lower() for name in audit_pb2.AuditEvent.keys() if not name.endswith("UNSPECIFIED"))  # noqa: SIM118 - protobuf's enum wrapper
"""Every event that records are of, as documents spell them."""
EVERY_EVENT = "*"
_RESULTS = (
    "calls of these tools pass an aggregator, which records what is answered to tools/call, tasks/get and tasks/result; what servers send "
    "beside that (progress, log messages, questions on the way, streams) is not recorded"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditChecks:
    """What the rules need beside the registry."""

    address_rules: AddressRules
    files: AuthorityReader
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """One document, and where to say what is wrong with it."""

    item: WrittenEntry
    findings: Findings
    checks: AuditChecks

    def refuse(self, path: str, message: str) -> None:
        self.findings.errors.append(DocumentError(document=self.item.document, path=path, message=message))

    def warn(self, path: str, message: str) -> None:
        self.findings.warn(self.item.document, f"{path}: {message}")

    @property
    def namespace(self) -> str:
        return self.item.entry.namespace


def check_audit(written: Sequence[WrittenEntry], before: RegistryState, checks: AuditChecks, findings: Findings) -> None:
    """The rules of these kinds, for every document of a change."""
    for item in written:
        place = _Place(item=item, findings=findings, checks=checks)
        match item.entry.spec:
            case AuditPolicySpec() as spec:
                _check_policy(place, spec, before)
            case AuditSinkSpec() as spec:
                _check_sink(place, spec)
            case CostModelSpec() as spec:
                for index, price in enumerate(spec.prices):
                    _check_globs(place, price.servers, f"spec.prices[{index}].servers")


def audit_policy_of(state: RegistryState, namespace: str) -> AuditPolicySpec:
    """What holds in a namespace: its own AuditPolicy, else that of `system`, else the built-in one."""
    for candidate in (namespace, SYSTEM_NAMESPACE):
        entry = state.audit_policies.get(f"{candidate}/{AUDIT_POLICY_NAME}")
        if entry is not None:
            return entry.spec
    return AuditPolicySpec()


def retention_of(policy: AuditPolicySpec, event: str) -> RetentionSpec:
    """How long records of this event are kept: by the rule that names it, else by that of `*`, else 30 days hot of 400."""
    named = next((rule for rule in policy.retention if event in rule.events), None)
    return named or next((rule for rule in policy.retention if EVERY_EVENT in rule.events), None) or RetentionSpec(events=(EVERY_EVENT,))


def qualified_globs(globs: Sequence[str], namespace: str) -> tuple[str, ...]:
    """Globs of servers as globs of `namespace/name`: those without `/` are about names, in this namespace (in `system`: in every one)."""
    prefix = "*" if namespace == SYSTEM_NAMESPACE else namespace
    return tuple(glob if "/" in glob else f"{prefix}/{glob}" for glob in globs) or (f"{prefix}/*",)


def _check_policy(place: _Place, spec: AuditPolicySpec, before: RegistryState) -> None:
    if place.item.entry.name != AUDIT_POLICY_NAME:
        message = f"must be {AUDIT_POLICY_NAME!r}: a namespace has one AuditPolicy, and no second one that somebody might think is in force"
        place.refuse("metadata.name", message)
    for part, rules in (("arguments", spec.arguments.rules), ("results", spec.results.rules)):
        _check_content_rules(place, rules, f"spec.{part}.rules")
    for index, retention in enumerate(spec.retention):
        _check_events(place, retention.events, f"spec.retention[{index}].events")
    for index, hold in enumerate(spec.legal_holds):
        if hold.server is not None:
            _check_globs(place, (hold.server,), f"spec.legalHolds[{index}].server")
    if spec.results.keep != "off" or spec.results.rules:
        place.warn("spec.results", _RESULTS)
    if spec.mode == "available":
        place.warn("spec.mode", "calls are made although they cannot be recorded; what is missing is said, and cannot be recovered")
    stored = before.audit_policies.get(place.item.entry.id)
    if stored is not None:
        kept = {hold.name for hold in spec.legal_holds}
        for hold in stored.spec.legal_holds:
            if hold.name not in kept:
                place.warn("spec.legalHolds", f"the legal hold {hold.name} ends: what only it kept is deleted when its time is over")


def _check_content_rules(place: _Place, rules: Sequence[ContentRuleSpec], path: str) -> None:
    for index, rule in enumerate(rules):
        _check_globs(place, rule.servers, f"{path}[{index}].servers")


def _check_globs(place: _Place, globs: Sequence[str], path: str) -> None:
    """A namespace's own documents are about its own servers."""
    if place.namespace == SYSTEM_NAMESPACE:
        return
    for index, glob in enumerate(globs):
        namespace, slash, _ = glob.partition("/")
        if slash and namespace != place.namespace:
            where = path if path.endswith("server") else f"{path}[{index}]"
            place.refuse(where, f"{glob} names servers of another namespace; only documents of the namespace {SYSTEM_NAMESPACE} may")


def _check_events(place: _Place, events: Sequence[str], path: str) -> None:
    for index, event in enumerate(events):
        if event != EVERY_EVENT and event not in EVENT_NAMES:
            close = difflib.get_close_matches(event, EVENT_NAMES, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]!r}?" if close else f"events are {', '.join(EVENT_NAMES)}, and '*'"
            place.refuse(f"{path}[{index}]", f"{event!r} is no event; {hint}")


def _check_sink(place: _Place, spec: AuditSinkSpec) -> None:
    _check_events(place, spec.filter.events, "spec.filter.events")
    _check_globs(place, spec.filter.servers, "spec.filter.servers")
    for path, url in _urls_of(spec):
        _check_url(place, url, path)
    if spec.syslog is not None:
        _check_syslog(place, spec.syslog)
    for path, tls, uses_tls in _tls_of(spec):
        _check_tls(place, tls, path, suspended=spec.suspended)
        if not uses_tls and tls != SinkTlsSpec():
            place.refuse(path, "the URL is http, without TLS")


def _check_syslog(place: _Place, syslog: SyslogSinkSpec) -> None:
    url = f"https://{syslog.address}"  # the rules are about addresses, whatever is spoken there
    _check_address(place, url, "spec.syslog.address")
    if syslog.transport == "tcp" and syslog.tls != SinkTlsSpec():
        place.refuse("spec.syslog.tls", "does not go with 'transport: tcp'")
    if syslog.transport == "tcp" and not _is_loopback(url):
        place.warn("spec.syslog.transport", "records are sent in plain text to another machine; use tls")


def _urls_of(spec: AuditSinkSpec) -> Iterator[tuple[str, str]]:
    """Every URL that records or a secret are sent to, with its path in the document."""
    if spec.splunk_hec is not None:
        yield "spec.splunkHec.url", spec.splunk_hec.url
    if spec.elastic is not None:
        yield "spec.elastic.url", spec.elastic.url
    if spec.sentinel is not None:
        yield "spec.sentinel.endpoint", spec.sentinel.endpoint
        yield "spec.sentinel.authority", spec.sentinel.authority
    if spec.otlp is not None:
        yield "spec.otlp.endpoint", spec.otlp.endpoint
    if spec.parquet is not None and spec.parquet.s3 is not None:
        yield "spec.parquet.s3.endpoint", spec.parquet.s3.endpoint


def _tls_of(spec: AuditSinkSpec) -> Iterator[tuple[str, SinkTlsSpec, bool]]:
    """Path, TLS and whether TLS is spoken."""
    if spec.syslog is not None:
        yield "spec.syslog.tls", spec.syslog.tls, True
    if spec.splunk_hec is not None:
        yield "spec.splunkHec.tls", spec.splunk_hec.tls, spec.splunk_hec.url.startswith("https:")
    if spec.elastic is not None:
        yield "spec.elastic.tls", spec.elastic.tls, spec.elastic.url.startswith("https:")
    if spec.sentinel is not None:
        yield "spec.sentinel.tls", spec.sentinel.tls, spec.sentinel.endpoint.startswith("https:")
    if spec.otlp is not None:
        yield "spec.otlp.tls", spec.otlp.tls, spec.otlp.endpoint.startswith("https:")
    if spec.parquet is not None and spec.parquet.s3 is not None:
        yield "spec.parquet.s3.tls", spec.parquet.s3.tls, spec.parquet.s3.endpoint.startswith("https:")


def _check_url(place: _Place, url: str, path: str) -> None:
    if url.startswith("http:") and not _is_loopback(url):
        place.refuse(path, "must be https: it is sent records, and a secret; plain http is for loopback addresses")
        return
    _check_address(place, url, path)


def _check_address(place: _Place, url: str, path: str) -> None:
    try:
        place.checks.address_rules.check_url(url)
    except AddressError as error:
        place.refuse(path, str(error))


def _check_tls(place: _Place, tls: SinkTlsSpec, path: str, *, suspended: bool) -> None:
    """Every file is read as it will be when it is used; a sink can be suspended whatever became of them."""
    say: Callable[[str, str], None] = place.warn if suspended else place.refuse
    files, namespace = place.checks.files, place.namespace
    if tls.ca_file:
        try:
            files.read(namespace, tls.ca_file)
        except ConfigurationError as error:
            say(f"{path}.caFile", str(error))
    if tls.client_certificate is None:
        return
    read: list[bytes] = []
    for part, file in (("chain", tls.client_certificate.chain), ("key", tls.client_certificate.key)):
        try:
            read.append(files.read_content(namespace, file))
        except ConfigurationError as error:
            say(f"{path}.clientCertificate.{part}", str(error))
            return
    try:
        check_key_pair(read[0], read[1], place.checks.now)
    except KeyPairError as error:
        say(f"{path}.clientCertificate.{error.part}", str(error))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    literal = parse_host_literal(host)
    return is_loopback_name(host) if literal is None else literal.is_loopback

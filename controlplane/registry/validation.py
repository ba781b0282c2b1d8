"""Does the registry make sense after this change? Pure: two states and the documents in, every fault and warning out.

Shape and ranges were checked by `registry.spec`, permission by `registry.service`. Names are resolved again when they are
pinned (`xds`): here only what can be said without the network.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from controlplane.registry.authorization_server_rules import problems_of_authorization_server
from controlplane.registry.changes import entries_of
from controlplane.registry.manifest import DocumentError
from controlplane.registry.own_address import OwnAddresses
from controlplane.registry.permissions import ADMINISTRATOR, OPERATOR_ROLE_PREFIX, PERMISSIONS_OF_ROLE
from controlplane.registry.preset import presets_by_id
from controlplane.registry.provider_rules import problems_of
from controlplane.registry.revocation import wholly_revoked_subjects
from controlplane.registry.spec import (
    SYSTEM_NAMESPACE,
    AuthorizationServerSpec,
    IdentityProviderSpec,
    Kind,
    McpServerSpec,
    RevocationSpec,
    RoleBindingSpec,
    SubjectSpec,
    TrustDomainSpec,
)
from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.subjects import issuers_of, provider_id, visible_providers, visible_trust_domains
from controlplane.registry.trust_domain_rules import problems_of_trust_domain, warnings_of_trust_domain
from extauthz.address import AddressRules, host_of_url, is_loopback_name, parse_host_literal
from extauthz.errors import AddressError, ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenEntry:
    """One entry of the change: the document it came from and what it is now."""

    document: int
    kind: Kind
    entry: Entry[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFinding:
    """One fault or warning about a policy, and the PolicySet it stands in."""

    namespace: str
    name: str
    policy_id: str
    message: str


PUBLIC_KEY_MEMBERS = frozenset({"alg", "crv", "e", "ext", "key_ops", "kid", "kty", "n", "use", "x", "x5c", "x5t", "x5t#S256", "x5u", "y"})
"""RFC 7517 and RFC 7518 section 6, of public keys; `ext` is the Web Cryptography API's."""
SECRET_KEY_MEMBERS = frozenset({"d", "dp", "dq", "k", "oth", "p", "q", "qi"})
FUTURE_TOLERANCE = timedelta(minutes=5)
"""Of `issuedBefore`: who writes it may have a clock that is ahead."""
_MAX_KEYS_LOOKED_AT = 100

_MAX_SUGGESTIONS = 20
_MAX_KNOWN = 2000

PolicyChecker = Callable[[RegistryState, Collection[str], Kind], tuple[Sequence[PolicyFinding], Sequence[PolicyFinding]]]
"""All faults and all warnings of the policies in some namespaces of a state, in entries of a kind: `registry.policy_check`."""


@dataclass(slots=True, kw_only=True)
class Findings:
    """What is wrong. `reference_errors` are about other entries and mean little while some documents are unreadable."""

    errors: list[DocumentError] = field(default_factory=list)
    reference_errors: list[DocumentError] = field(default_factory=list)
    warnings: dict[int, list[str]] = field(default_factory=dict)
    suggestions: dict[str, str] = field(default_factory=dict)

    def suggest(self, given: str, known: Collection[str]) -> str:
        """`; did you mean …?`, for a bounded number of names: thousands of documents may name nobody's namespace."""
        if given not in self.suggestions:
            if len(self.suggestions) >= _MAX_SUGGESTIONS or len(known) > _MAX_KNOWN:
                return ""
            self.suggestions[given] = _suggestion(given, known)
        return self.suggestions[given]

    def warn(self, document: int, sentence: str) -> None:
        """Add a warning to a document's result."""
        self.warnings.setdefault(document, []).append(sentence)


def check_change(
    before: RegistryState,
    after: RegistryState,
    written: Sequence[WrittenEntry],
    *,
    address_rules: AddressRules,
    check_policies: PolicyChecker,
    own_addresses: OwnAddresses,
    has_workload_api: bool = False,
) -> Findings:
    """Every fault of `after` that `written` brought, and what its author should know."""
    findings = Findings()
    for item in written:
        _check_namespace(item, after, findings)
        match item.entry.spec:
            case McpServerSpec() as spec:
                _check_mcp_server(item, spec, address_rules, own_addresses, findings)
            case RoleBindingSpec() as spec:
                _check_role_binding(item, spec, after, findings)
            case RevocationSpec() as spec:
                _check_revocation(item, spec, findings)
            case TrustDomainSpec() as spec:
                _check_trust_domain(item, spec, after, address_rules, findings, has_workload_api=has_workload_api)
            case IdentityProviderSpec() as spec:
                _check_identity_provider(item, spec, after, address_rules, findings)
                _check_own_issuer(item, spec, own_addresses, findings)
            case AuthorizationServerSpec() as spec:
                _check_authorization_server(item, spec, after, address_rules, findings)
    for kind in (Kind.POLICY_SET, Kind.POLICY_CANDIDATE):
        if any(item.kind is kind for item in written):
            _check_policies(kind, before, after, written, check_policies, findings)
    return findings


def locks_out(before: RegistryState, after: RegistryState) -> bool:
    """Whether nobody would be administrator any more."""
    return _has_administrator(before) and not _has_administrator(after)


def entries_in(state: RegistryState, namespace: str) -> list[str]:
    """What a namespace still holds, as `Kind namespace/name`."""
    kinds = (kind for kind in Kind if kind is not Kind.NAMESPACE)
    return sorted(
        f"{kind.value} {entry.id}" for kind in kinds for entry in entries_of(state, kind).values() if entry.namespace == namespace
    )


def bindings_naming(state: RegistryState, provider: str, *, trust_domain: str = "") -> list[str]:
    """The role bindings whose subjects belong to an identity provider, or to a trust domain: its groups and its workloads."""
    prefix, workloads = f"{provider}/", f"spiffe://{trust_domain}/"
    return sorted(
        f"RoleBinding {binding.id}"
        for binding in state.role_bindings.values()
        if any(subject.name.startswith(workloads if subject.kind == "Workload" else prefix) for subject in binding.spec.subjects)
    )


def _has_administrator(state: RegistryState) -> bool:
    known = visible_providers(state.identity_providers, SYSTEM_NAMESPACE)  # an authorization server issues no tokens for operators
    revoked = wholly_revoked_subjects(state)
    return any(
        binding.namespace == SYSTEM_NAMESPACE
        and binding.spec.role == ADMINISTRATOR
        and any(
            subject.kind != "Workload" and subject.name.partition("/")[0] in known and not _is_revoked(subject, revoked)
            for subject in binding.spec.subjects
        )
        for binding in state.role_bindings.values()
    )


def _is_revoked(subject: SubjectSpec, revoked: Collection[str]) -> bool:
    return subject.kind != "Group" and subject.name in revoked


def _check_namespace(item: WrittenEntry, after: RegistryState, findings: Findings) -> None:
    namespace = item.entry.namespace
    if item.kind is Kind.NAMESPACE or namespace in after.namespaces:
        return
    message = f"namespace {namespace} does not exist{findings.suggest(namespace, after.namespaces)}; add a document of kind Namespace"
    findings.reference_errors.append(DocumentError(document=item.document, path="metadata.namespace", message=message))


def _check_mcp_server(
    item: WrittenEntry, spec: McpServerSpec, address_rules: AddressRules, own_addresses: OwnAddresses, findings: Findings
) -> None:
    for index, endpoint in enumerate(spec.endpoints):
        _check_url(endpoint.url, f"spec.endpoints[{index}].url", item, address_rules, findings)
        if own_addresses.include(endpoint.url):
            message = "is this gateway's own address: a call would come back to it for ever; give the address of the MCP server"
            findings.errors.append(DocumentError(document=item.document, path=f"spec.endpoints[{index}].url", message=message))
        if spec.credential is not None and endpoint.url.startswith("http://") and not _is_loopback(endpoint.url):
            findings.warn(
                item.document, f"spec.endpoints[{index}].url: the credential is sent over plain http to another machine; use https"
            )
    grant = spec.credential.client_credentials if spec.credential is not None else None
    if grant is not None:
        path = "spec.credential.clientCredentials.tokenUrl"
        _check_url(grant.token_url, path, item, address_rules, findings)
        if grant.token_url.startswith("http://") and not _is_loopback(grant.token_url):
            findings.errors.append(DocumentError(document=item.document, path=path, message="must be https: it is sent the client secret"))


def _check_role_binding(item: WrittenEntry, spec: RoleBindingSpec, after: RegistryState, findings: Findings) -> None:
    operator_role = spec.role.startswith(OPERATOR_ROLE_PREFIX)
    if operator_role and spec.role not in PERMISSIONS_OF_ROLE:
        known = ", ".join(sorted(PERMISSIONS_OF_ROLE))
        message = f"{spec.role} is not an operator role{_suggestion(spec.role, PERMISSIONS_OF_ROLE)}; they are {known}"
        findings.errors.append(DocumentError(document=item.document, path="spec.role", message=message))
    visible = visible_providers(issuers_of(after), item.entry.namespace)
    trust_domains = visible_trust_domains(after.trust_domains, item.entry.namespace)
    believed = {entry.spec.trust_domain for entry in trust_domains.values()}
    for index, subject in enumerate(spec.subjects):
        of_workloads = subject.kind == "Workload" or (subject.kind == "Group" and subject.name.partition("/")[0] in trust_domains)
        if operator_role and of_workloads:
            message = "no workload can log in to the API, so an operator role is nothing to it: name a User, an Agent or their Group"
            findings.errors.append(DocumentError(document=item.document, path=f"spec.subjects[{index}]", message=message))
            continue
        provider = visible.get(subject.name.partition("/")[0])
        if provider is not None and provider.spec.operators_only and not operator_role:
            findings.warn(item.document, f"spec.subjects[{index}]: {subject.name} is for operators only and can never call a server")
        if subject.kind == "Workload" and (trust_domain := urlsplit(subject.name).netloc) not in believed:
            findings.warn(item.document, f"spec.subjects[{index}]: no TrustDomain {trust_domain} is trusted in this namespace (yet)")


def _check_revocation(item: WrittenEntry, spec: RevocationSpec, findings: Findings) -> None:
    if item.entry.namespace != SYSTEM_NAMESPACE:
        message = f"a Revocation holds everywhere and is in the namespace {SYSTEM_NAMESPACE}"
        findings.errors.append(DocumentError(document=item.document, path="metadata.namespace", message=message))
    now = datetime.now(UTC)
    if spec.until is not None and spec.until <= now:
        findings.errors.append(DocumentError(document=item.document, path="spec.until", message="is over already"))
    if spec.issued_before is not None and spec.issued_before > now + FUTURE_TOLERANCE:
        message = "is in the future: tokens that are issued until then would be refused too; leave it out to refuse every token"
        findings.errors.append(DocumentError(document=item.document, path="spec.issuedBefore", message=message))


def _check_identity_provider(
    item: WrittenEntry, spec: IdentityProviderSpec, after: RegistryState, address_rules: AddressRules, findings: Findings
) -> None:
    def refuse(path: str, message: str) -> None:
        findings.errors.append(DocumentError(document=item.document, path=path, message=message))

    this = provider_id(item.entry.namespace, item.entry.name)
    if any(p.spec.issuer == spec.issuer and provider_id(p.namespace, p.name) != this for p in after.identity_providers.values()):
        refuse("spec.issuer", "another identity provider is registered for this issuer; a token's issuer must mean one provider")
    _check_name_is_free(item, after, refuse)
    if spec.trusted_namespaces and item.entry.namespace != SYSTEM_NAMESPACE:
        refuse("spec.trustedNamespaces", "only providers of the namespace system are trusted elsewhere; remove it")
    if spec.jwks is not None and spec.jwks_url:
        refuse("spec.jwksUrl", "give either jwks or jwksUrl")
    elif spec.jwks is not None:
        _check_key_set(spec.jwks, refuse)
    else:
        path, url = ("spec.jwksUrl", spec.jwks_url) if spec.jwks_url else ("spec.issuer", spec.issuer)
        if urlsplit(url).scheme not in {"http", "https"}:
            refuse(path, "must be an https:// URL, from which the keys are read (or give the keys inline as jwks)")
        elif url.startswith("http://") and not (spec.allow_insecure_http and _is_loopback(url)):
            refuse(path, "must be https; plain http needs allowInsecureHttp and a loopback address")
        else:
            _check_url(url, path, item, address_rules, findings)
    for problem in problems_of(spec):
        refuse(problem.path, problem.message)
    for namespace in spec.trusted_namespaces:
        if namespace not in after.namespaces:
            findings.warn(item.document, f"spec.trustedNamespaces: namespace {namespace} does not exist yet")


def _check_trust_domain(
    item: WrittenEntry,
    spec: TrustDomainSpec,
    after: RegistryState,
    address_rules: AddressRules,
    findings: Findings,
    *,
    has_workload_api: bool,
) -> None:
    for problem in problems_of_trust_domain(item.entry, after):
        findings.errors.append(DocumentError(document=item.document, path=problem.path, message=problem.message))
    if spec.bundle.endpoint is not None:
        _check_url(spec.bundle.endpoint.url, "spec.bundle.endpoint.url", item, address_rules, findings)
    for warning in warnings_of_trust_domain(item.entry, after, has_workload_api=has_workload_api):
        findings.warn(item.document, warning)


def _check_name_is_free(item: WrittenEntry, after: RegistryState, refuse: Callable[[str, str], None]) -> None:
    for kind, others in (("an AuthorizationServer", after.authorization_servers), ("a TrustDomain", after.trust_domains)):
        if item.entry.id in others:
            refuse("metadata.name", f"{kind} has this name, which qualifies its principals; choose another one")


def _check_own_issuer(item: WrittenEntry, spec: IdentityProviderSpec, own_addresses: OwnAddresses, findings: Findings) -> None:
    if urlsplit(spec.issuer).path.startswith("/oauth/") and own_addresses.include(spec.issuer):
        message = "is this gateway's own: an AuthorizationServer is trusted without a document of kind IdentityProvider"
        findings.errors.append(DocumentError(document=item.document, path="spec.issuer", message=message))


def _check_authorization_server(
    item: WrittenEntry, spec: AuthorizationServerSpec, after: RegistryState, address_rules: AddressRules, findings: Findings
) -> None:
    def refuse(path: str, message: str) -> None:
        findings.errors.append(DocumentError(document=item.document, path=path, message=message))

    if item.entry.namespace != SYSTEM_NAMESPACE:
        refuse("metadata.namespace", f"an AuthorizationServer serves the whole gateway and is in the namespace {SYSTEM_NAMESPACE}")
    if item.entry.id in after.identity_providers:
        refuse("metadata.name", "an IdentityProvider has this name, which qualifies its principals; choose another one")
    if item.entry.id in after.trust_domains:
        refuse("metadata.name", "a TrustDomain has this name, which qualifies its groups; choose another one")
    insecure = spec.login.allow_insecure_http
    fetched = [("spec.login.issuer", spec.login.issuer)]
    fetched += [(f"spec.clients.{name}.jwksUri", client.jwks_uri) for name, client in spec.clients.items() if client.jwks_uri]
    for path, url in fetched:
        if not url.startswith("https://") and not (insecure and url.startswith("http://") and _is_loopback(url)):
            refuse(path, "must be https; plain http needs spec.login.allowInsecureHttp and a loopback address")
        else:
            _check_url(url, path, item, address_rules, findings)
    for name, client in spec.clients.items():
        if client.jwks is not None:
            _check_key_set(client.jwks, refuse, f"spec.clients.{name}.jwks")
    for problem in problems_of_authorization_server(spec):
        refuse(problem.path, problem.message)
    for namespace in spec.trusted_namespaces:
        if namespace not in after.namespaces:
            findings.warn(item.document, f"spec.trustedNamespaces: namespace {namespace} does not exist yet")


def _check_key_set(jwks: Mapping[str, object], refuse: Callable[[str, str], None], path: str = "spec.jwks") -> None:
    from extauthz.identity.jwks import parse_key_set  # noqa: PLC0415 - the verifier's own reading; brings aiohttp with it

    unknown = sorted(set(jwks) - {"keys"})
    if unknown:
        refuse(f"{path}.{unknown[0]}", "is not known: a key set has the member 'keys' only")
    keys = jwks.get("keys")
    for index, key in enumerate(keys[:_MAX_KEYS_LOOKED_AT] if isinstance(keys, list) else ()):
        # What is secret is called so by the verifier's reading below; what is unknown might be, and is shown to every viewer.
        odd = sorted(set(key) - PUBLIC_KEY_MEMBERS - SECRET_KEY_MEMBERS) if isinstance(key, dict) else []
        if odd:
            refuse(f"{path}.keys[{index}].{odd[0]}", f"is not known; members of a public key are {', '.join(sorted(PUBLIC_KEY_MEMBERS))}")
    try:
        parse_key_set(json.dumps(jwks))
    except ConfigurationError as error:
        refuse(path, str(error))


def _check_policies(
    kind: Kind, before: RegistryState, after: RegistryState, written: Sequence[WrittenEntry], check: PolicyChecker, findings: Findings
) -> None:
    documents = {item.entry.id: item.document for item in written if item.kind is kind}
    namespaces = {item.entry.namespace for item in written if item.kind is kind}
    errors, warnings = check(after, namespaces, kind)
    others = [finding for finding in errors if _id(finding) not in documents]
    known = set(check(before, namespaces, kind)[0]) if others else set()
    presets = {item.entry.id: _presets_of(item) for item in written if item.kind is kind}
    for finding in errors:
        document = documents.get(_id(finding))
        if document is None and finding in known:
            continue  # an old fault of somebody else's policy must not hold up this change
        where = "" if document is not None else f"{kind.value} {_id(finding)}: "
        path = _place(finding, presets.get(_id(finding), {}))
        error = DocumentError(document=document or 0, path=path, message=f"{where}{_told(finding)}")
        findings.reference_errors.append(error)
    for finding in warnings:
        if _id(finding) in documents:
            findings.warn(documents[_id(finding)], f"{_place(finding, presets[_id(finding)])}: {_told(finding)}")


def _presets_of(item: WrittenEntry) -> dict[str, int]:
    return presets_by_id(item.entry.namespace, item.entry.name, item.entry.spec)


def _place(finding: PolicyFinding, presets: Mapping[str, int]) -> str:
    """Where the policy stands that the finding is about."""
    number = presets.get(finding.policy_id)
    return "spec.cedar" if number is None else f"spec.presets[{number}]"


def _id(finding: PolicyFinding) -> str:
    return f"{finding.namespace}/{finding.name}"


def _told(finding: PolicyFinding) -> str:
    return f"policy {finding.policy_id}: {finding.message}" if finding.policy_id else finding.message


def _check_url(url: str, path: str, item: WrittenEntry, address_rules: AddressRules, findings: Findings) -> None:
    try:
        address_rules.check_url(url)
    except AddressError as error:
        findings.errors.append(DocumentError(document=item.document, path=path, message=str(error)))


def _is_loopback(url: str) -> bool:
    try:
        host = host_of_url(url)
        literal = parse_host_literal(host)
    except AddressError:
        return False
    return is_loopback_name(host) if literal is None else literal.is_loopback


def _suggestion(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""

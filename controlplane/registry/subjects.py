"""Whom a subject's name means. Stored names are qualified by identity provider: `acme-okta/marketing`.

A short name is resolved while exactly one provider is visible to the namespace, and is stored qualified: a provider that is
added later can never change whom an existing binding means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from controlplane.registry.claim_mapping import ClaimMapping
from controlplane.registry.spec import SYSTEM_NAMESPACE, AuthorizationServerSpec, IdentityProviderSpec, SubjectSpec, TrustDomainSpec
from controlplane.registry.state import Entry, RegistryState
from extauthz.identity.spiffe_pattern import parse_spiffe_pattern

Providers = Mapping[str, Entry[IdentityProviderSpec]]
TrustDomains = Mapping[str, Entry[TrustDomainSpec]]

_NO_TRUST_DOMAINS: TrustDomains = MappingProxyType({})


class SubjectError(ValueError):
    """The name means nobody, or more than one."""


def provider_id(namespace: str, name: str) -> str:
    """What qualifies the principals of an identity provider."""
    return name if namespace == SYSTEM_NAMESPACE else f"{namespace}.{name}"


def issuers_of(state: RegistryState) -> dict[str, Entry[IdentityProviderSpec]]:
    """Everything whose principals can be named: identity providers, and authorization servers as the providers that they are."""
    return {**state.identity_providers, **{entry.id: as_provider(entry) for entry in state.authorization_servers.values()}}


def as_provider(entry: Entry[AuthorizationServerSpec]) -> Entry[IdentityProviderSpec]:
    """An authorization server as the identity provider that it is for everybody who trusts it. Its issuer is known to `xds` only."""
    spec = entry.spec
    provider = IdentityProviderSpec(
        issuer=f"urn:legation:authorization-server:{entry.name}",
        jwks={"keys": []},
        trusted_namespaces=spec.trusted_namespaces,
        mapping=ClaimMapping(claims=spec.login.mapping.claims),
    )
    return Entry(uid=entry.uid, namespace=entry.namespace, name=entry.name, spec=provider, resource_revision=entry.resource_revision)


def visible_providers(providers: Providers, namespace: str) -> dict[str, Entry[IdentityProviderSpec]]:
    """The providers whose principals may act in `namespace` (`system`: those of `system`), by provider id."""
    return {
        provider_id(entry.namespace, entry.name): entry
        for entry in providers.values()
        if entry.namespace == namespace
        or (entry.namespace == SYSTEM_NAMESPACE and (not entry.spec.trusted_namespaces or namespace in entry.spec.trusted_namespaces))
    }


def visible_trust_domains(trust_domains: TrustDomains, namespace: str) -> dict[str, Entry[TrustDomainSpec]]:
    """The trust domains whose workloads may act in `namespace`, by the id that qualifies their groups."""
    return {
        provider_id(entry.namespace, entry.name): entry
        for entry in trust_domains.values()
        if entry.namespace == namespace
        or (entry.namespace == SYSTEM_NAMESPACE and (not entry.spec.trusted_namespaces or namespace in entry.spec.trusted_namespaces))
    }


def resolve_subject(subject: SubjectSpec, *, namespace: str, providers: Providers, trust_domains: TrustDomains = _NO_TRUST_DOMAINS) -> str:
    """The qualified name of a subject of a binding in `namespace`; raises `SubjectError` with what to write instead.

    A short name of a group may also mean a group of a trust domain, when one of its mappings has that group.
    """
    if subject.kind == "Workload":
        return _workload(subject.name)
    visible = visible_providers(providers, namespace)
    qualifier, slash, rest = subject.name.partition("/")
    if subject.kind == "Group":
        workloads = visible_trust_domains(trust_domains, namespace)
        if slash and rest and qualifier in workloads:
            return subject.name
        if not slash and (mapping := sorted(name for name, entry in workloads.items() if subject.name in _groups_of(entry.spec))):
            people = sorted(provider for provider, entry in visible.items() if not entry.spec.operators_only)
            return f"{_only_one([*people, *mapping], namespace, subject.name)}/{subject.name}"
    if slash:
        if qualifier in visible and rest:
            return _checked(subject, qualifier, rest, visible)
        known = ", ".join(sorted(visible)) or "none"
        raise SubjectError(
            f"{subject.name!r} names the identity provider {qualifier!r}, which is not trusted in namespace {namespace} (trusted: {known})"
        )
    provider = only_provider(visible, namespace, subject.name)
    return _checked(subject, provider, subject.name, visible)


def _workload(name: str) -> str:
    try:
        parse_spiffe_pattern(name)
    except ValueError as error:
        raise SubjectError(f"a Workload is named by its SPIFFE ID (spiffe://...) or a pattern of them, got {name!r}: {error}") from error
    return name


def _groups_of(spec: TrustDomainSpec) -> frozenset[str]:
    return frozenset(group for mapping in spec.workloads for group in mapping.groups)


def _checked(subject: SubjectSpec, provider: str, name: str, visible: Mapping[str, Entry[IdentityProviderSpec]]) -> str:
    """The qualified name; of a Claim only when the provider's mapping reads that claim."""
    if subject.kind == "Claim":
        claim, separator, value = name.partition("=")
        if not claim or not separator or not value:
            raise SubjectError(f"a Claim is named provider/claim=value, got {subject.name!r}")
        if claim not in visible[provider].spec.mapping.claims:
            raise SubjectError(f"identity provider {provider} does not read the claim {claim!r}: add it to its spec.mapping.claims")
    return f"{provider}/{name}"


def resolve_revoked(name: str, providers: Providers) -> str:
    """The qualified name of a token, subject or OAuth client that is revoked; raises `SubjectError` for nobody's."""
    known = {provider_id(entry.namespace, entry.name): entry for entry in providers.values()}
    qualifier, slash, rest = name.partition("/")
    if qualifier in known and rest:
        return name
    if not slash:
        return f"{only_provider(known, SYSTEM_NAMESPACE, name)}/{name}"
    registered = ", ".join(sorted(known)) or "none"
    raise SubjectError(f"{name!r} must begin with its identity provider, provider/name; {qualifier!r} is not registered ({registered})")


def only_provider(visible: Mapping[str, Entry[IdentityProviderSpec]], namespace: str, name: str) -> str:
    """The id of the one provider that a short name can belong to; those for operators only do not count."""
    candidates = sorted(provider for provider, entry in visible.items() if not entry.spec.operators_only)
    if not candidates:
        raise SubjectError(f"{name!r} cannot be resolved: namespace {namespace} trusts no identity provider yet; register one first")
    return _only_one(candidates, namespace, name)


def _only_one(candidates: Sequence[str], namespace: str, name: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    choices = " or ".join(f"{provider}/{name}" for provider in candidates)
    raise SubjectError(f"{name!r} is ambiguous in namespace {namespace}: write {choices}")

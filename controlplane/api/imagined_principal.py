"""Principals as they would be if they had been authenticated: by the identity provider, or the trust domain, that is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from controlplane.api.problems import bad_request
from controlplane.api.schemas import ExplainPrincipal
from controlplane.registry.state import RegistryState
from controlplane.registry.subjects import SubjectError, issuers_of, only_provider, visible_providers
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.identity.spiffe_id import parse_spiffe_id
from extauthz.state import AuthorizationState


def imagined_principal(
    asked: ExplainPrincipal, namespace: str, registry: RegistryState, state: AuthorizationState, now: float
) -> Principal:
    """Who would call something in `namespace`; raises the API's 400 for nobody."""
    if asked.kind == PrincipalKind.WORKLOAD.value:
        principal = _workload(asked, namespace, state, now)
    else:
        issuers = {provider.id: provider.issuer for provider in state.identity_providers}
        principal = _principal(asked, namespace, registry, issuers, now)
    return _called_by(principal, asked.workload, namespace, state, now) if asked.workload else principal


def _principal(asked: ExplainPrincipal, namespace: str, registry: RegistryState, issuers: Mapping[str, str], now: float) -> Principal:
    visible = visible_providers(issuers_of(registry), namespace)
    name = asked.subject
    qualifier, slash, rest = name.partition("/")
    provider = asked.provider
    if not provider and slash and qualifier in visible:
        provider, name = qualifier, rest
    try:
        provider = provider or only_provider(visible, namespace, name)
    except SubjectError as error:
        raise bad_request(f"principal: {error}") from error
    entry = visible.get(provider)
    if entry is None or entry.spec.operators_only:
        known = ", ".join(sorted(p for p, e in visible.items() if not e.spec.operators_only)) or "none"
        raise bad_request(f"principal.provider: {provider!r} cannot call servers of namespace {namespace} (those that can: {known})")
    prefix = f"{provider}/"
    return Principal(
        kind=PrincipalKind(asked.kind),
        id=prefix + name,
        provider=provider,
        subject=name,
        issuer=issuers.get(provider, entry.spec.issuer),
        issued_at_unix=now,
        tenant=asked.tenant,
        scopes=asked.scopes or (),
        attributes=tuple(claim if claim.startswith(prefix) else prefix + claim for claim in asked.claims),
        groups=tuple(group if group.startswith(prefix) else prefix + group for group in asked.groups),
    )


def _workload(asked: ExplainPrincipal, namespace: str, state: AuthorizationState, now: float) -> Principal:
    """A workload as its SVID would make it: groups, owner and scopes are those of its trust domain's mappings."""
    principal = _workload_named(asked.subject, namespace, state, now)
    more = tuple(group for group in asked.groups if group not in principal.groups)
    scopes = principal.scopes if asked.scopes is None else asked.scopes
    return replace(principal, groups=(*principal.groups, *more), scopes=scopes)


def _called_by(principal: Principal, name: str, namespace: str, state: AuthorizationState, now: float) -> Principal:
    from extauthz.identity.workload import calling_for  # noqa: PLC0415 - as in `_workload_named`

    return calling_for(principal, _workload_named(name, namespace, state, now))


def _workload_named(name: str, namespace: str, state: AuthorizationState, now: float) -> Principal:
    from extauthz.identity.workload import TrustDomains, principal_of  # noqa: PLC0415 - brings the verification of certificates with it

    try:
        spiffe_id = parse_spiffe_id(name)
    except ValueError as error:
        raise bad_request(f"principal: a Workload is named by its SPIFFE ID (spiffe://...): {error}") from error
    trust_domain = TrustDomains(state.trust_domains).trusted(spiffe_id.trust_domain, namespace)
    if trust_domain is None:
        known = ", ".join(sorted(t.trust_domain for t in state.trust_domains if t.trusts(namespace))) or "none"
        raise bad_request(f"principal: {spiffe_id.trust_domain!r} is no trust domain of namespace {namespace} (those that are: {known})")
    return principal_of(trust_domain, spiffe_id, issued_at_unix=now, expires_at_unix=now)

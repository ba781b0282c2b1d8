"""What an AuthorizationServer document means: how the ID tokens of its login are read, and what would not work or not be safe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from controlplane.registry.provider_rules import ProviderProblem, claim_rules_of, problems_of
from controlplane.registry.redirect_uri import fault_of_redirect_uri
from controlplane.registry.spec import AuthorizationServerSpec, ClaimMapping, IdentityProviderSpec
from extauthz.identity.provider import ClaimRules

OWN_CLAIMS = frozenset(
    {
        *("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "scp", "groups", "tenant", "act", "cnf", "azp"),
        *("auth_time", "acr", "amr", "typ", "events", "token_use", "at_hash", "c_hash", "s_hash", "nonce", "sid", "hasgroups"),
        *("_claim_names", "_claim_sources", "may_act"),
    }
)
"""Claims of our access tokens, or with a meaning to those who read them: none of the login is copied there under such a name."""
CLIENT_SUBJECT_PREFIX = "client:"
"""Of the subject of a client that acts for itself, so that it is nobody who logs in."""


def login_provider_of(spec: AuthorizationServerSpec) -> IdentityProviderSpec:
    """The login as an identity provider whose ID tokens, issued to our client there, are taken."""
    login = spec.login
    return IdentityProviderSpec(
        issuer=login.issuer,
        preset=login.preset,
        mapping=login.mapping,
        algorithms=login.algorithms,
        tenants=login.tenants,
        audiences=(login.client_id,),
        accept_id_tokens=True,
        allow_insecure_http=login.allow_insecure_http,
    )


def login_rules_of(spec: AuthorizationServerSpec) -> ClaimRules:
    """How an ID token says who logged in. What presets know of access tokens (clients, agents, types) does not apply to it."""
    provider = login_provider_of(spec)
    rules = claim_rules_of(provider)
    kept = tuple(requirement for requirement in rules.required if requirement[0] in ("tid", "email_verified"))
    return replace(
        rules,
        required=kept,
        oauth_client=(),
        oauth_clients=(),
        client_required=False,
        subject_from_client=False,
        token_id=(),
        agent="",
        kind="",
        agent_kinds=(),
        agent_subjects=(),
        agent_without=(),
        id_tokens=True,
    )


def issued_rules_of(spec: AuthorizationServerSpec) -> ClaimRules:
    """How the access tokens that this server issues are read."""
    return ClaimRules(
        groups=("groups",),
        attributes=spec.login.mapping.claims,
        labels=tuple(sorted(spec.login.mapping.labels.items())),
        tenant="tenant",
        oauth_client=("client_id",),
        client_required=True,
        agent_subjects=(CLIENT_SUBJECT_PREFIX + "{client}",),
    )


def problems_of_authorization_server(spec: AuthorizationServerSpec) -> Iterator[ProviderProblem]:
    """What cannot work, or would let in whom nobody meant; addresses are checked by `registry.validation`."""
    for problem in problems_of(login_provider_of(spec)):
        okta_itself = spec.login.preset == "okta" and problem.path == "spec.issuer" and urlsplit(spec.login.issuer).path in ("", "/")
        if not okta_itself:  # the organisation's own server: its access tokens are for Okta only, its ID tokens are for us
            yield ProviderProblem(path=problem.path.replace("spec.", "spec.login.", 1), message=problem.message)
    yield from _problems_of_mapping(spec.login.mapping)
    for client_id, client in spec.clients.items():
        for index, uri in enumerate(client.redirect_uris):
            if fault := fault_of_redirect_uri(uri, spec.registration.private_use_schemes):
                yield ProviderProblem(path=f"spec.clients.{client_id}.redirectUris[{index}]", message=fault)
    documents = spec.registration.client_id_metadata
    if documents.enabled and not documents.trusted_domains:
        message = "is missing: name the hosts whose client metadata documents are taken ('*' for any)"
        yield ProviderProblem(path="spec.registration.clientIdMetadata.trustedDomains", message=message)


def _problems_of_mapping(mapping: ClaimMapping) -> Iterator[ProviderProblem]:
    for field, given in (("client", mapping.client), ("agent", mapping.agent), ("kind", mapping.kind)):
        if given:
            message = "has no meaning here: who logs in is a user, and the client is the one that asked"
            yield ProviderProblem(path=f"spec.login.mapping.{field}", message=message)
    named = [(f"claims[{index}]", claim) for index, claim in enumerate(mapping.claims)]
    named += [(f"labels.{label}", claim) for label, claim in mapping.labels.items()]
    for place, claim in named:
        if claim.startswith("/") or claim in OWN_CLAIMS:
            message = "must be the plain name of a claim that access tokens do not use themselves"
            yield ProviderProblem(path=f"spec.login.mapping.{place}", message=message)

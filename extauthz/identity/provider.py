"""An identity provider as the authorizer knows it: where its keys are and how its claims are read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TokenBinding(StrEnum):
    """What a provider's access tokens must be bound to."""

    ANY = "any"
    """One of the two."""
    DPOP = "dpop"
    MTLS = "mtls"
    NONE = "none"
    """Nothing; tokens that are bound are refused."""
    OPTIONAL = "optional"
    """Nothing; tokens that are bound need their proof."""

    @property
    def takes_dpop(self) -> bool:
        """Whether tokens that are bound by DPoP are taken."""
        return self in {TokenBinding.ANY, TokenBinding.DPOP, TokenBinding.OPTIONAL}

    @property
    def takes_mtls(self) -> bool:
        """Whether tokens that are bound to a client certificate are taken."""
        return self in {TokenBinding.ANY, TokenBinding.MTLS, TokenBinding.OPTIONAL}

    @property
    def takes_unbound(self) -> bool:
        """Whether plain bearer tokens are taken."""
        return self in {TokenBinding.NONE, TokenBinding.OPTIONAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """Which claims make the principal, and what a token of this provider must say. Claims are names or JSON pointers.

    `required`: claims and their allowed values (none: any). A principal is an agent when the claim `agent` is there, when the
    claim `kind` has one of `agent_kinds`, or, if that claim is absent, when the subject has a form of `agent_subjects`
    (`{client}` stands for the OAuth client) or none of the claims `agent_without` is there. `id_tokens`: the provider has no access
    tokens that others can read, and its ID tokens are taken instead.
    `labels`: names of labels, and the claims whose values they are.
    """

    subject: str = "sub"
    subject_from_client: bool = False
    groups: tuple[str, ...] = ("groups",)
    attributes: tuple[str, ...] = ()
    tenant: str = ""
    tenants: tuple[str, ...] = ()
    oauth_client: tuple[str, ...] = ("client_id", "azp")
    oauth_clients: tuple[str, ...] = ()
    client_required: bool = False
    token_id: tuple[str, ...] = ("jti",)
    agent: str = ""
    kind: str = ""
    agent_kinds: tuple[str, ...] = ()
    agent_subjects: tuple[str, ...] = ()
    agent_without: tuple[str, ...] = ()
    required: tuple[tuple[str, tuple[str, ...]], ...] = ()
    id_tokens: bool = False
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityProvider:
    """One trusted issuer. `id` qualifies its principals (`acme-okta/ann`).

    `trusted_namespaces` empty = every namespace when registered in `system`, else its own only. `audiences` empty = only the
    URL of the route that is called (RFC 8707). `operators_only` principals may use the API and never the data path. `scopes`: what
    a client should ask for at first. `dpop_nonce`: proofs must hold a nonce of ours.
    """

    id: str
    namespace: str
    name: str
    issuer: str
    jwks_json: str = ""
    jwks_url: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    audiences: tuple[str, ...] = ()
    token_types: tuple[str, ...] = ()
    trusted_namespaces: tuple[str, ...] = ()
    rules: ClaimRules = ClaimRules()
    scopes: tuple[str, ...] = ()
    token_binding: TokenBinding = TokenBinding.NONE
    dpop_nonce: bool = False
    allow_insecure_http: bool = False
    operators_only: bool = False

    def trusts(self, namespace: str) -> bool:
        """Whether this provider's principals may act in `namespace`."""
        if self.namespace != "system":
            return namespace == self.namespace
        return not self.trusted_namespaces or namespace in self.trusted_namespaces

"""An identity provider as the authorizer knows it: where its keys are and how its claims are read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityProvider:
    """One trusted issuer. `id` qualifies its principals (`acme-okta/ann`).

    `trusted_namespaces` empty = every namespace when registered in `system`, else its own only. `audiences` empty = only the
    URL of the route that is called (RFC 8707). `operators_only` principals may use the API and never the data path.
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
    subject_claim: str = "sub"
    groups_claim: str = "groups"
    agent_claim: str = ""
    allow_insecure_http: bool = False
    operators_only: bool = False

    def trusts(self, namespace: str) -> bool:
        """Whether this provider's principals may act in `namespace`."""
        if self.namespace != "system":
            return namespace == self.namespace
        return not self.trusted_namespaces or namespace in self.trusted_namespaces

"""Who uses the API: the verifier of the data path, with the API's own audience, and permissions from operator roles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from aiohttp import web

from controlplane.api.base_url import API_PATH, resource_url_of
from controlplane.registry.changes import entries_of
from controlplane.registry.permissions import Operator, permissions_of
from controlplane.registry.revocation import RevocationFollower
from controlplane.registry.spec import Kind
from controlplane.registry.state import RegistryState
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.authenticator import Authenticator, VerifiedTokens
from extauthz.identity.binding import Presentation
from extauthz.identity.dpop import ProofMemory
from extauthz.identity.jwks import KeySource
from extauthz.identity.principal import Principal
from extauthz.identity.provider import IdentityProvider

_OPERATORS_API = ""  # the namespace that `Authenticator` knows the API by

ProvidersOf = Callable[[RegistryState], tuple[IdentityProvider, ...]]
StateReader = Callable[[], RegistryState]


class OperatorAuthentication(Protocol):
    """Says who an API request comes from."""

    @property
    def resource_url(self) -> str:
        """What access tokens for the API are meant for."""
        ...

    def providers(self) -> tuple[IdentityProvider, ...]:
        """Today's identity providers, those of callers too."""
        ...

    async def authenticate(self, request: web.Request) -> Operator:
        """The operator; raises `AuthenticationError`."""
        ...

    def again(self, operator: Operator) -> Operator | None:
        """The same operator with today's permissions, for long answers; None when the token has expired."""
        ...


class OperatorAuthenticator:
    """Authenticates against the newest state. The verifier is made anew only when identity providers change."""

    def __init__(
        self, *, state: StateReader, key_source: KeySource, providers_of: ProvidersOf, resource_url: str, clock: Callable[[], float]
    ) -> None:
        self._state = state
        self._key_source = key_source
        self._providers_of = providers_of
        self._resource_url = resource_url
        self._clock = clock
        self._verified_tokens = VerifiedTokens(max_entries=2000)
        self._proofs = ProofMemory()
        self._known: object = None
        self._revocations = RevocationFollower()
        self._authenticator = Authenticator((), key_source, clock)

    @property
    def resource_url(self) -> str:
        """`<gateway URL>/v1`, as configured; by which one a caller came, `api.base_url` knows."""
        return self._resource_url

    def providers(self) -> tuple[IdentityProvider, ...]:
        """Those of the newest state."""
        return self._providers_of(self._state())

    async def authenticate(self, request: web.Request) -> Operator:
        """The operator whose access token the request carries."""
        principal = await self._authenticator_of(self._state()).authenticate(
            request.headers.getall("Authorization", []),
            resource_url=resource_url_of(request, self._resource_url),
            namespace=_OPERATORS_API,
            presentation=self._presentation(request),
        )
        if self._revocations.index(self._state()).find(principal, self._clock()) is not None:
            raise AuthenticationError(Reason.REVOKED, "the access token has been revoked")
        return self._operator(principal)

    def _presentation(self, request: web.Request) -> Presentation:
        """Proofs of DPoP are for the gateway's own URL of the path. Certificates of clients do not come this far."""
        gateway_url = resource_url_of(request, self._resource_url).removesuffix(API_PATH)
        return Presentation(
            http_method=request.method, url=gateway_url + request.rel_url.raw_path, proofs=request.headers.getall("DPoP", [])
        )

    def again(self, operator: Operator) -> Operator | None:
        """The same operator with today's permissions; None when the token has expired or was revoked, or its issuer is gone."""
        expires_at = operator.principal.expires_at_unix
        if expires_at and expires_at <= self._clock():
            return None
        if all(provider.id != operator.principal.provider for provider in self._providers_of(self._state())):
            return None
        if self._revocations.index(self._state()).find(operator.principal, self._clock()) is not None:
            return None
        return self._operator(operator.principal)

    def _operator(self, principal: Principal) -> Operator:
        return Operator(principal=principal, permissions=permissions_of(principal, self._state()))

    def _authenticator_of(self, state: RegistryState) -> Authenticator:
        entries = entries_of(state, Kind.IDENTITY_PROVIDER)
        if entries is not self._known:  # states share what did not change
            providers = tuple(for_operators(provider) for provider in self._providers_of(state))
            self._key_source.watch(providers)
            self._authenticator = Authenticator(
                providers, self._key_source, self._clock, verified_tokens=self._verified_tokens, proofs=self._proofs
            )
            self._known = entries
        return self._authenticator


def for_operators(provider: IdentityProvider) -> IdentityProvider:
    """The provider as the API trusts it: tokens for the API only.

    What a provider of callers accepts beside a server's own URL is for servers; a token that an agent carries there must not
    open the registry, even when its owner is an operator.
    """
    return provider if provider.operators_only else replace(provider, audiences=())

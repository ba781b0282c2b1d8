"""Kind AuthorizationServer: our own OAuth issuer in front of an identity provider that can only log people in.

Its issuer is `<gateway URL>/oauth/<name>`. What it does with this: `controlplane.authorization_server`.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator

from controlplane.registry.claim_mapping import DEFAULT_ALGORITHMS, Algorithm, ClaimMapping, Preset, Scopes
from controlplane.registry.document import Document, Name, SecretReference

ClientId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,199}$")]
GrantType = Literal["authorization_code", "refresh_token", "client_credentials"]
RedirectUri = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$", max_length=2000)]
TrustedDomain = Annotated[str, StringConstraints(pattern=r"^(\*|(\*\.)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?(:[0-9]{1,5})?)$")]
"""A host, `*.example.com` for those below one, `*` for any."""


class _Part(Document):
    """Base of the parts: what they check is made ready when the first document comes, for most registries have none."""

    model_config = ConfigDict(defer_build=True)


class PrivateKeyJwtSpec(_Part):
    """How we prove ourselves to the identity provider by a signature (RFC 7523). `key`: a private JWK, or PEM in a file."""

    key: SecretReference
    key_id: str = Field(default="", max_length=200)
    algorithm: Algorithm = "ES256"


class LoginSpec(_Part):
    """The identity provider that people log in to, by OpenID Connect, and the client that we are there.

    Register `<gateway URL>/oauth/<name>/callback` there. Groups must stand in its ID tokens.
    """

    issuer: str = Field(min_length=1, max_length=500)
    client_id: str = Field(min_length=1, max_length=500)
    client_secret: SecretReference | None = None
    private_key_jwt: PrivateKeyJwtSpec | None = None
    scopes: Scopes = ("openid",)
    preset: Preset | None = None
    mapping: ClaimMapping = Field(default_factory=ClaimMapping)
    algorithms: tuple[Algorithm, ...] = DEFAULT_ALGORITHMS
    tenants: tuple[str, ...] = Field(default=(), max_length=100)
    allow_insecure_http: bool = False

    @field_validator("issuer")
    @classmethod
    def _url(cls, issuer: str) -> str:
        parts = urlsplit(issuer)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError("must be an https:// URL without user name, query and #fragment")
        return issuer

    @model_validator(mode="after")
    def _fits(self) -> LoginSpec:
        if (self.client_secret is None) == (self.private_key_jwt is None):
            raise ValueError("needs exactly one of 'clientSecret' and 'privateKeyJwt'")
        if "openid" not in self.scopes:
            raise ValueError("'scopes' must hold openid: without an ID token nobody is known")
        return self


class StaticClientSpec(_Part):
    """A client that an operator registered; its id is the key under `clients`."""

    name: str = Field(min_length=1, max_length=200)
    redirect_uris: tuple[RedirectUri, ...] = Field(default=(), max_length=50)
    grant_types: tuple[GrantType, ...] = Field(default=("authorization_code", "refresh_token"), min_length=1, max_length=3)
    token_endpoint_auth_method: Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"] = "none"  # noqa: S105
    secret: SecretReference | None = None
    jwks: dict[str, object] | None = None
    jwks_uri: str = Field(default="", max_length=2000)
    scopes: Scopes = ()

    @model_validator(mode="after")
    def _fits(self) -> StaticClientSpec:
        with_secret = self.token_endpoint_auth_method.startswith("client_secret_")
        if with_secret != (self.secret is not None):
            raise ValueError("'secret' goes with client_secret_basic and client_secret_post, and is needed there")
        if (self.token_endpoint_auth_method == "private_key_jwt") != (self.jwks is not None or bool(self.jwks_uri)):  # noqa: S105
            raise ValueError("'jwks' or 'jwksUri' goes with private_key_jwt, and one of them is needed there")
        if self.jwks is not None and self.jwks_uri:
            raise ValueError("give either 'jwks' or 'jwksUri'")
        if "client_credentials" in self.grant_types and self.token_endpoint_auth_method == "none":  # noqa: S105
            raise ValueError("client_credentials needs a client that proves itself: another 'tokenEndpointAuthMethod'")
        if ("authorization_code" in self.grant_types) != bool(self.redirect_uris):
            raise ValueError("'redirectUris' goes with authorization_code, and is needed there")
        return self


PrivateUseScheme = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+-]{1,49}$")]
NO_PROGRAM = frozenset(
    {
        *("about", "blob", "chrome", "content", "data", "file", "filesystem", "ftp", "http", "https", "intent", "jar", "javascript"),
        *("mailto", "resource", "sms", "ssh", "tel", "urn", "vbscript", "view-source", "ws", "wss"),
    }
)
"""Schemes that lead to no program that could have asked."""


class ClientIdMetadataSpec(_Part):
    """Clients whose id is the URL of a document about them. Without `trustedDomains` none is taken."""

    enabled: bool = False
    trusted_domains: tuple[TrustedDomain, ...] = Field(default=(), max_length=200)


class RegistrationSpec(_Part):
    """How clients become known that no operator registered, and what their redirect URIs may be.

    `privateUseSchemes`: schemes without a dot that are admitted, such as `cursor`; on a person's machine any program may claim one.
    """

    client_id_metadata: ClientIdMetadataSpec = Field(default_factory=ClientIdMetadataSpec)
    dynamic: Literal["off", "initialAccessToken", "open"] = "off"
    initial_access_token: SecretReference | None = None
    max_clients: int = Field(default=1000, ge=1, le=100_000)
    private_use_schemes: tuple[PrivateUseScheme, ...] = Field(default=(), max_length=50)

    @field_validator("private_use_schemes")
    @classmethod
    def _of_programs(cls, schemes: tuple[str, ...]) -> tuple[str, ...]:
        if refused := sorted(NO_PROGRAM.intersection(schemes)):
            raise ValueError(f"{refused[0]} is no scheme of a program")
        return schemes

    @model_validator(mode="after")
    def _fits(self) -> RegistrationSpec:
        if (self.dynamic == "initialAccessToken") != (self.initial_access_token is not None):
            raise ValueError("'initialAccessToken' goes with 'dynamic: initialAccessToken', and is needed there")
        return self


class LifetimesSpec(_Part):
    """How long things are good. A refresh token is renewed on every use; `refreshTokenDays` counts from the login."""

    access_token_seconds: int = Field(default=300, ge=30, le=300)
    code_seconds: int = Field(default=60, ge=10, le=60)
    refresh_token_days: int = Field(default=7, ge=1, le=90)
    consent_days: int = Field(default=90, ge=1, le=365)


class AuthorizationServerSpec(_Part):
    """`scopes`: what clients may be granted at most; `initialScopes`: what they are told to ask for at first."""

    description: str = Field(default="", max_length=2000)
    login: LoginSpec
    clients: dict[ClientId, StaticClientSpec] = Field(default_factory=dict, max_length=1000)
    registration: RegistrationSpec = Field(default_factory=RegistrationSpec)
    lifetimes: LifetimesSpec = Field(default_factory=LifetimesSpec)
    scopes: Scopes = ()
    initial_scopes: Scopes = ()
    trusted_namespaces: tuple[Name, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _known_scopes(self) -> AuthorizationServerSpec:
        for asked in (self.initial_scopes, *(client.scopes for client in self.clients.values())):
            if unknown := [scope for scope in asked if scope not in self.scopes]:
                raise ValueError(f"'scopes' lacks {unknown[0]}")
        return self

"""Registry documents: the shape of each kind, as operators write it (camelCase) and as Python reads it (snake_case).

Only shape and ranges are checked here, each error with its path; what needs the rest of the registry (does the role exist,
is the address allowed) is checked by `registry.service`.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AwareDatetime, Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

from controlplane.registry.audit_policy_spec import AuditPolicySpec as AuditPolicySpec  # noqa: PLC0414 - part of this vocabulary
from controlplane.registry.audit_sink_spec import AuditSinkSpec as AuditSinkSpec  # noqa: PLC0414
from controlplane.registry.authorization_server_spec import AuthorizationServerSpec as AuthorizationServerSpec  # noqa: PLC0414
from controlplane.registry.claim_mapping import DEFAULT_ALGORITHMS as DEFAULT_ALGORITHMS  # noqa: PLC0414
from controlplane.registry.claim_mapping import Algorithm as Algorithm  # noqa: PLC0414
from controlplane.registry.claim_mapping import ClaimMapping as ClaimMapping  # noqa: PLC0414
from controlplane.registry.claim_mapping import Preset, Scopes
from controlplane.registry.cost_model_spec import CostModelSpec as CostModelSpec  # noqa: PLC0414
from controlplane.registry.document import Document as Document  # noqa: PLC0414 - part of this vocabulary
from controlplane.registry.document import Name as Name  # noqa: PLC0414
from controlplane.registry.document import SecretReference as SecretReference  # noqa: PLC0414
from controlplane.registry.gateway_spec import CertificateSpec
from controlplane.registry.gateway_spec import GatewaySpec as GatewaySpec  # noqa: PLC0414
from controlplane.registry.kind import PLURAL_OF_KIND as PLURAL_OF_KIND  # noqa: PLC0414 - part of this vocabulary
from controlplane.registry.kind import Kind as Kind  # noqa: PLC0414
from controlplane.registry.trust_domain_spec import SpiffeId
from controlplane.registry.trust_domain_spec import TrustDomainSpec as TrustDomainSpec  # noqa: PLC0414
from controlplane.registry.virtual_server_spec import VirtualServerSpec as VirtualServerSpec  # noqa: PLC0414

API_VERSION = "legation/v1"
SYSTEM_NAMESPACE = "system"


LabelKey = Annotated[
    str,
    StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$", max_length=253),
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
AnnotationValue = Annotated[str, StringConstraints(max_length=4096)]


class Metadata(Document):
    """Who an entry is. `namespace` is empty for kind Namespace only."""

    name: Name
    namespace: Name | Literal[""] = ""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=64)
    annotations: dict[LabelKey, AnnotationValue] = Field(default_factory=dict, max_length=64)


class NamespaceSpec(Document):
    """A tenant: servers, policies and roles live in one."""

    description: str = Field(default="", max_length=1000)


class Endpoint(Document):
    """One address of an MCP server. All endpoints of a server share scheme and path."""

    url: str = Field(max_length=2000)

    @field_validator("url")
    @classmethod
    def _http_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an absolute http:// or https:// URL")
        if parts.username or parts.password:
            raise ValueError("must not hold a user name or password; use spec.credential")
        if parts.fragment:
            raise ValueError("must not have a #fragment")
        if any(character.isspace() or ord(character) < 0x20 for character in url):
            raise ValueError("must not hold white space or control characters")
        _ = parts.port  # raises ValueError when it is not a port
        return url


NOT_FOR_CREDENTIALS = frozenset(
    {
        *("accept", "accept-charset", "accept-encoding", "accept-language", "age", "allow", "alt-svc", "cache-control", "connection"),
        *("cookie", "cookie2", "date", "early-data", "etag", "expect", "expires", "forwarded", "from", "host", "http2-settings"),
        *("if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "keep-alive", "last-event-id"),
        *("last-modified", "link", "location", "max-forwards", "mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id"),
        *("origin", "pragma", "priority", "range", "referer", "server", "set-cookie", "te", "traceparent", "tracestate"),
        *("baggage", "trailer", "transfer-encoding", "upgrade", "upgrade-insecure-requests", "user-agent", "vary", "via", "warning"),
        *("dpop", "host-override", "x-host", "x-http-host-override", "x-http-method", "x-http-method-override", "x-method-override"),
        *("x-original-host", "x-original-uri", "x-original-url", "x-real-ip", "x-request-id", "x-rewrite-url"),
    }
)
"""Headers that frame a message, route it, or say who sent it: a credential there would break the call or be believed."""
NOT_FOR_CREDENTIALS_PREFIXES = (
    *("access-control-", "content-", "grpc-", "legation-", "mcp-param-", "proxy-", "sec-"),
    *("x-b3-", "x-envoy-", "x-forwarded-", "x-legation-"),
)


class StaticHeaderSpec(Document):
    """`header: <prefix><secret>` on every call."""

    header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,100}$")] = "authorization"
    prefix: Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=50)] = "Bearer "
    secret: SecretReference

    @field_validator("header")
    @classmethod
    def _harmless(cls, header: str) -> str:
        lowered = header.lower()
        if lowered in NOT_FOR_CREDENTIALS or lowered.startswith(NOT_FOR_CREDENTIALS_PREFIXES):
            raise ValueError(f"{header} cannot carry a credential")
        return lowered


class ClientCredentialsSpec(Document):
    """OAuth 2.0 client credentials grant at `tokenUrl`."""

    token_url: str = Field(max_length=2000)
    client_id: str = Field(min_length=1, max_length=500)
    client_secret: SecretReference
    scopes: tuple[str, ...] = Field(default=(), max_length=50)
    audience: str = ""
    resource: str = ""

    @field_validator("token_url")
    @classmethod
    def _token_url(cls, url: str) -> str:
        return Endpoint(url=url).url


class CredentialSpec(Document):
    """How the gateway authenticates to the MCP server; absent = not at all. The caller's token never goes upstream."""

    static_header: StaticHeaderSpec | None = None
    client_credentials: ClientCredentialsSpec | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> CredentialSpec:
        if (self.static_header is None) == (self.client_credentials is None):
            raise ValueError("needs exactly one of 'staticHeader' and 'clientCredentials'")
        return self


SubjectAltName = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", max_length=2048)]
"""A DNS name, an IP address, or (with `://` in it) a URI."""


class UpstreamTlsSpec(Document):
    """TLS towards the MCP server; https endpoints use it.

    `caFile` names a file of certificates in the namespace's secrets folder; empty: the system's certificate authorities.
    `subjectAltNames`: the server's certificate must be good for one of these exactly (names, addresses, URIs) instead of for the
    host that is called. `spiffeId`: it must be the X.509-SVID of this SPIFFE ID, believed by the registered TrustDomain's bundle.
    `clientCertificate`: what the gateway shows.
    """

    server_name: str = Field(default="", max_length=255)
    ca_file: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,99})?$")] = ""
    subject_alt_names: Annotated[tuple[SubjectAltName, ...], Field(max_length=20)] = ()
    spiffe_id: SpiffeId | Literal[""] = ""
    client_certificate: CertificateSpec | None = None

    @model_validator(mode="after")
    def _fits(self) -> UpstreamTlsSpec:
        if self.spiffe_id and (self.ca_file or self.subject_alt_names):
            raise ValueError("'spiffeId' says who it is and by whose authority: 'caFile' and 'subjectAltNames' do not go with it")
        return self


class RequiredScopesSpec(Document):
    """OAuth scopes that an access token must have, on top of what policies permit: for every request, and more for some tools."""

    connect: Scopes = ()
    effects: dict[Literal["read", "write", "destructive"], Scopes] = Field(default_factory=dict)
    tools: dict[Annotated[str, StringConstraints(min_length=1, max_length=200)], Scopes] = Field(default_factory=dict, max_length=1000)


class McpServerSpec(Document):
    """One MCP server: where it is, how we authenticate to it, how much it may be asked.

    `eraBridge`: clients of an era of the protocol that it does not speak are served all the same. `autoAccept`: which changes of
    definitions that were accepted once are accepted without a person.
    """

    description: str = Field(default="", max_length=2000)
    endpoints: tuple[Endpoint, ...] = Field(min_length=1, max_length=100)
    credential: CredentialSpec | None = None
    tls: UpstreamTlsSpec = Field(default_factory=UpstreamTlsSpec)
    required_scopes: RequiredScopesSpec = Field(default_factory=RequiredScopesSpec)
    suspended: bool = False
    max_body_bytes: int = Field(default=262_144, ge=1024, le=4_194_304)
    timeout_ms: int = Field(default=0, ge=0, le=3_600_000)
    max_concurrent_calls: int = Field(default=1024, ge=1, le=100_000)
    era_bridge: bool = True
    auto_accept: Literal["none", "cosmetic", "all"] = "none"

    @model_validator(mode="after")
    def _endpoints_agree(self) -> McpServerSpec:
        shapes = {(urlsplit(e.url).scheme, urlsplit(e.url).path, urlsplit(e.url).query) for e in self.endpoints}
        if len(shapes) > 1:
            raise ValueError("all endpoints must share scheme, path and query")
        if len({e.url for e in self.endpoints}) != len(self.endpoints):
            raise ValueError("an endpoint is named twice")
        secured = [name for name in ("spiffe_id", "subject_alt_names", "client_certificate") if getattr(self.tls, name)]
        if secured and any(scheme != "https" for scheme, _, _ in shapes):
            raise ValueError(f"'tls.{to_camel(secured[0])}' goes with https endpoints")
        return self


QualifiedName = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]


class PolicyPresetSpec(Document):
    """What holders of these roles may do on these servers (none named: on every one that the PolicySet governs), by effect of the tools.

    Names are of the PolicySet's namespace, or `namespace/name`. `registry.preset` makes Cedar of it.
    """

    preset: Literal["read-only", "read-write", "full"]
    roles: tuple[QualifiedName, ...] = Field(min_length=1, max_length=100)
    servers: tuple[QualifiedName, ...] = Field(default=(), max_length=1000)


MAX_PRESET_COMBINATIONS = 2000
"""Of roles and servers in one PolicySet: each becomes one or two policies."""


class PolicySetSpec(Document):
    """Cedar policies, presets, or both. They govern their own namespace; those of `system` govern every namespace."""

    description: str = Field(default="", max_length=2000)
    cedar: str = Field(default="", max_length=1_000_000)
    presets: tuple[PolicyPresetSpec, ...] = Field(default=(), max_length=100)

    @model_validator(mode="after")
    def _says_something(self) -> PolicySetSpec:
        if not self.cedar and not self.presets:
            raise ValueError("needs 'cedar', 'presets' or both")
        combinations = sum(len(preset.roles) * max(1, len(preset.servers)) for preset in self.presets)
        if combinations > MAX_PRESET_COMBINATIONS:
            raise ValueError(
                f"'presets' name {combinations} combinations of a role and a server; {MAX_PRESET_COMBINATIONS} are the most: "
                "name no servers to mean every one, or use several PolicySets"
            )
        return self


class PolicyCandidateSpec(PolicySetSpec):
    """Policies that are judged beside those in force, and decide nothing.

    It stands for what the PolicySet of its own name, and those in `replaces`, would become; where there is none it would be a new one.
    """

    replaces: tuple[Name, ...] = Field(default=(), max_length=100)


class SubjectSpec(Document):
    """Somebody a role is given to. `name` is `provider/subject`, or short while exactly one provider is visible.

    A Claim is whoever has a value in a claim: `provider/claim=value`.
    """

    kind: Literal["User", "Group", "Agent", "Workload", "Claim"]
    name: str = Field(min_length=1, max_length=1000)


class RoleBindingSpec(Document):
    """Who holds `role` in this namespace. `legation:…` roles are operator roles and grant permissions on the registry."""

    role: Annotated[str, StringConstraints(pattern=r"^(legation:)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    subjects: tuple[SubjectSpec, ...] = Field(min_length=1, max_length=10_000)


class IdentityProviderSpec(Document):
    """An issuer of access tokens: by OIDC discovery, by `jwksUrl`, or with its keys inline (`jwks`)."""

    issuer: str = Field(min_length=1, max_length=500)
    jwks: dict[str, object] | None = None
    jwks_url: str = Field(default="", max_length=2000)
    algorithms: tuple[Algorithm, ...] = DEFAULT_ALGORITHMS
    audiences: tuple[str, ...] = Field(default=(), max_length=50)
    token_types: tuple[str, ...] = Field(default=(), max_length=10)
    trusted_namespaces: tuple[Name, ...] = Field(default=(), max_length=1000)
    preset: Preset | None = None
    accept_id_tokens: bool = False
    scopes: Scopes = ()
    token_binding: Literal["none", "dpop", "mtls", "any", "optional"] = "none"  # noqa: S105 - a word
    dpop_nonce: bool = False
    tenants: tuple[str, ...] = Field(default=(), max_length=100)
    oauth_clients: tuple[str, ...] = Field(default=(), max_length=1000)
    mapping: ClaimMapping = Field(default_factory=ClaimMapping)
    allow_insecure_http: bool = False
    operators_only: bool = False


RevokedName = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class RevocationSpec(Document):
    """What is refused although its token is good: a token by its `jti`, a subject, an OAuth client, or a SPIFFE ID.

    Names are qualified: `provider/name`. `issuedBefore` refuses only tokens that are older; `until` ends the revocation.
    """

    token: RevokedName | None = None
    subject: RevokedName | None = None
    oauth_client: RevokedName | None = None
    spiffe_id: Annotated[str, StringConstraints(pattern=r"^spiffe://[^/\s]+(/[^\s]*)?$", max_length=2048)] | None = None
    issued_before: AwareDatetime | None = None
    until: AwareDatetime | None = None
    reason: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _exactly_one(self) -> RevocationSpec:
        if sum(part is not None for part in (self.token, self.subject, self.oauth_client, self.spiffe_id)) != 1:
            raise ValueError("needs exactly one of 'token', 'subject', 'oauthClient' and 'spiffeId'")
        if self.issued_before is not None and self.subject is None and self.oauth_client is None:
            raise ValueError("'issuedBefore' goes with 'subject' and 'oauthClient' only")
        return self


SPEC_OF_KIND: dict[Kind, type[Document]] = {
    Kind.NAMESPACE: NamespaceSpec,
    Kind.MCP_SERVER: McpServerSpec,
    Kind.POLICY_SET: PolicySetSpec,
    Kind.POLICY_CANDIDATE: PolicyCandidateSpec,
    Kind.ROLE_BINDING: RoleBindingSpec,
    Kind.IDENTITY_PROVIDER: IdentityProviderSpec,
    Kind.REVOCATION: RevocationSpec,
    Kind.GATEWAY: GatewaySpec,
    Kind.TRUST_DOMAIN: TrustDomainSpec,
    Kind.AUTHORIZATION_SERVER: AuthorizationServerSpec,
    Kind.VIRTUAL_SERVER: VirtualServerSpec,
    Kind.AUDIT_POLICY: AuditPolicySpec,
    Kind.AUDIT_SINK: AuditSinkSpec,
    Kind.COST_MODEL: CostModelSpec,
}

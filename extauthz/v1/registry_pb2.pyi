from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Effect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EFFECT_UNSPECIFIED: _ClassVar[Effect]
    EFFECT_READ: _ClassVar[Effect]
    EFFECT_WRITE: _ClassVar[Effect]
    EFFECT_DESTRUCTIVE: _ClassVar[Effect]

class ArgumentType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARGUMENT_TYPE_UNSPECIFIED: _ClassVar[ArgumentType]
    ARGUMENT_TYPE_STRING: _ClassVar[ArgumentType]
    ARGUMENT_TYPE_INTEGER: _ClassVar[ArgumentType]
    ARGUMENT_TYPE_NUMBER: _ClassVar[ArgumentType]
    ARGUMENT_TYPE_BOOLEAN: _ClassVar[ArgumentType]
    ARGUMENT_TYPE_STRING_SET: _ClassVar[ArgumentType]

class SubjectKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUBJECT_KIND_UNSPECIFIED: _ClassVar[SubjectKind]
    SUBJECT_KIND_USER: _ClassVar[SubjectKind]
    SUBJECT_KIND_GROUP: _ClassVar[SubjectKind]
    SUBJECT_KIND_AGENT: _ClassVar[SubjectKind]
    SUBJECT_KIND_WORKLOAD: _ClassVar[SubjectKind]
    SUBJECT_KIND_CLAIM: _ClassVar[SubjectKind]

class AuditMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIT_MODE_UNSPECIFIED: _ClassVar[AuditMode]
    AUDIT_MODE_STRICT: _ClassVar[AuditMode]
    AUDIT_MODE_AVAILABLE: _ClassVar[AuditMode]

class AuditKeep(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIT_KEEP_UNSPECIFIED: _ClassVar[AuditKeep]
    AUDIT_KEEP_FULL: _ClassVar[AuditKeep]
    AUDIT_KEEP_REDACTED: _ClassVar[AuditKeep]
    AUDIT_KEEP_HASHED: _ClassVar[AuditKeep]
    AUDIT_KEEP_OFF: _ClassVar[AuditKeep]
EFFECT_UNSPECIFIED: Effect
EFFECT_READ: Effect
EFFECT_WRITE: Effect
EFFECT_DESTRUCTIVE: Effect
ARGUMENT_TYPE_UNSPECIFIED: ArgumentType
ARGUMENT_TYPE_STRING: ArgumentType
ARGUMENT_TYPE_INTEGER: ArgumentType
ARGUMENT_TYPE_NUMBER: ArgumentType
ARGUMENT_TYPE_BOOLEAN: ArgumentType
ARGUMENT_TYPE_STRING_SET: ArgumentType
SUBJECT_KIND_UNSPECIFIED: SubjectKind
SUBJECT_KIND_USER: SubjectKind
SUBJECT_KIND_GROUP: SubjectKind
SUBJECT_KIND_AGENT: SubjectKind
SUBJECT_KIND_WORKLOAD: SubjectKind
SUBJECT_KIND_CLAIM: SubjectKind
AUDIT_MODE_UNSPECIFIED: AuditMode
AUDIT_MODE_STRICT: AuditMode
AUDIT_MODE_AVAILABLE: AuditMode
AUDIT_KEEP_UNSPECIFIED: AuditKeep
AUDIT_KEEP_FULL: AuditKeep
AUDIT_KEEP_REDACTED: AuditKeep
AUDIT_KEEP_HASHED: AuditKeep
AUDIT_KEEP_OFF: AuditKeep

class Revision(_message.Message):
    __slots__ = ("revision", "committed_at_unix_ms")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    committed_at_unix_ms: int
    def __init__(self, revision: _Optional[int] = ..., committed_at_unix_ms: _Optional[int] = ...) -> None: ...

class McpServer(_message.Message):
    __slots__ = ("uid", "namespace", "name", "cluster", "path", "max_body_bytes", "timeout_ms", "credential", "tools", "prompts", "suspended", "required_scopes", "eras", "bridged")
    UID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MAX_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_SCOPES_FIELD_NUMBER: _ClassVar[int]
    ERAS_FIELD_NUMBER: _ClassVar[int]
    BRIDGED_FIELD_NUMBER: _ClassVar[int]
    uid: str
    namespace: str
    name: str
    cluster: str
    path: str
    max_body_bytes: int
    timeout_ms: int
    credential: UpstreamCredential
    tools: _containers.RepeatedCompositeFieldContainer[Tool]
    prompts: _containers.RepeatedCompositeFieldContainer[Prompt]
    suspended: bool
    required_scopes: _containers.RepeatedCompositeFieldContainer[ScopeRequirement]
    eras: _containers.RepeatedScalarFieldContainer[str]
    bridged: bool
    def __init__(self, uid: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., cluster: _Optional[str] = ..., path: _Optional[str] = ..., max_body_bytes: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., credential: _Optional[_Union[UpstreamCredential, _Mapping]] = ..., tools: _Optional[_Iterable[_Union[Tool, _Mapping]]] = ..., prompts: _Optional[_Iterable[_Union[Prompt, _Mapping]]] = ..., suspended: _Optional[bool] = ..., required_scopes: _Optional[_Iterable[_Union[ScopeRequirement, _Mapping]]] = ..., eras: _Optional[_Iterable[str]] = ..., bridged: _Optional[bool] = ...) -> None: ...

class ScopeRequirement(_message.Message):
    __slots__ = ("effect", "tool", "scopes")
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    effect: Effect
    tool: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, effect: _Optional[_Union[Effect, str]] = ..., tool: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ...) -> None: ...

class Tool(_message.Message):
    __slots__ = ("name", "digest", "effect", "idempotent", "arguments", "mirrored", "held")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    MIRRORED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    effect: Effect
    idempotent: bool
    arguments: _containers.RepeatedCompositeFieldContainer[Argument]
    mirrored: _containers.RepeatedCompositeFieldContainer[MirroredArgument]
    held: bool
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., effect: _Optional[_Union[Effect, str]] = ..., idempotent: _Optional[bool] = ..., arguments: _Optional[_Iterable[_Union[Argument, _Mapping]]] = ..., mirrored: _Optional[_Iterable[_Union[MirroredArgument, _Mapping]]] = ..., held: _Optional[bool] = ...) -> None: ...

class MirroredArgument(_message.Message):
    __slots__ = ("header", "path", "type")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    header: str
    path: _containers.RepeatedScalarFieldContainer[str]
    type: ArgumentType
    def __init__(self, header: _Optional[str] = ..., path: _Optional[_Iterable[str]] = ..., type: _Optional[_Union[ArgumentType, str]] = ...) -> None: ...

class Argument(_message.Message):
    __slots__ = ("name", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: ArgumentType
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[ArgumentType, str]] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("name", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class UpstreamCredential(_message.Message):
    __slots__ = ("static_header", "client_credentials")
    STATIC_HEADER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    static_header: StaticHeader
    client_credentials: ClientCredentials
    def __init__(self, static_header: _Optional[_Union[StaticHeader, _Mapping]] = ..., client_credentials: _Optional[_Union[ClientCredentials, _Mapping]] = ...) -> None: ...

class StaticHeader(_message.Message):
    __slots__ = ("header", "prefix", "secret")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    header: str
    prefix: str
    secret: Secret
    def __init__(self, header: _Optional[str] = ..., prefix: _Optional[str] = ..., secret: _Optional[_Union[Secret, _Mapping]] = ...) -> None: ...

class ClientCredentials(_message.Message):
    __slots__ = ("token_url", "client_id", "client_secret", "scopes", "audience", "resource")
    TOKEN_URL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    token_url: str
    client_id: str
    client_secret: Secret
    scopes: _containers.RepeatedScalarFieldContainer[str]
    audience: str
    resource: str
    def __init__(self, token_url: _Optional[str] = ..., client_id: _Optional[str] = ..., client_secret: _Optional[_Union[Secret, _Mapping]] = ..., scopes: _Optional[_Iterable[str]] = ..., audience: _Optional[str] = ..., resource: _Optional[str] = ...) -> None: ...

class Secret(_message.Message):
    __slots__ = ("file", "value")
    FILE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    file: str
    value: bytes
    def __init__(self, file: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class PolicySet(_message.Message):
    __slots__ = ("namespace", "name", "cedar")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CEDAR_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    cedar: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., cedar: _Optional[str] = ...) -> None: ...

class PolicyCandidate(_message.Message):
    __slots__ = ("policies", "replaces")
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    policies: PolicySet
    replaces: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, policies: _Optional[_Union[PolicySet, _Mapping]] = ..., replaces: _Optional[_Iterable[str]] = ...) -> None: ...

class RoleBinding(_message.Message):
    __slots__ = ("namespace", "name", "role", "subjects")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    role: str
    subjects: _containers.RepeatedCompositeFieldContainer[Subject]
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., role: _Optional[str] = ..., subjects: _Optional[_Iterable[_Union[Subject, _Mapping]]] = ...) -> None: ...

class Subject(_message.Message):
    __slots__ = ("kind", "name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: SubjectKind
    name: str
    def __init__(self, kind: _Optional[_Union[SubjectKind, str]] = ..., name: _Optional[str] = ...) -> None: ...

class IdentityProvider(_message.Message):
    __slots__ = ("id", "namespace", "name", "issuer", "jwks_json", "jwks_url", "algorithms", "audiences", "trusted_namespaces", "allow_insecure_http", "operators_only", "required_token_types", "rules", "scopes", "token_binding", "dpop_nonce")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    JWKS_JSON_FIELD_NUMBER: _ClassVar[int]
    JWKS_URL_FIELD_NUMBER: _ClassVar[int]
    ALGORITHMS_FIELD_NUMBER: _ClassVar[int]
    AUDIENCES_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    ALLOW_INSECURE_HTTP_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_TOKEN_TYPES_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BINDING_FIELD_NUMBER: _ClassVar[int]
    DPOP_NONCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    namespace: str
    name: str
    issuer: str
    jwks_json: str
    jwks_url: str
    algorithms: _containers.RepeatedScalarFieldContainer[str]
    audiences: _containers.RepeatedScalarFieldContainer[str]
    trusted_namespaces: _containers.RepeatedScalarFieldContainer[str]
    allow_insecure_http: bool
    operators_only: bool
    required_token_types: _containers.RepeatedScalarFieldContainer[str]
    rules: ClaimRules
    scopes: _containers.RepeatedScalarFieldContainer[str]
    token_binding: str
    dpop_nonce: bool
    def __init__(self, id: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., issuer: _Optional[str] = ..., jwks_json: _Optional[str] = ..., jwks_url: _Optional[str] = ..., algorithms: _Optional[_Iterable[str]] = ..., audiences: _Optional[_Iterable[str]] = ..., trusted_namespaces: _Optional[_Iterable[str]] = ..., allow_insecure_http: _Optional[bool] = ..., operators_only: _Optional[bool] = ..., required_token_types: _Optional[_Iterable[str]] = ..., rules: _Optional[_Union[ClaimRules, _Mapping]] = ..., scopes: _Optional[_Iterable[str]] = ..., token_binding: _Optional[str] = ..., dpop_nonce: _Optional[bool] = ...) -> None: ...

class ClaimRules(_message.Message):
    __slots__ = ("subject", "subject_from_client", "groups", "attributes", "tenant", "tenants", "oauth_client", "oauth_clients", "client_required", "token_id", "agent", "kind", "agent_kinds", "agent_subjects", "agent_without", "required", "id_tokens", "labels")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FROM_CLIENT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    OAUTH_CLIENT_FIELD_NUMBER: _ClassVar[int]
    OAUTH_CLIENTS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    AGENT_KINDS_FIELD_NUMBER: _ClassVar[int]
    AGENT_SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    AGENT_WITHOUT_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    ID_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    subject: str
    subject_from_client: bool
    groups: _containers.RepeatedScalarFieldContainer[str]
    attributes: _containers.RepeatedScalarFieldContainer[str]
    tenant: str
    tenants: _containers.RepeatedScalarFieldContainer[str]
    oauth_client: _containers.RepeatedScalarFieldContainer[str]
    oauth_clients: _containers.RepeatedScalarFieldContainer[str]
    client_required: bool
    token_id: _containers.RepeatedScalarFieldContainer[str]
    agent: str
    kind: str
    agent_kinds: _containers.RepeatedScalarFieldContainer[str]
    agent_subjects: _containers.RepeatedScalarFieldContainer[str]
    agent_without: _containers.RepeatedScalarFieldContainer[str]
    required: _containers.RepeatedCompositeFieldContainer[ClaimRequirement]
    id_tokens: bool
    labels: _containers.RepeatedCompositeFieldContainer[ClaimLabel]
    def __init__(self, subject: _Optional[str] = ..., subject_from_client: _Optional[bool] = ..., groups: _Optional[_Iterable[str]] = ..., attributes: _Optional[_Iterable[str]] = ..., tenant: _Optional[str] = ..., tenants: _Optional[_Iterable[str]] = ..., oauth_client: _Optional[_Iterable[str]] = ..., oauth_clients: _Optional[_Iterable[str]] = ..., client_required: _Optional[bool] = ..., token_id: _Optional[_Iterable[str]] = ..., agent: _Optional[str] = ..., kind: _Optional[str] = ..., agent_kinds: _Optional[_Iterable[str]] = ..., agent_subjects: _Optional[_Iterable[str]] = ..., agent_without: _Optional[_Iterable[str]] = ..., required: _Optional[_Iterable[_Union[ClaimRequirement, _Mapping]]] = ..., id_tokens: _Optional[bool] = ..., labels: _Optional[_Iterable[_Union[ClaimLabel, _Mapping]]] = ...) -> None: ...

class ClaimLabel(_message.Message):
    __slots__ = ("label", "claim")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    label: str
    claim: str
    def __init__(self, label: _Optional[str] = ..., claim: _Optional[str] = ...) -> None: ...

class ClaimRequirement(_message.Message):
    __slots__ = ("claim", "allowed")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    claim: str
    allowed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, claim: _Optional[str] = ..., allowed: _Optional[_Iterable[str]] = ...) -> None: ...

class Gateway(_message.Message):
    __slots__ = ("name", "url", "hostnames")
    NAME_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    HOSTNAMES_FIELD_NUMBER: _ClassVar[int]
    name: str
    url: str
    hostnames: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., url: _Optional[str] = ..., hostnames: _Optional[_Iterable[str]] = ...) -> None: ...

class TrustDomain(_message.Message):
    __slots__ = ("id", "namespace", "name", "trust_domain", "trusted_namespaces", "x509_authorities", "jwt_authorities_json", "audiences", "max_jwt_svid_seconds", "workloads")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    X509_AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    JWT_AUTHORITIES_JSON_FIELD_NUMBER: _ClassVar[int]
    AUDIENCES_FIELD_NUMBER: _ClassVar[int]
    MAX_JWT_SVID_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    id: str
    namespace: str
    name: str
    trust_domain: str
    trusted_namespaces: _containers.RepeatedScalarFieldContainer[str]
    x509_authorities: _containers.RepeatedScalarFieldContainer[bytes]
    jwt_authorities_json: str
    audiences: _containers.RepeatedScalarFieldContainer[str]
    max_jwt_svid_seconds: int
    workloads: _containers.RepeatedCompositeFieldContainer[WorkloadMapping]
    def __init__(self, id: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., trust_domain: _Optional[str] = ..., trusted_namespaces: _Optional[_Iterable[str]] = ..., x509_authorities: _Optional[_Iterable[bytes]] = ..., jwt_authorities_json: _Optional[str] = ..., audiences: _Optional[_Iterable[str]] = ..., max_jwt_svid_seconds: _Optional[int] = ..., workloads: _Optional[_Iterable[_Union[WorkloadMapping, _Mapping]]] = ...) -> None: ...

class WorkloadMapping(_message.Message):
    __slots__ = ("spiffe_id", "owner", "groups", "scopes", "labels")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    owner: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    scopes: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    def __init__(self, spiffe_id: _Optional[str] = ..., owner: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ..., scopes: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Catalog(_message.Message):
    __slots__ = ("namespace", "name", "definitions", "instructions", "fault", "read_at_unix_ms", "capabilities_json", "server_info_json")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    READ_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_JSON_FIELD_NUMBER: _ClassVar[int]
    SERVER_INFO_JSON_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    definitions: _containers.RepeatedCompositeFieldContainer[Definition]
    instructions: str
    fault: str
    read_at_unix_ms: int
    capabilities_json: bytes
    server_info_json: bytes
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., definitions: _Optional[_Iterable[_Union[Definition, _Mapping]]] = ..., instructions: _Optional[str] = ..., fault: _Optional[str] = ..., read_at_unix_ms: _Optional[int] = ..., capabilities_json: _Optional[bytes] = ..., server_info_json: _Optional[bytes] = ...) -> None: ...

class Definition(_message.Message):
    __slots__ = ("kind", "name", "document_json")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    document_json: bytes
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., document_json: _Optional[bytes] = ...) -> None: ...

class VirtualServer(_message.Message):
    __slots__ = ("uid", "namespace", "name", "title", "instructions", "members", "items", "strict", "stale_seconds", "mode", "suspended")
    UID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    STALE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    uid: str
    namespace: str
    name: str
    title: str
    instructions: str
    members: _containers.RepeatedCompositeFieldContainer[VirtualMember]
    items: _containers.RepeatedCompositeFieldContainer[ExposedItem]
    strict: bool
    stale_seconds: int
    mode: str
    suspended: bool
    def __init__(self, uid: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., title: _Optional[str] = ..., instructions: _Optional[str] = ..., members: _Optional[_Iterable[_Union[VirtualMember, _Mapping]]] = ..., items: _Optional[_Iterable[_Union[ExposedItem, _Mapping]]] = ..., strict: _Optional[bool] = ..., stale_seconds: _Optional[int] = ..., mode: _Optional[str] = ..., suspended: _Optional[bool] = ...) -> None: ...

class VirtualMember(_message.Message):
    __slots__ = ("mcp_server", "uri_prefix")
    MCP_SERVER_FIELD_NUMBER: _ClassVar[int]
    URI_PREFIX_FIELD_NUMBER: _ClassVar[int]
    mcp_server: str
    uri_prefix: str
    def __init__(self, mcp_server: _Optional[str] = ..., uri_prefix: _Optional[str] = ...) -> None: ...

class ExposedItem(_message.Message):
    __slots__ = ("kind", "name", "member", "own_name", "title", "description", "annotations_json", "input_defaults_json", "hidden_arguments")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    OWN_NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    INPUT_DEFAULTS_JSON_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    member: int
    own_name: str
    title: str
    description: str
    annotations_json: bytes
    input_defaults_json: bytes
    hidden_arguments: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., member: _Optional[int] = ..., own_name: _Optional[str] = ..., title: _Optional[str] = ..., description: _Optional[str] = ..., annotations_json: _Optional[bytes] = ..., input_defaults_json: _Optional[bytes] = ..., hidden_arguments: _Optional[_Iterable[str]] = ...) -> None: ...

class Revocation(_message.Message):
    __slots__ = ("namespace", "name", "token", "subject", "oauth_client", "spiffe_id", "issued_before_unix", "expires_at_unix")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    OAUTH_CLIENT_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    ISSUED_BEFORE_UNIX_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_UNIX_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    token: str
    subject: str
    oauth_client: str
    spiffe_id: str
    issued_before_unix: float
    expires_at_unix: float
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., token: _Optional[str] = ..., subject: _Optional[str] = ..., oauth_client: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., issued_before_unix: _Optional[float] = ..., expires_at_unix: _Optional[float] = ...) -> None: ...

class ContextKey(_message.Message):
    __slots__ = ("key_id", "key", "not_before_unix", "not_after_unix")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_UNIX_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_UNIX_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    key: bytes
    not_before_unix: int
    not_after_unix: int
    def __init__(self, key_id: _Optional[str] = ..., key: _Optional[bytes] = ..., not_before_unix: _Optional[int] = ..., not_after_unix: _Optional[int] = ...) -> None: ...

class SealingKey(_message.Message):
    __slots__ = ("key_id", "key", "not_before_unix", "not_after_unix")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_UNIX_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_UNIX_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    key: bytes
    not_before_unix: int
    not_after_unix: int
    def __init__(self, key_id: _Optional[str] = ..., key: _Optional[bytes] = ..., not_before_unix: _Optional[int] = ..., not_after_unix: _Optional[int] = ...) -> None: ...

class AuditPolicy(_message.Message):
    __slots__ = ("namespace", "name", "mode", "arguments", "results")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    mode: AuditMode
    arguments: AuditContent
    results: AuditContent
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., mode: _Optional[_Union[AuditMode, str]] = ..., arguments: _Optional[_Union[AuditContent, _Mapping]] = ..., results: _Optional[_Union[AuditContent, _Mapping]] = ...) -> None: ...

class AuditContent(_message.Message):
    __slots__ = ("keep", "rules")
    KEEP_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    keep: AuditKeep
    rules: _containers.RepeatedCompositeFieldContainer[AuditContentRule]
    def __init__(self, keep: _Optional[_Union[AuditKeep, str]] = ..., rules: _Optional[_Iterable[_Union[AuditContentRule, _Mapping]]] = ...) -> None: ...

class AuditContentRule(_message.Message):
    __slots__ = ("servers", "tools", "path", "keep")
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    servers: _containers.RepeatedScalarFieldContainer[str]
    tools: _containers.RepeatedScalarFieldContainer[str]
    path: _containers.RepeatedCompositeFieldContainer[PathStep]
    keep: AuditKeep
    def __init__(self, servers: _Optional[_Iterable[str]] = ..., tools: _Optional[_Iterable[str]] = ..., path: _Optional[_Iterable[_Union[PathStep, _Mapping]]] = ..., keep: _Optional[_Union[AuditKeep, str]] = ...) -> None: ...

class PathStep(_message.Message):
    __slots__ = ("name", "index", "deep")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DEEP_FIELD_NUMBER: _ClassVar[int]
    name: str
    index: int
    deep: bool
    def __init__(self, name: _Optional[str] = ..., index: _Optional[int] = ..., deep: _Optional[bool] = ...) -> None: ...

class AuditSealingKey(_message.Message):
    __slots__ = ("key_id", "public_key")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    public_key: bytes
    def __init__(self, key_id: _Optional[str] = ..., public_key: _Optional[bytes] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuditEvent(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIT_EVENT_UNSPECIFIED: _ClassVar[AuditEvent]
    AUDIT_EVENT_TOOL_CALL: _ClassVar[AuditEvent]
    AUDIT_EVENT_MCP_MESSAGE: _ClassVar[AuditEvent]
    AUDIT_EVENT_MCP_STREAM: _ClassVar[AuditEvent]
    AUDIT_EVENT_MCP_SESSION_END: _ClassVar[AuditEvent]
    AUDIT_EVENT_REFUSED: _ClassVar[AuditEvent]
    AUDIT_EVENT_METADATA: _ClassVar[AuditEvent]
    AUDIT_EVENT_EDGE_REJECTED: _ClassVar[AuditEvent]

class AuditDecision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIT_DECISION_UNSPECIFIED: _ClassVar[AuditDecision]
    AUDIT_DECISION_ALLOW: _ClassVar[AuditDecision]
    AUDIT_DECISION_DENY: _ClassVar[AuditDecision]
    AUDIT_DECISION_ERROR: _ClassVar[AuditDecision]
AUDIT_EVENT_UNSPECIFIED: AuditEvent
AUDIT_EVENT_TOOL_CALL: AuditEvent
AUDIT_EVENT_MCP_MESSAGE: AuditEvent
AUDIT_EVENT_MCP_STREAM: AuditEvent
AUDIT_EVENT_MCP_SESSION_END: AuditEvent
AUDIT_EVENT_REFUSED: AuditEvent
AUDIT_EVENT_METADATA: AuditEvent
AUDIT_EVENT_EDGE_REJECTED: AuditEvent
AUDIT_DECISION_UNSPECIFIED: AuditDecision
AUDIT_DECISION_ALLOW: AuditDecision
AUDIT_DECISION_DENY: AuditDecision
AUDIT_DECISION_ERROR: AuditDecision

class AuditRecord(_message.Message):
    __slots__ = ("decision_id", "at_unix_us", "writer_id", "sequence", "event", "decision", "reason", "sentence", "principal", "namespace", "mcp_server", "mcp_server_uid", "method", "tool", "mcp_resource_uri", "prompt", "era", "protocol_version", "request_id_json", "arguments_digest", "determining_policies", "policy_errors", "revision", "latency_us", "http_status", "lane", "cluster", "downstream_address", "http_method", "path", "body_bytes", "user_agent", "trace_id", "envoy_request_id", "parent_decision_id", "tool_digest", "effect", "policy_engine", "previous_hash", "record_hash", "abandoned", "suppressed", "session_digest", "revocation", "workload", "virtual_server", "exposed_name")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MCP_SERVER_FIELD_NUMBER: _ClassVar[int]
    MCP_SERVER_UID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    MCP_RESOURCE_URI_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ERA_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_JSON_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DETERMINING_POLICIES_FIELD_NUMBER: _ClassVar[int]
    POLICY_ERRORS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LATENCY_US_FIELD_NUMBER: _ClassVar[int]
    HTTP_STATUS_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    DOWNSTREAM_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HTTP_METHOD_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    USER_AGENT_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    ENVOY_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    POLICY_ENGINE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HASH_FIELD_NUMBER: _ClassVar[int]
    RECORD_HASH_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_FIELD_NUMBER: _ClassVar[int]
    SUPPRESSED_FIELD_NUMBER: _ClassVar[int]
    SESSION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_SERVER_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_NAME_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    at_unix_us: int
    writer_id: str
    sequence: int
    event: AuditEvent
    decision: AuditDecision
    reason: str
    sentence: str
    principal: AuditPrincipal
    namespace: str
    mcp_server: str
    mcp_server_uid: str
    method: str
    tool: str
    mcp_resource_uri: str
    prompt: str
    era: str
    protocol_version: str
    request_id_json: str
    arguments_digest: str
    determining_policies: _containers.RepeatedScalarFieldContainer[str]
    policy_errors: _containers.RepeatedScalarFieldContainer[str]
    revision: int
    latency_us: int
    http_status: int
    lane: str
    cluster: str
    downstream_address: str
    http_method: str
    path: str
    body_bytes: int
    user_agent: str
    trace_id: str
    envoy_request_id: str
    parent_decision_id: str
    tool_digest: str
    effect: str
    policy_engine: str
    previous_hash: bytes
    record_hash: bytes
    abandoned: bool
    suppressed: int
    session_digest: str
    revocation: str
    workload: AuditPrincipal
    virtual_server: str
    exposed_name: str
    def __init__(self, decision_id: _Optional[str] = ..., at_unix_us: _Optional[int] = ..., writer_id: _Optional[str] = ..., sequence: _Optional[int] = ..., event: _Optional[_Union[AuditEvent, str]] = ..., decision: _Optional[_Union[AuditDecision, str]] = ..., reason: _Optional[str] = ..., sentence: _Optional[str] = ..., principal: _Optional[_Union[AuditPrincipal, _Mapping]] = ..., namespace: _Optional[str] = ..., mcp_server: _Optional[str] = ..., mcp_server_uid: _Optional[str] = ..., method: _Optional[str] = ..., tool: _Optional[str] = ..., mcp_resource_uri: _Optional[str] = ..., prompt: _Optional[str] = ..., era: _Optional[str] = ..., protocol_version: _Optional[str] = ..., request_id_json: _Optional[str] = ..., arguments_digest: _Optional[str] = ..., determining_policies: _Optional[_Iterable[str]] = ..., policy_errors: _Optional[_Iterable[str]] = ..., revision: _Optional[int] = ..., latency_us: _Optional[int] = ..., http_status: _Optional[int] = ..., lane: _Optional[str] = ..., cluster: _Optional[str] = ..., downstream_address: _Optional[str] = ..., http_method: _Optional[str] = ..., path: _Optional[str] = ..., body_bytes: _Optional[int] = ..., user_agent: _Optional[str] = ..., trace_id: _Optional[str] = ..., envoy_request_id: _Optional[str] = ..., parent_decision_id: _Optional[str] = ..., tool_digest: _Optional[str] = ..., effect: _Optional[str] = ..., policy_engine: _Optional[str] = ..., previous_hash: _Optional[bytes] = ..., record_hash: _Optional[bytes] = ..., abandoned: _Optional[bool] = ..., suppressed: _Optional[int] = ..., session_digest: _Optional[str] = ..., revocation: _Optional[str] = ..., workload: _Optional[_Union[AuditPrincipal, _Mapping]] = ..., virtual_server: _Optional[str] = ..., exposed_name: _Optional[str] = ...) -> None: ...

class AuditPrincipal(_message.Message):
    __slots__ = ("kind", "id", "provider", "subject", "issuer", "oauth_client_id", "groups", "roles", "access_token_id", "actor", "tenant", "earlier_actors", "owner")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    OAUTH_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    EARLIER_ACTORS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    provider: str
    subject: str
    issuer: str
    oauth_client_id: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    roles: _containers.RepeatedScalarFieldContainer[str]
    access_token_id: str
    actor: str
    tenant: str
    earlier_actors: _containers.RepeatedScalarFieldContainer[str]
    owner: str
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., provider: _Optional[str] = ..., subject: _Optional[str] = ..., issuer: _Optional[str] = ..., oauth_client_id: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ..., roles: _Optional[_Iterable[str]] = ..., access_token_id: _Optional[str] = ..., actor: _Optional[str] = ..., tenant: _Optional[str] = ..., earlier_actors: _Optional[_Iterable[str]] = ..., owner: _Optional[str] = ...) -> None: ...

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
    AUDIT_EVENT_OUTCOME: _ClassVar[AuditEvent]
    AUDIT_EVENT_OUTCOME_MISSING: _ClassVar[AuditEvent]
    AUDIT_EVENT_CHANGE: _ClassVar[AuditEvent]
    AUDIT_EVENT_API_REFUSED: _ClassVar[AuditEvent]
    AUDIT_EVENT_ALARM: _ClassVar[AuditEvent]
    AUDIT_EVENT_ANOMALY: _ClassVar[AuditEvent]
    AUDIT_EVENT_RESULT: _ClassVar[AuditEvent]

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
AUDIT_EVENT_OUTCOME: AuditEvent
AUDIT_EVENT_OUTCOME_MISSING: AuditEvent
AUDIT_EVENT_CHANGE: AuditEvent
AUDIT_EVENT_API_REFUSED: AuditEvent
AUDIT_EVENT_ALARM: AuditEvent
AUDIT_EVENT_ANOMALY: AuditEvent
AUDIT_EVENT_RESULT: AuditEvent
AUDIT_DECISION_UNSPECIFIED: AuditDecision
AUDIT_DECISION_ALLOW: AuditDecision
AUDIT_DECISION_DENY: AuditDecision
AUDIT_DECISION_ERROR: AuditDecision

class AuditRecord(_message.Message):
    __slots__ = ("decision_id", "at_unix_us", "writer_id", "sequence", "event", "decision", "reason", "sentence", "principal", "namespace", "mcp_server", "mcp_server_uid", "method", "tool", "mcp_resource_uri", "prompt", "era", "protocol_version", "request_id_json", "arguments_digest", "determining_policies", "policy_errors", "revision", "latency_us", "http_status", "lane", "cluster", "downstream_address", "http_method", "path", "body_bytes", "user_agent", "trace_id", "envoy_request_id", "parent_decision_id", "tool_digest", "effect", "policy_engine", "previous_hash", "abandoned", "suppressed", "session_digest", "revocation", "workload", "virtual_server", "exposed_name", "sealed", "arguments_json", "arguments_kept", "result_json", "result_digest", "replay", "outcome", "change", "span_id", "labels", "alarm", "shadow", "result_kept", "result")
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
    ABANDONED_FIELD_NUMBER: _ClassVar[int]
    SUPPRESSED_FIELD_NUMBER: _ClassVar[int]
    SESSION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_SERVER_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_NAME_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_KEPT_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    RESULT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ALARM_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    RESULT_KEPT_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
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
    abandoned: bool
    suppressed: int
    session_digest: str
    revocation: str
    workload: AuditPrincipal
    virtual_server: str
    exposed_name: str
    sealed: AuditSealed
    arguments_json: str
    arguments_kept: str
    result_json: str
    result_digest: str
    replay: AuditReplay
    outcome: AuditOutcome
    change: AuditChange
    span_id: str
    labels: _containers.RepeatedCompositeFieldContainer[AuditLabel]
    alarm: AuditAlarm
    shadow: AuditShadow
    result_kept: str
    result: AuditResult
    def __init__(self, decision_id: _Optional[str] = ..., at_unix_us: _Optional[int] = ..., writer_id: _Optional[str] = ..., sequence: _Optional[int] = ..., event: _Optional[_Union[AuditEvent, str]] = ..., decision: _Optional[_Union[AuditDecision, str]] = ..., reason: _Optional[str] = ..., sentence: _Optional[str] = ..., principal: _Optional[_Union[AuditPrincipal, _Mapping]] = ..., namespace: _Optional[str] = ..., mcp_server: _Optional[str] = ..., mcp_server_uid: _Optional[str] = ..., method: _Optional[str] = ..., tool: _Optional[str] = ..., mcp_resource_uri: _Optional[str] = ..., prompt: _Optional[str] = ..., era: _Optional[str] = ..., protocol_version: _Optional[str] = ..., request_id_json: _Optional[str] = ..., arguments_digest: _Optional[str] = ..., determining_policies: _Optional[_Iterable[str]] = ..., policy_errors: _Optional[_Iterable[str]] = ..., revision: _Optional[int] = ..., latency_us: _Optional[int] = ..., http_status: _Optional[int] = ..., lane: _Optional[str] = ..., cluster: _Optional[str] = ..., downstream_address: _Optional[str] = ..., http_method: _Optional[str] = ..., path: _Optional[str] = ..., body_bytes: _Optional[int] = ..., user_agent: _Optional[str] = ..., trace_id: _Optional[str] = ..., envoy_request_id: _Optional[str] = ..., parent_decision_id: _Optional[str] = ..., tool_digest: _Optional[str] = ..., effect: _Optional[str] = ..., policy_engine: _Optional[str] = ..., previous_hash: _Optional[bytes] = ..., abandoned: _Optional[bool] = ..., suppressed: _Optional[int] = ..., session_digest: _Optional[str] = ..., revocation: _Optional[str] = ..., workload: _Optional[_Union[AuditPrincipal, _Mapping]] = ..., virtual_server: _Optional[str] = ..., exposed_name: _Optional[str] = ..., sealed: _Optional[_Union[AuditSealed, _Mapping]] = ..., arguments_json: _Optional[str] = ..., arguments_kept: _Optional[str] = ..., result_json: _Optional[str] = ..., result_digest: _Optional[str] = ..., replay: _Optional[_Union[AuditReplay, _Mapping]] = ..., outcome: _Optional[_Union[AuditOutcome, _Mapping]] = ..., change: _Optional[_Union[AuditChange, _Mapping]] = ..., span_id: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[AuditLabel, _Mapping]]] = ..., alarm: _Optional[_Union[AuditAlarm, _Mapping]] = ..., shadow: _Optional[_Union[AuditShadow, _Mapping]] = ..., result_kept: _Optional[str] = ..., result: _Optional[_Union[AuditResult, _Mapping]] = ...) -> None: ...

class AuditResult(_message.Message):
    __slots__ = ("rpc_error_code", "tool_error")
    RPC_ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    TOOL_ERROR_FIELD_NUMBER: _ClassVar[int]
    rpc_error_code: str
    tool_error: bool
    def __init__(self, rpc_error_code: _Optional[str] = ..., tool_error: _Optional[bool] = ...) -> None: ...

class AuditShadow(_message.Message):
    __slots__ = ("allowed", "reason", "determining_policies")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETERMINING_POLICIES_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    reason: str
    determining_policies: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, allowed: _Optional[bool] = ..., reason: _Optional[str] = ..., determining_policies: _Optional[_Iterable[str]] = ...) -> None: ...

class AuditSealed(_message.Message):
    __slots__ = ("key_id", "nonce", "ciphertext")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXT_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    nonce: bytes
    ciphertext: bytes
    def __init__(self, key_id: _Optional[str] = ..., nonce: _Optional[bytes] = ..., ciphertext: _Optional[bytes] = ...) -> None: ...

class AuditSubjectKey(_message.Message):
    __slots__ = ("key_id", "sealing_key_id", "ephemeral_public_key", "nonce", "wrapped", "created_at_unix_us")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SEALING_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    EPHEMERAL_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    WRAPPED_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    sealing_key_id: str
    ephemeral_public_key: bytes
    nonce: bytes
    wrapped: bytes
    created_at_unix_us: int
    def __init__(self, key_id: _Optional[str] = ..., sealing_key_id: _Optional[str] = ..., ephemeral_public_key: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., wrapped: _Optional[bytes] = ..., created_at_unix_us: _Optional[int] = ...) -> None: ...

class AuditSubject(_message.Message):
    __slots__ = ("key", "principal_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_ID_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    principal_id: str
    def __init__(self, key: _Optional[bytes] = ..., principal_id: _Optional[str] = ...) -> None: ...

class AuditReplay(_message.Message):
    __slots__ = ("attributes", "scopes", "issuer", "mtls", "caller_address", "caller_era", "arguments_json", "by_certificate", "issued_at_unix", "withheld", "trusted_namespaces")
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    MTLS_FIELD_NUMBER: _ClassVar[int]
    CALLER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CALLER_ERA_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    BY_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_UNIX_FIELD_NUMBER: _ClassVar[int]
    WITHHELD_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    attributes: _containers.RepeatedScalarFieldContainer[str]
    scopes: _containers.RepeatedScalarFieldContainer[str]
    issuer: str
    mtls: bool
    caller_address: str
    caller_era: str
    arguments_json: str
    by_certificate: bool
    issued_at_unix: float
    withheld: _containers.RepeatedScalarFieldContainer[str]
    trusted_namespaces: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, attributes: _Optional[_Iterable[str]] = ..., scopes: _Optional[_Iterable[str]] = ..., issuer: _Optional[str] = ..., mtls: _Optional[bool] = ..., caller_address: _Optional[str] = ..., caller_era: _Optional[str] = ..., arguments_json: _Optional[str] = ..., by_certificate: _Optional[bool] = ..., issued_at_unix: _Optional[float] = ..., withheld: _Optional[_Iterable[str]] = ..., trusted_namespaces: _Optional[_Iterable[str]] = ...) -> None: ...

class AuditOutcome(_message.Message):
    __slots__ = ("http_status", "upstream_address", "request_bytes", "response_bytes", "duration_us", "first_byte_us", "response_flags", "response_code_details", "rpc_error_code", "tool_error", "upstream_failure", "source", "upstream_attempts", "cluster")
    HTTP_STATUS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DURATION_US_FIELD_NUMBER: _ClassVar[int]
    FIRST_BYTE_US_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FLAGS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_CODE_DETAILS_FIELD_NUMBER: _ClassVar[int]
    RPC_ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    TOOL_ERROR_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_FAILURE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    http_status: int
    upstream_address: str
    request_bytes: int
    response_bytes: int
    duration_us: int
    first_byte_us: int
    response_flags: str
    response_code_details: str
    rpc_error_code: str
    tool_error: bool
    upstream_failure: str
    source: str
    upstream_attempts: int
    cluster: str
    def __init__(self, http_status: _Optional[int] = ..., upstream_address: _Optional[str] = ..., request_bytes: _Optional[int] = ..., response_bytes: _Optional[int] = ..., duration_us: _Optional[int] = ..., first_byte_us: _Optional[int] = ..., response_flags: _Optional[str] = ..., response_code_details: _Optional[str] = ..., rpc_error_code: _Optional[str] = ..., tool_error: _Optional[bool] = ..., upstream_failure: _Optional[str] = ..., source: _Optional[str] = ..., upstream_attempts: _Optional[int] = ..., cluster: _Optional[str] = ...) -> None: ...

class AuditChange(_message.Message):
    __slots__ = ("actor", "message", "op", "kind", "namespace", "name", "uid", "before_json", "after_json")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    BEFORE_JSON_FIELD_NUMBER: _ClassVar[int]
    AFTER_JSON_FIELD_NUMBER: _ClassVar[int]
    actor: str
    message: str
    op: str
    kind: str
    namespace: str
    name: str
    uid: str
    before_json: str
    after_json: str
    def __init__(self, actor: _Optional[str] = ..., message: _Optional[str] = ..., op: _Optional[str] = ..., kind: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ..., before_json: _Optional[str] = ..., after_json: _Optional[str] = ...) -> None: ...

class AuditAlarm(_message.Message):
    __slots__ = ("lost", "first_lost_at_unix_us", "last_lost_at_unix_us", "ended_writer_id", "ended_sequence", "ended_hash", "used_bytes", "max_bytes")
    LOST_FIELD_NUMBER: _ClassVar[int]
    FIRST_LOST_AT_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    LAST_LOST_AT_UNIX_US_FIELD_NUMBER: _ClassVar[int]
    ENDED_WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    ENDED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ENDED_HASH_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    lost: int
    first_lost_at_unix_us: int
    last_lost_at_unix_us: int
    ended_writer_id: str
    ended_sequence: int
    ended_hash: bytes
    used_bytes: int
    max_bytes: int
    def __init__(self, lost: _Optional[int] = ..., first_lost_at_unix_us: _Optional[int] = ..., last_lost_at_unix_us: _Optional[int] = ..., ended_writer_id: _Optional[str] = ..., ended_sequence: _Optional[int] = ..., ended_hash: _Optional[bytes] = ..., used_bytes: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class AuditLabel(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class ShipRequest(_message.Message):
    __slots__ = ("hello", "batch", "barrier")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    BARRIER_FIELD_NUMBER: _ClassVar[int]
    hello: ShipHello
    batch: ShipBatch
    barrier: int
    def __init__(self, hello: _Optional[_Union[ShipHello, _Mapping]] = ..., batch: _Optional[_Union[ShipBatch, _Mapping]] = ..., barrier: _Optional[int] = ...) -> None: ...

class ShipHello(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    def __init__(self, node_id: _Optional[str] = ...) -> None: ...

class ShipBatch(_message.Message):
    __slots__ = ("writer_id", "first_sequence", "records", "subject_keys", "closed")
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_KEYS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    writer_id: str
    first_sequence: int
    records: _containers.RepeatedScalarFieldContainer[bytes]
    subject_keys: _containers.RepeatedScalarFieldContainer[bytes]
    closed: bool
    def __init__(self, writer_id: _Optional[str] = ..., first_sequence: _Optional[int] = ..., records: _Optional[_Iterable[bytes]] = ..., subject_keys: _Optional[_Iterable[bytes]] = ..., closed: _Optional[bool] = ...) -> None: ...

class ShipResponse(_message.Message):
    __slots__ = ("ack", "barrier")
    ACK_FIELD_NUMBER: _ClassVar[int]
    BARRIER_FIELD_NUMBER: _ClassVar[int]
    ack: ShipAck
    barrier: int
    def __init__(self, ack: _Optional[_Union[ShipAck, _Mapping]] = ..., barrier: _Optional[int] = ...) -> None: ...

class ShipAck(_message.Message):
    __slots__ = ("writer_id", "sequence", "refused")
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    writer_id: str
    sequence: int
    refused: str
    def __init__(self, writer_id: _Optional[str] = ..., sequence: _Optional[int] = ..., refused: _Optional[str] = ...) -> None: ...

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

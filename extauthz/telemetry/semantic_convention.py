"""Names of OpenTelemetry's semantic conventions that we use, and our own beside them. The one place where they are written.

The conventions of MCP are in development: names are pinned to `PINNED`, a test compares them with that release, and a change of
them is a change of ours. What they do not speak of (decisions, routes, revisions) stands under `legation.`.
"""

from __future__ import annotations

PINNED = "0.66b2"
"""Release of `opentelemetry-semantic-conventions` (semantic conventions 1.44) that names are compared with."""

# MCP, JSON-RPC, and the tool that is called
MCP_METHOD_NAME = "mcp.method.name"
MCP_PROTOCOL_VERSION = "mcp.protocol.version"
JSONRPC_REQUEST_ID = "jsonrpc.request.id"
RPC_RESPONSE_STATUS_CODE = "rpc.response.status_code"
ERROR_TYPE = "error.type"
GEN_AI_OPERATION_NAME = "gen_ai.operation.name"
GEN_AI_TOOL_NAME = "gen_ai.tool.name"
GEN_AI_PROMPT_NAME = "gen_ai.prompt.name"
EXECUTE_TOOL = "execute_tool"
TOOL_ERROR = "tool_error"
"""`error.type` of a tool's result that says `isError`."""

# HTTP, of the control plane's API
HTTP_REQUEST_METHOD = "http.request.method"
HTTP_RESPONSE_STATUS_CODE = "http.response.status_code"
HTTP_ROUTE = "http.route"

# Who tells
SERVICE_NAME = "service.name"
SERVICE_NAMESPACE = "service.namespace"
SERVICE_INSTANCE_ID = "service.instance.id"
SERVICE_VERSION = "service.version"
TELEMETRY_SDK_LANGUAGE = "telemetry.sdk.language"
TELEMETRY_SDK_NAME = "telemetry.sdk.name"

# Durations, in seconds
MCP_SERVER_OPERATION_DURATION = "mcp.server.operation.duration"
MCP_CLIENT_OPERATION_DURATION = "mcp.client.operation.duration"
HTTP_SERVER_REQUEST_DURATION = "http.server.request.duration"
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""As advised for MCP (0.01 to 300), and finer at the lower end, where decisions are."""

# Ours
LEGATION_DECISION = "legation.decision"
LEGATION_DECISION_ID = "legation.decision.id"
LEGATION_DECISION_PARENT_ID = "legation.decision.parent_id"
LEGATION_DENIAL_REASON = "legation.denial.reason"
LEGATION_EFFECT = "legation.effect"
LEGATION_ERA = "legation.era"
LEGATION_LANE = "legation.lane"
LEGATION_LISTENER = "legation.listener"
LEGATION_NAMESPACE = "legation.namespace"
LEGATION_PRINCIPAL_KIND = "legation.principal.kind"
LEGATION_REVISION = "legation.revision"
LEGATION_SERVER = "legation.server"
LEGATION_TOOL = "legation.tool"
LEGATION_VIRTUAL_SERVER = "legation.virtual_server"

SERVICE = "legation"
"""`service.namespace` of all our processes; their names are `legation-authorizer` and so on."""

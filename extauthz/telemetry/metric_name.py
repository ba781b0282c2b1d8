"""Every metric of every process, defined once. docs/metrics.md lists them; a test compares the two.

`NAMESPACE`, `SERVER` and `TOOL` are names of the registry: a call of something that is not there is counted under none of them. Only what
has those has many series, and `metric.MAX_SERIES` bounds it. Callers are in no label.
"""

from __future__ import annotations

from extauthz.telemetry import semantic_convention as names
from extauthz.telemetry.metric import Metric, MetricKind

_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM
_PLACE = (names.LEGATION_NAMESPACE, names.LEGATION_SERVER)


def _metric(name: str, kind: MetricKind, unit: str, help_text: str, *labels: str) -> Metric:
    return Metric(name=name, kind=kind, unit=unit, help_text=help_text, labels=labels)


# authorizer
DECISIONS = _metric(
    "legation.decisions", _COUNTER, "{decision}", "decisions, one for each request that Envoy asks about", names.LEGATION_DECISION,
    names.MCP_METHOD_NAME, *_PLACE,
)  # fmt: skip
TOOL_CALLS = _metric(
    "legation.tool.calls", _COUNTER, "{call}", "decided calls of tools that are in the catalog", names.LEGATION_DECISION, *_PLACE,
    names.LEGATION_TOOL,
)  # fmt: skip
DENIALS = _metric("legation.denials", _COUNTER, "{decision}", "refusals and failures, by reason code", names.LEGATION_DENIAL_REASON)
DECISION_DURATION = _metric(
    "legation.decision.duration", _HISTOGRAM, "s", "time from Envoy's question to the durable record", names.LEGATION_DECISION
)
SESSIONS_OPENED = _metric("legation.sessions.opened", _COUNTER, "{session}", "legacy sessions that were let begin", *_PLACE)
SESSIONS_ENDED = _metric("legation.sessions.ended", _COUNTER, "{session}", "legacy sessions that their clients ended", *_PLACE)
AUDIT_RECORDS = _metric("legation.audit.records", _COUNTER, "{record}", "records that this process has appended to its audit log")
AUDIT_WAITING = _metric("legation.audit.waiting", _GAUGE, "{record}", "records that wait to be durable")
AUDIT_FAILURES = _metric("legation.audit.failures", _COUNTER, "{failure}", "records that were refused or could not be written")
AUDIT_UNRECORDED = _metric("legation.audit.unrecorded", _COUNTER, "{call}", "calls that have no record of their own", "mode")
AUDIT_SYNC_DURATION = _metric("legation.audit.sync.duration", _GAUGE, "s", "how long the latest write of a group to disk took")
AUDIT_USED = _metric("legation.audit.used", _GAUGE, "By", "disk that the audit log of this process takes")
AUDIT_CAPACITY = _metric("legation.audit.capacity", _GAUGE, "By", "disk that the audit log of this process may take")
AUDIT_UNSHIPPED = _metric(
    "legation.audit.unshipped", _GAUGE, "{record}", "records of this process that the control plane is not known to hold"
)
AUDIT_SHIPPING = _metric("legation.audit.shipping", _GAUGE, "", "1 while the control plane takes records from this process")
# authorizer and aggregator
NODE_CONNECTED = _metric("legation.node.connected", _GAUGE, "", "1 while the discovery stream from the control plane is open")
NODE_REVISION = _metric("legation.node.revision", _GAUGE, "", "revision of the registry that this process works by")
# aggregator
SERVER_DURATION = _metric(
    names.MCP_SERVER_OPERATION_DURATION, _HISTOGRAM, "s", "requests that the aggregator answered", names.MCP_METHOD_NAME, names.ERROR_TYPE
)
CLIENT_DURATION = _metric(
    names.MCP_CLIENT_OPERATION_DURATION, _HISTOGRAM, "s", "calls of members by the aggregator", names.MCP_METHOD_NAME, *_PLACE,
    names.ERROR_TYPE,
)  # fmt: skip
UPSTREAM_FAILURES = _metric(
    "legation.upstream.failures", _COUNTER, "{call}", "calls of members that brought no result, by kind of error", *_PLACE, names.ERROR_TYPE
)
# control plane
REGISTRY_REVISION = _metric("legation.registry.revision", _GAUGE, "", "newest revision of the registry")
XDS_NODES = _metric("legation.xds.nodes", _GAUGE, "{node}", "nodes that spoke to this control plane within an hour", "kind", "state")
XDS_REVISION_LAG = _metric(
    "legation.xds.revision.lag", _GAUGE, "", "revisions by which the connected node that is furthest behind is", "kind"
)
XDS_REFUSED = _metric("legation.xds.refused", _GAUGE, "{resource}", "resources that connected nodes refuse (NACK) at the moment", "type")
PROBES = _metric("legation.probes", _COUNTER, "{reading}", "readings of MCP servers' definitions", "outcome")
AUDIT_SINK_DELIVERED = _metric("legation.audit.sink.delivered", _COUNTER, "{record}", "records that receivers of sinks have taken", "sink")
AUDIT_SINK_RETRIED = _metric("legation.audit.sink.retried", _COUNTER, "{record}", "records that were sent to a sink again", "sink")
AUDIT_SINK_DEAD = _metric("legation.audit.sink.dead", _COUNTER, "{record}", "records that receivers of sinks refused for good", "sink")
AUDIT_SINK_LAG = _metric("legation.audit.sink.lag", _GAUGE, "{record}", "records between what a sink has and the newest", "sink")
AUDIT_SINK_LAG_AGE = _metric("legation.audit.sink.lag.age", _GAUGE, "s", "age of the oldest record that waits for a sink", "sink")
AUDIT_SINK_FAULTY = _metric("legation.audit.sink.faulty", _GAUGE, "", "1 while a sink's receiver does not take records", "sink")
API_DURATION = _metric(
    names.HTTP_SERVER_REQUEST_DURATION, _HISTOGRAM, "s", "requests to the control plane", names.HTTP_REQUEST_METHOD, names.HTTP_ROUTE,
    names.HTTP_RESPONSE_STATUS_CODE,
)  # fmt: skip
# every process
TELEMETRY_DROPPED = _metric(
    "legation.telemetry.dropped", _COUNTER, "{item}", "spans and log lines that never reached their receiver", "signal"
)
CPU_TIME = _metric("process.cpu.time", _COUNTER, "s", "processor time of this process")
MEMORY_USAGE = _metric("process.memory.usage", _GAUGE, "By", "resident memory of this process")

ALL = tuple(value for value in vars().copy().values() if isinstance(value, Metric))

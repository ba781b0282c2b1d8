"""A record in the Open Cybersecurity Schema Framework, version 1.4.0 (`SCHEMA_VERSION`).

| record | class |
| calls, messages, streams, and how they ended | API Activity (6003), with the profile security_control |
| refused before a caller was known | Authentication (3002), where identification failed; else API Activity |
| changes by operators | Entity Management (3004) |
| alarms of the record | Base Event (0) |

What OCSF has no place for stands in `unmapped`, as our own fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.audit.sinks.form import fields
from controlplane.audit.sinks.form.fields import text_of, texts_of
from controlplane.audit.sinks.sent_record import SentRecord

SCHEMA_VERSION = "1.4.0"

_AUTHENTICATION_REASONS = frozenset(
    {
        *("access_token_missing", "access_token_invalid", "access_token_expired", "audience_mismatch", "issuer_unknown"),
        *(
            "token_binding_failed",
            "dpop_proof_invalid",
            "use_dpop_nonce",
            "svid_invalid",
            "svid_expired",
            "trust_domain_unknown",
            "revoked",
        ),
    }
)
_ACTIVITY_OF_EFFECT = {"read": 2, "write": 3}
_ACTIVITY_OF_CHANGE = {"create": 1, "update": 3, "delete": 4}
_ACTIVITY_NAMES = {1: "Create", 2: "Read", 3: "Update", 4: "Delete"}
_SEVERITIES = {0: "Unknown", 1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical"}
_MAPPED = frozenset(
    {
        *("id", "at", "at_unix_us", "event", "decision", "reason", "sentence", "principal", "method", "tool", "http_method", "path"),
        *("user_agent", "downstream_address", "determining_policies", "request_id_json", "sequence", "decision_id", "arguments_json"),
    }
)

Json = dict[str, Any]


def ocsf_event(record: SentRecord) -> Json:
    """The record as one OCSF event."""
    if record.event == "change":
        event = _entity_management(record)
    elif record.event == "alarm":
        event = _class(category=0, class_uid=0, name="Base Event", activity=99, activity_name="Alarm")
    elif text_of(record, "reason") in _AUTHENTICATION_REASONS:
        event = _authentication(record)
    else:
        event = _api_activity(record)
    return {**event, **_common(record)}


def _common(record: SentRecord) -> Json:
    severity = _severity(record)
    failed = record.decision in {"deny", "error"} or record.event in {"alarm", "api_refused", "outcome_missing"}
    failed = failed or int(text_of(record, "outcome", "http_status") or 0) >= 400
    return _known(
        {
            "time": record.at_unix_us // 1000,
            "severity_id": severity,
            "severity": _SEVERITIES[severity],
            "status_id": 2 if failed else 1,
            "status": "Failure" if failed else "Success",
            "status_code": text_of(record, "reason"),
            "status_detail": text_of(record, "sentence"),
            "message": fields.sentence_of(record),
            "duration": int(text_of(record, "outcome", "duration_us") or 0) // 1000,
            "metadata": _known(
                {
                    "version": SCHEMA_VERSION,
                    "product": {"name": fields.PRODUCT, "vendor_name": fields.VENDOR, "version": fields.product_version()},
                    "uid": record.id,
                    "correlation_uid": text_of(record, "decision_id"),
                    "event_code": fields.event_id(record),
                    "log_name": "audit",
                    "log_provider": record.node,
                    "sequence": record.position,
                    "original_time": text_of(record, "at"),
                    "profiles": ["security_control"],
                }
            ),
            "unmapped": {name: value for name, value in record.document.items() if name not in _MAPPED},
        }
    )


def _api_activity(record: SentRecord) -> Json:
    activity = _ACTIVITY_OF_EFFECT.get(text_of(record, "effect"), 99)
    method = text_of(record, "method") or text_of(record, "http_method") or record.event
    name = _ACTIVITY_NAMES.get(activity, method)
    tool = text_of(record, "tool")
    response = _known({"code": int(text_of(record, "outcome", "http_status") or text_of(record, "http_status") or 0)})
    request = {"uid": text_of(record, "request_id_json") or record.id, "data": _argument_data(record)}
    return {
        **_class(category=6, class_uid=6003, name="API Activity", activity=activity, activity_name=name),
        **_security_control(record),
        "actor": _actor(record),
        "api": _known(
            {
                "operation": f"{method} {tool}".strip(),
                "service": {"name": fields.server_of(record) or "legation"},
                "request": _known(request),
                "response": response,
                "version": text_of(record, "protocol_version"),
            }
        ),
        "src_endpoint": _source(record),
        **_known({"http_request": _http_request(record), "resources": _resources(record)}),
    }


def _authentication(record: SentRecord) -> Json:
    return {
        **_class(category=3, class_uid=3002, name="Authentication", activity=1, activity_name="Logon"),
        **_security_control(record),
        "user": _user(record) or {"name": "unknown", "type_id": 0, "type": "Unknown"},
        "service": {"name": fields.server_of(record) or "legation"},
        "src_endpoint": _source(record),
        "is_remote": True,
        **_known({"http_request": _http_request(record)}),
    }


def _entity_management(record: SentRecord) -> Json:
    operation, kind = text_of(record, "change", "op"), text_of(record, "change", "kind")
    activity = _ACTIVITY_OF_CHANGE.get(operation, 99)
    activity_name = _ACTIVITY_NAMES.get(activity, operation)
    name = "/".join(part for part in (text_of(record, "change", "namespace"), text_of(record, "change", "name")) if part)
    actor = text_of(record, "change", "actor") or "unknown"
    return {
        **_class(category=3, class_uid=3004, name="Entity Management", activity=activity, activity_name=activity_name),
        "actor": {"user": {"uid": actor, "name": actor}},
        "entity": _known({"name": name or kind, "uid": text_of(record, "change", "uid"), "type": kind}),
        **_known({"comment": text_of(record, "change", "message")}),
    }


def _class(*, category: int, class_uid: int, name: str, activity: int, activity_name: str) -> Json:
    categories = {0: "Uncategorized", 3: "Identity & Access Management", 6: "Application Activity"}
    return {
        "category_uid": category,
        "category_name": categories[category],
        "class_uid": class_uid,
        "class_name": name,
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": class_uid * 100 + activity,
    }


def _security_control(record: SentRecord) -> Json:
    action = {"allow": (1, "Allowed"), "deny": (2, "Denied"), "error": (2, "Denied")}.get(record.decision)
    if action is None:
        return {}
    disposition = (1, "Allowed") if action[0] == 1 else (2, "Blocked")
    policies = texts_of(record, "determining_policies")
    authorizations = [{"decision": record.decision, "policy": {"uid": policy, "name": policy}} for policy in policies]
    return _known(
        {
            "action_id": action[0],
            "action": action[1],
            "disposition_id": disposition[0],
            "disposition": disposition[1],
            "authorizations": authorizations,
        }
    )


def _actor(record: SentRecord) -> Json:
    actor: Json = _known({"app_uid": text_of(record, "principal", "oauth_client_id"), "user": _user(record)})
    return actor or {"app_name": "unknown"}


def _user(record: SentRecord) -> Json:
    """Types of users: 1 a person, 3 a system; others are named."""
    uid, kind = text_of(record, "principal", "id"), text_of(record, "principal", "kind")
    if not uid:
        return {}
    type_id = {"User": 1, "System": 3}.get(kind, 99)
    groups = [{"name": name} for name in texts_of(record, "principal", "groups")]
    return _known({"uid": uid, "name": text_of(record, "principal", "subject") or uid, "type_id": type_id, "type": kind, "groups": groups})


def _source(record: SentRecord) -> Json:
    address, port = fields.address_of(record)
    return _known({"ip": address, "port": port}) if address else {"name": text_of(record, "principal", "id") or "unknown"}


def _http_request(record: SentRecord) -> Json:
    path = text_of(record, "path")
    return _known(
        {
            "http_method": text_of(record, "http_method"),
            "url": {"path": path} if path else {},
            "user_agent": text_of(record, "user_agent"),
            "uid": text_of(record, "envoy_request_id"),
        }
    )


def _resources(record: SentRecord) -> list[Json]:
    target = fields.target_of(record)
    if not target or not text_of(record, "mcp_server"):
        return []
    kinds = (("tool", "tool"), ("prompt", "prompt"), ("mcp_resource_uri", "mcp_resource"))
    kind = next((kind for name, kind in kinds if text_of(record, name)), "method")
    return [{"name": target, "type": kind, "uid": f"{fields.server_of(record)}/{target}", "namespace": text_of(record, "namespace")}]


def _argument_data(record: SentRecord) -> Json:
    arguments = text_of(record, "arguments_json")
    return {"arguments_json": arguments} if arguments else {}


def _severity(record: SentRecord) -> int:
    score = fields.severity_of(record)
    return next(level for low, level in ((9, 5), (8, 4), (6, 3), (4, 2), (0, 1)) if score >= low)


def _known(values: Mapping[str, Any]) -> Json:
    return {name: value for name, value in values.items() if value not in ("", 0, [], {}, None)}

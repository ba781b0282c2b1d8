"""What the flat forms (CEF, LEEF, a sentence) say of a record: its facts by plain names, texts already harmless."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import Any

from controlplane.audit.sinks.form.plain_text import visible
from controlplane.audit.sinks.sent_record import SentRecord

VENDOR = PRODUCT = "Legation"

_SEVERITY_OF_DECISION = {"allow": 3, "deny": 6, "error": 8}
_SEVERITY_OF_EVENT = {"alarm": 9, "outcome_missing": 5, "api_refused": 6, "change": 4}


def product_version() -> str:
    """The release of Legation that sends."""
    try:
        return version("legation")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0"


def severity_of(record: SentRecord) -> int:
    """From 0 (nothing) to 10 (the worst)."""
    return _SEVERITY_OF_EVENT.get(record.event) or _SEVERITY_OF_DECISION.get(record.decision, 3)


def event_id(record: SentRecord) -> str:
    """What kind of thing happened: `tool_call.deny.no_matching_permit`."""
    parts = (record.event, "" if record.decision == "unspecified" else record.decision, text_of(record, "reason"))
    return visible(".".join(part for part in parts if part and part != "allowed"))


def event_title(record: SentRecord) -> str:
    """The same for people: `Tool call denied`."""
    what = record.event.replace("_", " ").capitalize()
    done = {"allow": "allowed", "deny": "denied", "error": "failed"}.get(record.decision, "")
    return f"{what} {done}".strip()


def sentence_of(record: SentRecord) -> str:
    """What happened, in a line for people."""
    who, what, where = text_of(record, "principal", "id") or "nobody", target_of(record), server_of(record)
    if record.event == "change":
        who = text_of(record, "change", "actor") or who
        name = "/".join(part for part in (text_of(record, "change", "namespace"), text_of(record, "change", "name")) if part)
        what = f"{text_of(record, 'change', 'op')} {text_of(record, 'change', 'kind')} {name}"
    parts = [
        event_title(record) + ":",
        who,
        what,
        f"at {where}" if where else "",
        f"({reason})" if (reason := text_of(record, "reason")) else "",
    ]
    return visible(" ".join(part for part in parts if part.strip()))


def text_of(record: SentRecord, *path: str) -> str:
    """The text at a path of the record; empty where there is none."""
    value: Any = record.document
    for name in path:
        if not isinstance(value, dict) and not hasattr(value, "get"):
            return ""
        value = value.get(name)
    if value is None or isinstance(value, dict | list):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def texts_of(record: SentRecord, *path: str) -> list[str]:
    """The texts of a list at a path of the record."""
    value: Any = record.document
    for name in path:
        value = value.get(name) if hasattr(value, "get") else None
    return [str(item) for item in value] if isinstance(value, list) else []


def target_of(record: SentRecord) -> str:
    """What was asked for: a tool, else a prompt, a resource, a method, a path."""
    names = ("tool", "prompt", "mcp_resource_uri", "method", "path")
    return next((text for name in names if (text := text_of(record, name))), "")


def server_of(record: SentRecord) -> str:
    """`namespace/name` of the MCP server, or of the virtual server."""
    namespace, server, virtual = text_of(record, "namespace"), text_of(record, "mcp_server"), text_of(record, "virtual_server")
    if server:
        return f"{namespace}/{server}" if namespace else server
    return f"virtual/{virtual}" if virtual else namespace


def address_of(record: SentRecord) -> tuple[str, int]:
    """Address and port of the caller; ("", 0) where they are not known or are none."""
    text = text_of(record, "downstream_address")
    host, _, port = text.rpartition(":") if text.count(":") == 1 or text.startswith("[") else (text, "", "")
    try:
        return str(ip_address(host.strip("[]"))), int(port) if port.isascii() and port.isdigit() and int(port) < 65536 else 0
    except ValueError:
        return "", 0

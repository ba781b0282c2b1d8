"""The headers of MCP over HTTP: at most one of each, known versions only, equal to the body where the era demands it.

Headers are a copy for intermediaries; the body decides. A header that lies is refused in the modern era (-32020) and removed
in the legacy one, where servers do not read it (MCP 2026-07-28, basic/transports, "Standard request headers").
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence

from extauthz.errors import MessageError, Reason
from extauthz.mcp.document import INVALID_REQUEST
from extauthz.mcp.era import METHODS, MODERN_VERSIONS, SUPPORTED_VERSIONS, Era
from extauthz.mcp.jsonrpc import INVALID_PARAMS, Message, MessageClass

HEADER_MISMATCH = -32020
UNSUPPORTED_PROTOCOL_VERSION = -32022

HeaderMap = Mapping[str, Sequence[str]]

META_VERSION = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
_SINGLE_HEADERS = frozenset(
    ("mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "content-type", "content-encoding", "last-event-id")
)
_NAME_MEMBER = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_NAME_MEMBER |= dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), "taskId")
_PRINTABLE = re.compile(r"[\x20-\x7e]*", re.ASCII)


def refuse_repeated(headers: HeaderMap) -> None:
    """Refuse a header that must stand alone and does not: two receivers would choose differently."""
    for name, values in headers.items():
        if len(values) > 1 and (name in _SINGLE_HEADERS or name.startswith("mcp-param-")):
            told = f"the header {name}" if name in _SINGLE_HEADERS else "a header Mcp-Param-*"
            raise MessageError(Reason.HEADER_REPEATED, f"{told} is sent more than once", status=400, code=INVALID_REQUEST)


def protocol_version(headers: HeaderMap, id_json: str = "null") -> str:
    """The version that the header names, or "" when absent (legacy rules apply); an unknown one is refused (-32022).

    The refusal offers the modern versions only: a client that knows this error knows that legacy ones begin with `initialize`.
    """
    values = headers.get("mcp-protocol-version", ())
    if not values:
        return ""
    version = values[0]
    if version not in SUPPORTED_VERSIONS:
        raise MessageError(
            Reason.PROTOCOL_VERSION_UNSUPPORTED,
            "this MCP protocol version is not supported",
            status=400,
            code=UNSUPPORTED_PROTOCOL_VERSION,
            request_id_json=id_json,
            data={"supported": list(MODERN_VERSIONS), "requested": version[:64]},
        )
    return version


def era_of(version: str) -> Era:
    """The era of a version that `protocol_version` returned."""
    return Era.MODERN if version in MODERN_VERSIONS else Era.LEGACY


def check_equality(message: Message, headers: HeaderMap, version: str) -> None:
    """Refuse headers that say something else than the body (modern), or a modern body under legacy headers."""
    meta = message.params.get("_meta")
    body_version = meta.get(META_VERSION) if isinstance(meta, dict) else None
    if era_of(version) is Era.LEGACY:
        if body_version is not None and body_version != version:
            raise header_mismatch("the body names a protocol version that the header MCP-Protocol-Version does not", message.id_json)
        return
    if message.message_class is MessageClass.REQUEST:
        _require_meta(message, meta)
    if body_version is not None and body_version != version:
        raise header_mismatch("the header MCP-Protocol-Version differs from the body", message.id_json)
    _check_method_header(message, headers)
    _check_name_header(message, headers)


def _require_meta(message: Message, meta: object) -> None:
    if not isinstance(meta, dict) or not isinstance(meta.get(META_VERSION), str) or not isinstance(meta.get(META_CAPABILITIES), dict):
        raise MessageError(
            Reason.INVALID_PARAMS,
            f"params._meta must hold {META_VERSION} and {META_CAPABILITIES}",
            status=400,
            code=INVALID_PARAMS,
            request_id_json=message.id_json,
        )


def _check_method_header(message: Message, headers: HeaderMap) -> None:
    values = headers.get("mcp-method", ())
    if not values:
        if message.message_class is MessageClass.REQUEST:
            raise header_mismatch("the header Mcp-Method is missing", message.id_json)
        return
    if values[0].strip(" \t") != message.method:
        raise header_mismatch("the header Mcp-Method differs from the body", message.id_json)


def _check_name_header(message: Message, headers: HeaderMap) -> None:
    values = headers.get("mcp-name", ())
    member = _NAME_MEMBER.get(message.method)
    if member is None:
        rule = METHODS.get(message.method)
        if values and rule is not None and Era.MODERN in rule.eras:
            raise header_mismatch("the header Mcp-Name stands beside a method that names nothing", message.id_json)
        return
    if not values:
        raise header_mismatch("the header Mcp-Name is missing", message.id_json)
    if decoded_header(values[0], message.id_json) != message.params.get(member):
        raise header_mismatch("the header Mcp-Name differs from the body", message.id_json)


def decoded_header(value: str, id_json: str) -> str:
    """The text behind the `=?base64?…?=` sentinel, or the value itself (MCP 2026-07-28, header value encoding)."""
    value = value.strip(" \t")
    if not _PRINTABLE.fullmatch(value):
        raise header_mismatch("a header value has other letters than printable ASCII, and is not encoded", id_json)
    if not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        decoded = base64.b64decode(value[9:-2], validate=True)
        if base64.b64encode(decoded).decode("ascii") == value[9:-2]:  # one text, one form
            return decoded.decode("utf-8", "strict")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise header_mismatch("a header value is not valid base64 of UTF-8 text", id_json) from error
    raise header_mismatch("a header value is not base64 in its one canonical form", id_json)


def encoded_header(text: str) -> str:
    """`text` as a header value that `decoded_header` reads: as it is, or behind the sentinel where a header would not keep it."""
    if _PRINTABLE.fullmatch(text) and text == text.strip(" ") and not (text.startswith("=?base64?") and text.endswith("?=")):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8')).decode('ascii')}?="


def name_header(method: str, params: Mapping[str, object]) -> str | None:
    """What the header Mcp-Name says beside a modern request, encoded; None where it must not stand."""
    name = params.get(_NAME_MEMBER[method]) if method in _NAME_MEMBER else None
    return encoded_header(name) if isinstance(name, str) else None


def header_mismatch(sentence: str, id_json: str) -> MessageError:
    """The refusal (-32020) for a header that does not say what the body says."""
    return MessageError(Reason.HEADER_MISMATCH, sentence, status=400, code=HEADER_MISMATCH, request_id_json=id_json)

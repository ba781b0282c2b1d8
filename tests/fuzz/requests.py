"""Requests that parsers may read differently: honest ones, then bent in their keys, texts, numbers, headers and bytes.

Everything is drawn from one `random.Random`: hypothesis gives one that it can shrink, the long run a plain one, thirty times faster.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable

from extauthz.mcp.era import LEGACY_VERSIONS, METHODS, MODERN_VERSIONS, Scope
from extauthz.mcp.headers import META_CAPABILITIES, META_VERSION
from tests.fuzz.sent import Sent

UNKNOWN_METHODS = (
    "tools/Call", "tasks/get", "tasks/cancel", "tools/call ", "notifications/message", "sampling/createMessage", "", "rpc.x",
)  # fmt: skip
TEXTS = (
    "safe", "evil", "x", "", "a\x00b", "\xe9", "e\u0301", "\U0001f600", "\u2028", "\ufeff", "\U0001d530afe", "\u017fafe", "K",
    "safe ", " safe", "sa\u200bfe", "\\", '"', "/", "\n", "null", "5", "[1]",
)  # fmt: skip
URIS = (
    "test://a", "test://b", "TEST://a", "test://A", "test://a/../b", "test://a/./b", "test://a//b", "test://a/%2e%2e/b",
    "test:///a", "test:a", "file:///etc/passwd", "file://localhost/a", "https://h.example", "https://h.example/",
    "HTTPS://H.example:443/a", "https://h.example\\a", "test://a b", "test://\xe4", "test://a#f", "test://a?q", "test://a\tb",
    " test://a", "test://a ", "http://0x7f.1/", "test://[::1]/", "a", "", "test://a%41", "test://{id}",
)  # fmt: skip
NUMBERS = (
    "0", "-0", "-0.0", "1", "1.0", "1e0", "1E+2", "10e-1", "0.1", "0.30000000000000004", "9007199254740991", "9007199254740992",
    "9007199254740993", "-9007199254740993", "9007199254740993.0", "1e15", "9223372036854775807", "9223372036854775808",
    "18446744073709551617", "1e308", "1e-400", "9999999999999999999999999999999999999999", "5e-324", "0.00001",
    "99999999999.000005", "922337203685477.5807", "4.35", "1e22", "123456789012345678",
)  # fmt: skip
NO_NUMBERS = (
    "1e309", "-1e400", "99999999999999999999999999999999999999999", "01", "1.", ".5", "+1", "0x10", "1_0", "NaN", "Infinity",
    "-Infinity", "\u0661", "- 1", "1e", "True", "None", "undefined",
)  # fmt: skip
KEYS = (
    "name", "Name", "NAME", "name", "name\x00", "name ", "na\u200bme", "\uff4eame", "arguments", "Arguments", "argument\u017f",
    "uri", "URI", "method", "Method", "params", "param\u017f", "id", "ID", "jsonrpc", "result", "error", "_meta", "ref", "type",
    "cursor", "amount", "AMOUNT", "Amount", "ratio", "owner", "dry", "labels", "label\u017f", "__proto__", "constructor",
    "toString", "a", "", "0", "\u212a", "inputResponses", "requestState", "taskId", "notifications", "resourceSubscriptions",
    "task",
)  # fmt: skip
SPACES = (
    "", "", "", " ", "\n", "\t ", "\r\n", "\xa0", "\x0b", "\ufeff", "/**/", "\x00",
)  # fmt: skip


def make_sent(rng: random.Random) -> Sent:
    """One request, honest or bent."""
    modern = rng.random() < 0.5
    version = rng.choice(MODERN_VERSIONS if modern else ("", *LEGACY_VERSIONS))
    message = _message(rng, version if modern else "")
    headers = _headers(rng, version, message)
    text = _written(rng, message)
    body = _bent(rng, text.encode("utf-8", "surrogatepass"))
    method = rng.choice(["GET", "DELETE", "PUT"]) if _one_in(rng, 60) else "POST"
    return Sent(headers=tuple(headers), body=body, method=method)


def _one_in(rng: random.Random, count: int) -> bool:
    return rng.randrange(count) == 0


class Raw(str):
    """A token that is written as it stands: a number in its own spelling."""

    __slots__ = ()


Pairs = list[tuple[str, object]]
"""An object, with its keys in order and perhaps twice."""


def _value(rng: random.Random, depth: int = 2) -> object:
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return rng.choice((True, False, None))
    if kind < 3:
        return _number(rng)
    if kind < 6:
        return _some_text(rng)
    if kind == 6:
        return [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return _Object([(rng.choice(KEYS), _value(rng, depth - 1)) for _ in range(rng.randrange(4))])


def _number(rng: random.Random) -> Raw:
    kind = rng.randrange(8)
    if kind == 0:
        return Raw(str(rng.randint(-(2**70), 2**70) >> rng.randrange(70)))
    if kind == 1:
        return Raw(repr(rng.uniform(-1, 1) * 10.0 ** rng.randint(-20, 20)))
    if kind == 2:
        return Raw(f"{rng.randint(-(10**6), 10**6)}.{rng.randint(0, 10**6)}")
    return Raw(rng.choice(NO_NUMBERS if _one_in(rng, 25) else NUMBERS))


def _some_text(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(TEXTS)
    return "".join(
        chr(rng.choice((rng.randrange(0x80), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))) for _ in range(rng.randrange(7))
    )


class _Object:
    """Pairs, told apart from a list."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs


def _arguments(rng: random.Random) -> Pairs:
    """Arguments as the tool declares them (`tests.fuzz.judge.DECLARED`), and one that it does not."""
    possible: Pairs = [
        ("amount", _number(rng)),
        ("ratio", _number(rng)),
        ("owner", _some_text(rng)),
        ("dry", rng.random() < 0.5),
        ("labels", [rng.choice(TEXTS) for _ in range(rng.randrange(4))]),
        ("a", _value(rng)),
    ]
    return rng.sample(possible, rng.randrange(len(possible) + 1))


def _message(rng: random.Random, modern_version: str) -> _Object:
    method = "tools/call" if rng.random() < 0.4 else rng.choice(UNKNOWN_METHODS if _one_in(rng, 12) else sorted(METHODS))
    pairs: Pairs = [("jsonrpc", "2.0")]
    if not method.startswith("notifications/") or _one_in(rng, 20):
        pairs.append(
            (
                "id",
                rng.choice((Raw("1.0"), None, Raw("1e1"), -1, Raw("9007199254740993"))) if _one_in(rng, 12) else rng.choice((1, "a", "1")),
            )
        )
    pairs.append(("method", method))
    params = _params(rng, method)
    if modern_version:
        params.append(("_meta", _Object([(META_VERSION, modern_version), (META_CAPABILITIES, _Object([]))])))
    elif _one_in(rng, 20):
        params.append(("_meta", _value(rng)))
    if params or rng.random() < 0.5:
        pairs.append(("params", _Object(params)))
    if _one_in(rng, 4):
        _bend_pairs(rng, rng.choice([pairs, params, *_objects_in(params)]))
    return _Object(pairs)


def _params(rng: random.Random, method: str) -> Pairs:
    rule = METHODS.get(method)
    scope = rule.scope if rule is not None else Scope.TOOL
    if scope in {Scope.TOOL, Scope.PROMPT}:
        pairs: Pairs = [("name", rng.choice(TEXTS))]
        if rng.random() < 0.8:
            arguments = _arguments(rng)
            if _one_in(rng, 3):
                _bend_pairs(rng, arguments)
            pairs.append(("arguments", _Object(arguments)))
        return pairs
    if scope is Scope.MCP_RESOURCE:
        return [("uri", rng.choice(URIS))]
    if scope is Scope.COMPLETION:
        ref: Pairs = [("type", rng.choice(("ref/prompt", "ref/resource", "ref/tool")))]
        ref += rng.choice(([("name", "greet")], [("uri", "test://{id}")], [("name", "greet"), ("uri", "test://b")]))
        return [("ref", _Object(ref)), ("argument", _Object([("name", "a"), ("value", rng.choice(TEXTS))]))]
    if scope is Scope.SUBSCRIPTIONS:
        uris: list[object] = [rng.choice(URIS) for _ in range(rng.randrange(4))]
        return [("notifications", _Object([("resourceSubscriptions", uris)]))]
    return _server_params(rng, method)


def _server_params(rng: random.Random, method: str) -> Pairs:
    """Params of the methods that name nothing."""
    if method == "initialize":
        client = _Object([("name", "c"), ("version", "1")])
        return [("protocolVersion", rng.choice(LEGACY_VERSIONS)), ("capabilities", _Object([])), ("clientInfo", client)]
    if method == "logging/setLevel":
        return [("level", "info")]
    if method == "notifications/progress":
        return [("progressToken", 1), ("progress", 1)]
    if method == "notifications/cancelled":
        return [("requestId", 1)]
    return []


def _objects_in(pairs: Pairs) -> list[Pairs]:
    return [value.pairs for _, value in pairs if isinstance(value, _Object)]


def _bend_pairs(rng: random.Random, pairs: Pairs) -> None:
    """Add a key, perhaps one that is there already or looks like it, or turn a value into another."""
    kind = rng.choice(("add", "twin", "value", "shuffle", "drop"))
    at = rng.randint(0, len(pairs))
    if kind == "add" or not pairs:
        pairs.insert(at, (rng.choice(KEYS), _value(rng)))
    elif kind == "twin":
        pairs.insert(at, (rng.choice(_TWINS)(rng.choice(pairs)[0]), _value(rng)))
    else:
        key, value = pairs.pop(at % len(pairs))
        if kind == "value":
            pairs.insert(at, (key, _value(rng)))
        elif kind == "shuffle":
            pairs.append((key, value))


_TWINS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    str.title,
    lambda key: key + "\0",
    lambda key: key.replace("s", "\u017f").replace("k", "\u212a"),
    lambda key: key[:1] + "\u200b" + key[1:],
    lambda key: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in key),
    lambda key: " " + key,
)


def _written(rng: random.Random, message: _Object) -> str:
    """The message as text, plain or with white space and escapes in odd places."""
    if rng.random() < 0.5:
        return _text(message, space=lambda: "", escape=json.dumps)
    spaces = SPACES if _one_in(rng, 10) else SPACES[:7]
    often = rng.choice((0.0, 0.2, 1.0))

    def escape(text: str) -> str:
        return '"' + "".join(map(_escaped, text)) + '"' if rng.random() < often else json.dumps(text, ensure_ascii=False)

    return _text(message, space=lambda: rng.choice(spaces), escape=escape)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04X}" for i in range(0, len(units), 2))


def _text(value: object, *, space: Callable[[], str], escape: Callable[[str], str]) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, _Object):
        value = value.pairs
        inner = (f"{space()}{escape(key)}{space()}:{space()}{_text(item, space=space, escape=escape)}" for key, item in value)
        return "{" + ",".join(inner) + space() + "}"
    if isinstance(value, list):
        return "[" + ",".join(space() + _text(item, space=space, escape=escape) for item in value) + space() + "]"
    return json.dumps(value)


_INSERTED = (b'"', b",", b"\\", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\0", b"\\ud800", b"}", b"{", b"1", b"\\/", b" ", b"0")
_APPENDED = (b"\n", b" ", b"{}", b"\0", b",", b"\x1e", b"\xc2\xa0", b'{"jsonrpc":"2.0","id":2,"method":"ping"}')
_ENCODINGS = ("utf-16", "utf-16-le", "utf-32")


def _bent(rng: random.Random, body: bytes) -> bytes:
    """The bytes themselves: mostly left alone, else changed in one place."""
    if rng.random() < 0.7:
        return body
    kind = rng.choice(("flip", "insert", "delete", "copy", "bom", "after", "utf-16", "depth"))
    at = rng.randrange(len(body))
    after = body[at + rng.randint(1, 30) :]
    changed = {
        "flip": lambda: body[:at] + bytes([body[at] ^ (1 << rng.randrange(8))]) + body[at + 1 :],
        "insert": lambda: body[:at] + rng.choice(_INSERTED) + body[at:],
        "delete": lambda: body[:at] + body[at + rng.randint(1, 3) :],
        "copy": lambda: body[: len(body) - len(after)] + body[at:],
        "bom": lambda: b"\xef\xbb\xbf" + body,
        "after": lambda: body + rng.choice(_APPENDED),
        "utf-16": lambda: body.decode("utf-8", "ignore").encode(rng.choice(_ENCODINGS)),
        "depth": lambda: body.replace(b"null", (depth := rng.randint(55, 70)) * b"[" + depth * b"]"),
    }
    return changed[kind]()


_CONTENT_TYPES = (
    "application/json; charset=utf-8", "Application/JSON", "text/plain", "application/json; charset=utf-16",
    "application/json, text/plain",
)  # fmt: skip


def _headers(rng: random.Random, version: str, message: _Object) -> list[tuple[str, str]]:
    """The headers that the message demands, sometimes bent."""
    headers = [("content-type", rng.choice(_CONTENT_TYPES) if _one_in(rng, 12) else "application/json")]
    if version:
        headers.append(("mcp-protocol-version", version))
    pairs = dict(message.pairs)
    method, params = pairs.get("method"), pairs.get("params")
    named = dict(params.pairs) if isinstance(params, _Object) else {}
    if version in MODERN_VERSIONS or _one_in(rng, 10):
        headers.append(("mcp-method", _header_text(method)))
        subject = named.get("uri" if str(method).startswith("resources/") else "name")
        if isinstance(subject, str):
            headers.append(("mcp-name", _header_text(subject)))
    return _bent_headers(rng, headers) if _one_in(rng, 8) else headers


def _header_text(value: object) -> str:
    text = value if isinstance(value, str) else ""
    if text.isascii() and text.isprintable() and text == text.strip():
        return text
    return "=?base64?" + base64.b64encode(text.encode("utf-8", "replace")).decode() + "?="


_OTHER_VALUES = ("tools/list", "safe", "2026-07-28", "2025-11-25", "2024-11-05", "", "application/json")
_MORE_HEADERS = (
    ("mcp-param-x", "1"), ("mcp-session-id", "s"), ("content-encoding", "gzip"), ("last-event-id", "1"), ("mcp-name", "safe"),
    ("mcp-method", "tools/list"),
)  # fmt: skip


def _bent_headers(rng: random.Random, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    index = rng.randrange(len(headers))
    name, value = headers[index]
    kind = rng.choice(("twice", "drop", "other", "case", "space", "list", "base64", "more"))
    if kind == "twice":
        return [*headers, (name, rng.choice((value, "tools/list", "safe", "2025-03-26")))]
    if kind == "drop":
        return headers[:index] + headers[index + 1 :]
    if kind == "more":
        return [*headers, rng.choice(_MORE_HEADERS)]
    changed = {
        "other": rng.choice(_OTHER_VALUES),
        "case": value.upper(),
        "space": f" {value}\t",
        "list": f"{value}, safe",
        "base64": "=?base64?" + base64.b64encode(value.encode()).decode() + "?=",
    }[kind]
    return [*headers[:index], (name, changed), *headers[index + 1 :]]

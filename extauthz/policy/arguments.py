"""The context of a request: how the caller came, and its arguments as declared, typed values.

Arguments never enter raw: a client's JSON could name entities (`__entity`) and extension values (`__extn`), and a value of the
wrong type would make Cedar skip a `forbid`. Only names that the matching policies read are built, each from its declared type;
what does not fit is a problem, and a problem denies.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from extauthz.catalog.server import ArgumentType
from extauthz.look_alike import could_be_taken_for, folded, too_foreign
from extauthz.policy.compiled import Reads
from extauthz.policy.model import Action, AuthorizationRequest, Caller
from extauthz.policy.schema import declarable

_DECIMAL_MAX: Final = Decimal(2**63 - 1) / 10_000
_JsonValue = object


LARGEST_EXACT_INTEGER = 2**53 - 1
"""Beyond it JavaScript, and Go without a declared type, round to a double: the server would compute with another number than the policy."""

MAX_READABLE_CHARACTERS = 4096
"""Longer arguments cannot be read by policies: a condition costs time in proportion, and that time is everybody's."""


class UnreadableArgumentError(ValueError):
    """An argument that a policy reads has no value that the policy could read; the text names it, never its value."""


def context_json(request: AuthorizationRequest, reads: Reads) -> str:
    """The context as Cedar's JSON, with what is read and nothing more; raises UnreadableArgumentError."""
    context: dict[str, _JsonValue] = {"caller": _caller(request.caller, reads)}
    if request.action is Action.TOOLS_CALL:
        context["arguments"] = typed_arguments(request, reads)
    return json.dumps(context)


def typed_arguments(request: AuthorizationRequest, reads: Reads) -> dict[str, _JsonValue]:
    """The arguments that are read, as values of their declared types. null is absent; undeclared but sent is a problem."""
    tool = request.mcp_server.tools.get(request.name)
    declared: Mapping[str, ArgumentType] = tool.arguments if tool is not None else {}
    names = set(request.arguments) if reads.whole_arguments else reads.arguments
    _refuse_look_alikes(request.arguments, names, declared)
    built: dict[str, _JsonValue] = {}
    for name in sorted(names, key=str):
        value = request.arguments.get(name)
        if value is None:
            continue
        kind = declared.get(name)
        if kind is None or not declarable(name):
            raise UnreadableArgumentError(f"argument {name!r} is read by a policy, but the tool's accepted definition does not type it")
        built[name] = _typed(name, value, kind)
    return built


def _refuse_look_alikes(sent: Mapping[str, object], names: AbstractSet[str], declared: Mapping[str, ArgumentType]) -> None:
    """Refuse an argument that some servers take for one that a policy reads (Go ignores case): the policy would not see it."""
    if not names or sent.keys() <= names:
        return
    if too_foreign(key for key in sent if key not in names and key not in declared):
        raise UnreadableArgumentError("the names of other arguments hold too many letters outside ASCII to be compared")
    read = {folded(name) for name in names}
    if any(key not in names and key not in declared and could_be_taken_for(key, read) for key in sent):
        raise UnreadableArgumentError("an argument could be taken for one that a policy reads, but is spelt differently")


def _typed(name: str, value: object, kind: ArgumentType) -> _JsonValue:
    if kind is ArgumentType.STRING and isinstance(value, str) and len(value) <= MAX_READABLE_CHARACTERS:
        return value
    if kind is ArgumentType.BOOL and isinstance(value, bool):
        return value
    if kind is ArgumentType.LONG and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_EXACT_INTEGER:
        return value
    if kind is ArgumentType.DECIMAL and isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _decimal(name, value)
    if kind is ArgumentType.STRING_SET and isinstance(value, list | tuple) and _is_short_set(value):
        return list(value)
    raise UnreadableArgumentError(f"argument {name!r} is not a {kind.value} that policies can read")


def _is_short_set(items: Sequence[object]) -> bool:
    texts = [item for item in items if isinstance(item, str)]
    return len(texts) == len(items) and sum(map(len, texts)) + len(texts) <= MAX_READABLE_CHARACTERS


def _decimal(name: str, value: float | Decimal) -> _JsonValue:
    """Cedar's decimal: exactly four places; what does not fit is refused rather than rounded across a limit."""
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not exact.is_finite() or abs(exact) > _DECIMAL_MAX:
        raise UnreadableArgumentError(f"argument {name!r} is beyond the range of a decimal")
    scaled = exact.scaleb(4)
    if scaled != scaled.to_integral_value():
        raise UnreadableArgumentError(f"argument {name!r} has more than four decimal places")
    sign = "-" if scaled < 0 else ""
    whole, places = divmod(abs(int(scaled)), 10_000)
    return _extension("decimal", f"{sign}{whole}.{places:04d}")


def _caller(caller: Caller, reads: Reads) -> dict[str, _JsonValue]:
    """Only what is read: dates and addresses cost Cedar more than the rest of a decision."""
    built: dict[str, _JsonValue] = {}
    for name in sorted(reads.caller):
        if name == "address":
            if caller.address:
                built[name] = _extension("ip", _address(caller.address))
        elif name == "now":
            moment = datetime.fromtimestamp(caller.now_unix, tz=UTC)
            built[name] = _extension("datetime", f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z")
        else:
            built[name] = getattr(caller, name)
    return built


def _address(address: str) -> str:
    """An IPv4 address that came over an IPv6 socket is the IPv4 address that policies name."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)


def _extension(function: str, argument: str) -> _JsonValue:
    return {"__extn": {"fn": function, "arg": argument}}

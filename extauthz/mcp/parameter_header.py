"""`Mcp-Param-*`: headers that copy arguments of a tool say what the arguments say, or the call is refused (-32020).

Which arguments a tool copies stands in its accepted definition (`extauthz.catalog.server.MirroredArgument`), so this is compared
once the tool is known: step (3) of `extauthz.decision`. Headers that no accepted definition declares are passed on, as the protocol
demands (MCP 2026-07-28, basic/transports, "Custom headers from tool parameters").
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from extauthz.catalog.server import ArgumentType, MirroredArgument, Tool
from extauthz.errors import MessageError
from extauthz.mcp.era import Era
from extauthz.mcp.headers import HeaderMap, decoded_header, encoded_header, header_mismatch
from extauthz.mcp.request import McpRequest

_DECIMAL = re.compile(r"(-?[0-9]{1,400})(?:\.0{1,20})?", re.ASCII)


def check_parameter_headers(tool: Tool, request: McpRequest, headers: HeaderMap) -> None:
    """Raise `MessageError` unless each copied argument and its header are equal, or both absent; modern calls of `tool` only.

    Legacy servers do not read these headers, and do not get them (`extauthz.passage`). null counts as absent.
    """
    if request.era is not Era.MODERN or request.method != "tools/call":
        return
    for mirrored in tool.mirrored:
        values = headers.get(mirrored.header, ())
        argument = _rendered(_argument(request.arguments, mirrored.path))
        if argument is None and values:
            raise _mismatch(mirrored, request, "stands beside a call without that argument")
        if argument is not None and not values:
            raise _mismatch(mirrored, request, "is missing")
        if argument is not None and not _equal(mirrored.type, argument, decoded_header(values[0], request.id_json)):
            raise _mismatch(mirrored, request, "differs from the body")


def parameter_headers(tool: Tool, arguments: Mapping[str, object]) -> list[tuple[str, str]]:
    """The headers that a client sends with a modern call of `tool`: `check_parameter_headers` holds for them."""
    rendered = ((mirrored.header, _rendered(_argument(arguments, mirrored.path))) for mirrored in tool.mirrored)
    return [(header, encoded_header(value)) for header, value in rendered if value is not None]


def _argument(arguments: Mapping[str, object], path: tuple[str, ...]) -> object:
    place: object = arguments
    for name in path:
        place = place.get(name) if isinstance(place, Mapping) else None
    return place


def _rendered(value: object) -> str | None:
    """The argument as clients write it into a header; None when they write none: no value, a list, an object."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        whole = isinstance(value, float) and value.is_integer()
        return str(int(value)) if whole else repr(value)
    return value if isinstance(value, str) else None


def _equal(kind: ArgumentType, argument: str, header: str) -> bool:
    """Integers compare as numbers (`42` is `42.0`), everything else letter by letter."""
    number = _DECIMAL.fullmatch(header) if kind is ArgumentType.LONG else None
    if number is not None and _DECIMAL.fullmatch(argument):
        return int(number[1]) == int(argument)
    return argument == header


def _mismatch(mirrored: MirroredArgument, request: McpRequest, fault: str) -> MessageError:
    return header_mismatch(f"the header {mirrored.header} {fault}", request.id_json)

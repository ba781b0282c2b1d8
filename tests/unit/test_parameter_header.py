"""Headers that copy arguments: equal, both absent, or refused."""

from __future__ import annotations

import base64

import pytest

from extauthz.catalog.server import ArgumentType, MirroredArgument, Tool
from extauthz.errors import MessageError, Reason
from extauthz.mcp.era import Era
from extauthz.mcp.parameter_header import check_parameter_headers
from extauthz.mcp.request import McpRequest

TOOL = Tool(
    name="t",
    mirrored=(
        MirroredArgument(header="mcp-param-region", path=("region",), type=ArgumentType.STRING),
        MirroredArgument(header="mcp-param-count", path=("count",), type=ArgumentType.LONG),
        MirroredArgument(header="mcp-param-urgent", path=("urgent",), type=ArgumentType.BOOL),
        MirroredArgument(header="mcp-param-city", path=("place", "city"), type=ArgumentType.STRING),
    ),
)


def request(arguments: dict[str, object], *, era: Era = Era.MODERN, method: str = "tools/call") -> McpRequest:
    return McpRequest(era=era, protocol_version="", method=method, id_json='"q"', arguments=arguments)


def headers(**values: str) -> dict[str, list[str]]:
    return {f"mcp-param-{name}": [value] for name, value in values.items()}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ({}, {}),
        ({"region": None, "place": {"city": None}}, {}),
        ({"region": ["a"], "place": "x"}, {}),
        ({"region": "eu"}, headers(region="eu")),
        ({"region": "zürich"}, headers(region="=?base64?" + base64.b64encode("zürich".encode()).decode() + "?=")),
        ({"count": 42}, headers(count="42")),
        ({"count": 42}, headers(count="42.0")),
        ({"count": 42.0}, headers(count="42")),
        ({"count": -(10**30)}, headers(count="-" + "1" + "0" * 30)),
        ({"urgent": True}, headers(urgent="true")),
        ({"place": {"city": "Bern"}}, headers(city="Bern")),
        ({}, headers(unknown="x")),
    ],
)
def test_a_header_that_says_what_its_argument_says_passes(arguments: dict[str, object], given: dict[str, list[str]]) -> None:
    check_parameter_headers(TOOL, request(arguments), given)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ({"region": "eu"}, {}),
        ({"region": "eu"}, headers(region="us")),
        ({"region": "eu"}, headers(region="EU")),
        ({"region": ""}, {}),
        ({}, headers(region="eu")),
        ({"region": None}, headers(region="null")),
        ({"region": ["eu"]}, headers(region="eu")),
        ({"region": "zürich"}, headers(region="z\xfcrich")),
        ({"region": "eu"}, headers(region="=?base64?%%?=")),
        ({"region": "1"}, headers(region="1.0")),
        ({"count": 42}, headers(count="43")),
        ({"count": 42}, headers(count="42.5")),
        ({"count": 42}, headers(count="4.2e1")),
        ({"count": 42}, headers(count=" 0x2a")),
        ({"count": True}, headers(count="1")),
        ({"count": 1.5}, headers(count="1")),
        ({"count": "42x"}, headers(count="42")),
        ({"urgent": True}, headers(urgent="True")),
        ({"urgent": False}, headers(urgent="0")),
        ({"place": {"city": "Bern"}}, {}),
        ({"city": "Bern"}, headers(city="Bern")),
    ],
)
def test_a_header_that_says_something_else_is_refused(arguments: dict[str, object], given: dict[str, list[str]]) -> None:
    with pytest.raises(MessageError) as refused:
        check_parameter_headers(TOOL, request(arguments), given)

    assert (refused.value.reason, refused.value.code, refused.value.status) == (Reason.HEADER_MISMATCH, -32020, 400)
    assert refused.value.request_id_json == '"q"'


def test_legacy_calls_and_other_methods_copy_nothing() -> None:
    check_parameter_headers(TOOL, request({"region": "eu"}, era=Era.LEGACY), headers(region="us"))
    check_parameter_headers(TOOL, request({"region": "eu"}, method="prompts/get"), headers(region="us"))

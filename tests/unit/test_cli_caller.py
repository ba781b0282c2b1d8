"""Whom a development token names."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from controlplane.cli.caller import ClaimArgument, TtlArgument, arguments_of, caller_of, development_token
from controlplane.cli.invocation import Invocation, is_loopback
from controlplane.cli.outcome import CommandError


@pytest.mark.parametrize(
    ("written", "claim"),
    [
        ("team=sales", ("team", "sales")),
        ("level=3", ("level", 3)),
        ("admin=true", ("admin", True)),
        ('teams=["a","b"]', ("teams", ["a", "b"])),
        ('level="3"', ("level", "3")),
        ("note=a=b", ("note", "a=b")),
        ("empty=", ("empty", "")),
    ],
)
def test_a_claim_is_json_where_it_can_be_and_text_otherwise(written: str, claim: tuple[str, object]):
    assert ClaimArgument().convert(written, None, None) == claim


@pytest.mark.parametrize("written", ["team", "=x", "sub=root", "aud=x", "exp=1", "groups=admins"])
def test_a_claim_without_a_name_or_of_the_issuer_is_refused(written: str):
    with pytest.raises(click.BadParameter):
        ClaimArgument().convert(written, None, None)


@pytest.mark.parametrize(("written", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("24h", 86400)])
def test_durations(written: str, seconds: int):
    assert TtlArgument().convert(written, None, None) == seconds


@pytest.mark.parametrize("written", ["0", "25h", "-1", "1d", "", "1.5h"])
def test_durations_that_are_none(written: str):
    with pytest.raises(click.BadParameter):
        TtlArgument().convert(written, None, None)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://localhost:8080", True),
        ("http://[::1]:8080", True),
        ("http://127.9.9.9", True),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://10.0.0.1", False),
        ("https://gateway.example.com", False),
        ("http://2130706433", False),
    ],
)
def test_what_counts_as_this_machine(url: str, local: bool):
    assert is_loopback(url) is local


def test_no_development_token_for_a_gateway_that_others_can_reach(tmp_path: Path):
    invocation = Invocation(data_dir=tmp_path, gateway_url="https://gateway.example.com")

    with pytest.raises(CommandError, match="on this machine only"):
        development_token(invocation, caller_of("ann", (), (), "user"))


def test_a_missing_issuer_says_what_to_do(tmp_path: Path):
    invocation = Invocation(data_dir=tmp_path, gateway_url="http://127.0.0.1:1")

    with pytest.raises(CommandError) as caught:
        development_token(invocation, caller_of("ann", (), (), "user"))

    assert "development-issuer.json does not exist" in caught.value.what
    assert "--data-dir" in caught.value.remedy


def test_an_agent_says_so_in_a_claim():
    assert caller_of("bot", (), (("team", "x"),), "agent").claims == {"team": "x", "agent": "bot"}
    assert caller_of("ann", (), (), "user").claims == {}


def test_arguments_are_an_object_from_the_line_a_file_or_nowhere(tmp_path: Path):
    file = tmp_path / "arguments.json"
    file.write_text('{"id": 1}')

    assert arguments_of('{"id": 1}') == arguments_of(f"@{file}") == {"id": 1}
    for wrong, said in (("{", "not JSON"), ("[1]", "must be a JSON object"), (f"@{tmp_path}/none", "cannot be read")):
        with pytest.raises(CommandError, match=said):
            arguments_of(wrong)

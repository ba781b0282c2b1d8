"""Who asks in `token`, `call` and `explain`: a principal of the development issuer, which exists on loopback deployments only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from controlplane.cli.invocation import Invocation, is_loopback
from controlplane.cli.outcome import CommandError

F = TypeVar("F", bound=Callable[..., Any])

MAX_TTL_SECONDS = 24 * 3600
_RESERVED_CLAIMS = frozenset({"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "groups"})
_DURATION = re.compile(r"(\d+)([smh]?)")
_SECONDS_OF_UNIT = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The principal that a token will name."""

    name: str
    kind: str = "User"
    groups: tuple[str, ...] = ()
    claims: Mapping[str, Any]


class ClaimArgument(click.ParamType[tuple[str, Any]]):
    """`key=value`; a value that is JSON (true, 3, ["a"]) is that, anything else is text."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:  # noqa: ANN401 - click's signature
        """(key, value)."""
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not separator or not key:
            self.fail(f"{value!r} must look like key=value", param, ctx)
        if key in _RESERVED_CLAIMS:
            self.fail(f"the claim {key!r} is set by the issuer; use --as, --group, --audience or --ttl", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            return key, text


class TtlArgument(click.ParamType[int]):
    """A duration: 90, 90s, 15m, 8h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's signature
        """Seconds."""
        match = _DURATION.fullmatch(str(value))
        seconds = int(match.group(1)) * _SECONDS_OF_UNIT[match.group(2)] if match else 0
        if not 1 <= seconds <= MAX_TTL_SECONDS:
            self.fail(f"{value!r} is not a duration up to 24h, such as 90s, 15m or 8h", param, ctx)
        return seconds


def caller_options(command: F) -> F:
    """`--as NAME [--group G]... [--claim K=V]... [--kind user|agent]`."""
    for option in (
        click.option("--kind", type=click.Choice(["user", "agent"]), default="user", help="What NAME is (default user)."),
        click.option(
            "--claim", "claims", type=ClaimArgument(), multiple=True, metavar="K=V", help="A further claim; the value may be JSON."
        ),
        click.option("--group", "groups", multiple=True, metavar="GROUP", help="A group that NAME is in."),
        click.option("--as", "name", required=True, metavar="NAME", help="Who asks: the token's subject."),
    ):
        command = option(command)
    return command


def caller_of(name: str, groups: tuple[str, ...], claims: tuple[tuple[str, Any], ...], kind: str) -> Caller:
    """The caller that the options describe."""
    further = dict(claims)
    if kind == "agent":
        further.setdefault("agent", name)
    return Caller(name=name, kind=kind.capitalize(), groups=groups, claims=further)


def development_token(invocation: Invocation, caller: Caller, *, audience: str = "", ttl_seconds: int = 300) -> str:
    """An access token of the development issuer; refuses deployments that others can reach."""
    gateway_url = invocation.reachable_gateway_url()
    if not is_loopback(gateway_url):
        raise CommandError(
            f"the development issuer is for deployments on this machine only, and the gateway is {gateway_url}",
            remedy="ask your identity provider for a token",
        )
    issuer_file = invocation.deployment.development_issuer_file
    if not issuer_file.exists():
        raise CommandError(
            f"there is no development issuer: {issuer_file} does not exist",
            remedy="name the data directory that `legation up` was started with: --data-dir",
        )
    from controlplane.development_issuer import mint_token  # noqa: PLC0415 - cryptography costs 100 ms

    return mint_token(
        issuer_file,
        subject=caller.name,
        audience=audience or gateway_url,
        groups=caller.groups,
        claims=caller.claims,
        ttl_seconds=ttl_seconds,
    )


def arguments_of(text: str) -> dict[str, Any]:
    """Tool arguments: a JSON object, `@FILE`, or `-` for standard input."""
    if text == "-" or text.startswith("@"):
        try:
            with click.open_file(text.removeprefix("@"), encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise CommandError(f"the arguments cannot be read: {error}") from error
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise CommandError(f"the arguments are not JSON: {error}", remedy="""quote them for the shell: '{"id": 1}'""") from error
    if not isinstance(arguments, dict):
        raise CommandError("the arguments must be a JSON object", remedy="""for example '{"id": 1}'""")
    return arguments

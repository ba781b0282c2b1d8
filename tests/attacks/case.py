"""What one attack is, as a value: how it changes an honest call, what the gateway must answer, who would have run it.

Tables of these stand in the test modules; ids begin with the letter and number of the group (`A07-long-s-key`), which
`test_coverage` counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.attacks.world import MODERN, World

LEGACY_CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"safe","arguments":{"text":"x"}}}'
META = b'"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}'
MODERN_CALL = LEGACY_CALL.replace(b'"params":{', b'"params":{%s,' % META)
CALL_ID = 7
ERAS = ("legacy", "modern")

Change = Callable[[bytes], bytes]
Pair = tuple[str, str]

PARSE_ERROR = ("parse_error", -32700)
INVALID_REQUEST = ("invalid_request", -32600)
INVALID_PARAMS = ("invalid_params", -32602)
DENIED = ("no_matching_permit", 40300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One hostile request. `change` turns an honest call of the tool `safe` into it; `headers` are set or, with "", left out.

    `refusal` is the reason and the JSON-RPC code. `id` is echoed when `knows_id`. `runs_at` are flavours that run `evil` when
    they are sent these bytes directly.
    """

    id: str
    change: Change = bytes
    refusal: tuple[str, int] = INVALID_REQUEST
    status: int = 400
    legacy_status: int = 0
    knows_id: bool = False
    echo: Any = CALL_ID
    headers: Sequence[Pair] = ()
    flavour: str = "python"
    eras: Sequence[str] = ERAS
    runs_at: Sequence[str] = ()

    def body(self, era: str) -> bytes:
        """The hostile body; it differs from the honest one unless only the headers are hostile."""
        honest = LEGACY_CALL if era == "legacy" else MODERN_CALL
        body = self.change(honest)
        assert body != honest or self.headers, "the attack changes nothing"
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Honest:
    """The well-formed twin of a family of attacks: it passes byte for byte and runs as `name` with `arguments` (None: not compared)."""

    id: str
    change: Change = bytes
    headers: Sequence[Pair] = ()
    flavour: str = "python"
    eras: Sequence[str] = ERAS
    name: str | None = "safe"
    arguments: Any = None


def each(cases: Iterable[Attack | Honest]) -> pytest.MarkDecorator:
    """Every case in each of its eras; the id is the case's, then the era."""
    found = [(case, era) for case in cases for era in case.eras]
    ids = [f"{case.id}-{era}" for case, era in found]
    assert len(set(ids)) == len(ids), "two cases have one id"
    return pytest.mark.parametrize(("case", "era"), found, ids=ids)


def headers_of(world: World, case: Attack | Honest, era: str) -> list[Pair]:
    """The headers of an honest call in this era, with those of the case in their place."""
    given = world.headers(case.flavour)
    if era == "modern":
        given += [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "safe")]
    return with_headers(given, case.headers)


def with_headers(given: Sequence[Pair], changes: Sequence[Pair]) -> list[Pair]:
    """`given` without those that `changes` name, then the changes; an empty value is left out."""
    names = {name.lower() for name, _ in changes}
    return [pair for pair in given if pair[0].lower() not in names] + [pair for pair in changes if pair[1]]


async def refuse(world: World, case: Attack, era: str) -> dict[str, Any]:
    """Send it, legacy over HTTP/1.1 and modern over HTTP/2, and see it refused as it must be. Gives the audit event."""
    body, headers = case.body(era), headers_of(world, case, era)
    before = await world.mark()
    if era == "legacy":
        answer = await world.post(body, flavour=case.flavour, headers=headers)
    else:
        answer = await world.h2_post(body, flavour=case.flavour, headers=headers)
    reason, code = case.refusal
    status = case.legacy_status if era == "legacy" and case.legacy_status else case.status
    return await world.refused(before, answer, status=status, reason=reason, code=code, request_id=case.echo if case.knows_id else None)


async def passes(world: World, case: Honest, era: str) -> None:
    """Send it, see it arrive byte for byte at its upstream, and run as it was judged."""
    honest = LEGACY_CALL if era == "legacy" else MODERN_CALL
    body, headers = case.change(honest), headers_of(world, case, era)
    before = await world.mark()
    if era == "legacy":
        answer = await world.post(body, flavour=case.flavour, headers=headers)
    else:
        answer = await world.h2_post(body, flavour=case.flavour, headers=headers)
    found = await world.passed(before, answer, body=body, flavour=case.flavour)
    if case.name is not None:
        assert found["name"] == case.name
    if case.arguments is not None:
        assert found["arguments"] == case.arguments


def replaced(*pairs: tuple[bytes, bytes]) -> Change:
    """Replace each left side, which must be there, by its right side, once."""

    def change(body: bytes) -> bytes:
        for old, new in pairs:
            assert old in body, old
            body = body.replace(old, new, 1)
        return body

    return change

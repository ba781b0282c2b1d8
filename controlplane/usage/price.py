"""What a call costs: the prices of every CostModel that was ever in force, by the revision that decided the call.

    changes of CostModels, oldest first ─▶ PriceBook ─▶ `price_of(namespace, server, tool, revision)` ─▶ `cost_of(price, …)`

A price belongs to the time of the call: an edit of a CostModel changes no cost that was counted before, nor that of a call that is
counted late. Money is `Decimal`, exact to the last digit; nothing is rounded here.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal

from controlplane.registry.audit_rules import qualified_globs
from controlplane.registry.cost_model_spec import CostModelSpec
from controlplane.registry.spec import SYSTEM_NAMESPACE
from extauthz.catalog.name_glob import Globs, parse_globs

BYTES_PER_TOKEN = 4
BYTES_PER_KILOBYTE = 1000
EXACT = Context(prec=100)
"""Sums and products of prices stay far below so many digits."""
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one call, second, kilobyte or token costs."""

    currency: str
    per: str
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """What a revision made of one CostModel; None: it was deleted."""

    revision: int
    namespace: str
    name: str
    spec: CostModelSpec | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    servers: Globs
    tools: Globs
    price: Price


class PriceBook:
    """Every CostModel that was ever in force. `revision`: up to where its changes are known."""

    def __init__(self, changes: Iterable[ModelChange] = (), *, revision: int = 0) -> None:
        self.revision = revision
        self._models: dict[str, dict[str, list[tuple[int, tuple[_Line, ...]]]]] = {}
        for change in changes:
            versions = self._models.setdefault(change.namespace, {}).setdefault(change.name, [])
            versions.append((change.revision, _lines(change.spec, change.namespace) if change.spec is not None else ()))

    def price_of(self, namespace: str, server: str, tool: str, revision: int) -> Price | None:
        """Of a call of this tool (as its server calls it) of this server (`namespace/name`), decided at this revision."""
        for place in dict.fromkeys((namespace, SYSTEM_NAMESPACE)):
            models = self._models.get(place, {})
            for name in sorted(models):
                for line in _at(models[name], revision):
                    if line.servers.matches(server) and line.tools.matches(tool):
                        return line.price
        return None


def cost_of(price: Price | None, *, duration_us: int, size_bytes: int) -> Decimal:
    """What a call costs that took so long and moved so many bytes, request and answer together; exact."""
    if price is None:
        return Decimal(0)
    match price.per:
        case "second":
            return EXACT.divide(EXACT.multiply(price.amount, Decimal(duration_us)), Decimal(_MICROSECONDS))
        case "kilobyte":
            return EXACT.divide(EXACT.multiply(price.amount, Decimal(size_bytes)), Decimal(BYTES_PER_KILOBYTE))
        case "token":
            return EXACT.multiply(price.amount, Decimal(tokens_of(size_bytes)))
        case _:
            return price.amount


def tokens_of(size_bytes: int) -> int:
    """An estimate, and no more: a token for every four bytes that were begun."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def decimal_text(amount: Decimal) -> str:
    """The number without an exponent and without zeros that say nothing: 1.50 is 1.5, 0E-9 is 0."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _lines(spec: CostModelSpec, namespace: str) -> tuple[_Line, ...]:
    return tuple(
        _Line(
            servers=parse_globs(qualified_globs(price.servers, namespace)),
            tools=parse_globs(price.tools or ("*",)),
            price=Price(currency=spec.currency, per=price.per, amount=price.amount),
        )
        for price in spec.prices
    )


def _at(versions: Sequence[tuple[int, tuple[_Line, ...]]], revision: int) -> tuple[_Line, ...]:
    place = bisect.bisect_right(versions, revision, key=lambda version: version[0])
    return versions[place - 1][1] if place else ()

"""Kind CostModel: what calls cost, for usage reports and chargeback. Money is decimal text, never a binary fraction."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from controlplane.registry.audit_policy_spec import Globs
from controlplane.registry.document import Document

Price = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?$")]
"""At most nine digits before the point and nine behind it; written as text, since 0.1 is no binary number."""
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
"""An ISO 4217 code."""


class PriceSpec(Document):
    """What calls of these tools of these servers cost. No globs: all of them. A glob of servers with `/` is about `namespace/name`.

    `kilobyte`: 1,000 bytes of the request and its answer. `token`: an estimate, a token for every four bytes of both.
    """

    servers: Globs = ()
    tools: Globs = ()
    per: Literal["call", "second", "kilobyte", "token"] = "call"
    price: Price

    @property
    def amount(self) -> Decimal:
        """The price as a number."""
        return Decimal(self.price)


class CostModelSpec(Document):
    """Prices of the calls in a namespace; one in `system` is asked for what no CostModel of the namespace itself has a price for.

    The first of `prices` that fits a call is its price. Of several CostModels the first by name that has one counts.
    """

    currency: Currency
    prices: Annotated[tuple[PriceSpec, ...], Field(min_length=1, max_length=1000)]

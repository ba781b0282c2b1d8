"""One request as Envoy described it, before anybody has judged it. Made by `check`, read by every step of `decision`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

EGRESS_CONTEXT_HEADER = "legation-context"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInput:
    """One request as Envoy described it. `headers` has lower-case names and every value as sent; `path` may hold a query.

    `gateway` is the Gateway by whose listener it came, empty for `default` and for that of the settings. `peer_certificate` is
    the client's certificate as Envoy gives it: PEM, percent-encoded; "" without one. `traceparent` names Envoy's span of the question,
    while it keeps any; that of `headers` is the client's.
    """

    listener: str  # "ingress" | "egress"
    http_method: str
    path: str
    host: str
    headers: Mapping[str, Sequence[str]] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    downstream_address: str = ""
    peer_principal: str = ""
    peer_certificate: str = field(default="", repr=False)
    envoy_request_id: str = ""
    gateway: str = ""
    traceparent: str = ""

    def first(self, header: str) -> str:
        """The first value of a header, or ""."""
        values = self.headers.get(header, ())
        return values[0] if values else ""

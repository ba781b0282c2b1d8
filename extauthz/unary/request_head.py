"""What is kept of the headers of a request (`header_block` reads them)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """What the headers of a request say. `fault` is set when it is malformed (RFC 9113 section 8.1.1): reset, not answered."""

    path: str = ""
    http_method: bytes = b""
    content_type: bytes = b""
    timeout_seconds: float | None = None
    content_length: int | None = None
    traceparent: str = ""
    fault: str = ""

    @property
    def is_grpc(self) -> bool:
        kind = self.content_type
        return kind == b"application/grpc" or kind.startswith((b"application/grpc+", b"application/grpc;"))

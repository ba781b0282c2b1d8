"""base64url without padding (RFC 4648 section 5), where exactly one text stands for one value."""

from __future__ import annotations

import base64


def encode(raw: bytes) -> str:
    """The text of `raw`."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The value of `text`; raises ValueError for padding, another alphabet, or bits left over at the end."""
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)  # binascii.Error is a ValueError
    if encode(raw) != text:
        raise ValueError("not the one text of its value")
    return raw

"""SPIFFE IDs, read strictly (SPIFFE-ID section 2): what is not exactly in the one canonical form is refused, never repaired.

The specification says that trust domains are in lower case; a parser that lowers them makes two texts one identity, and lists of
revoked or permitted ones miss one of the two. So upper case is refused, and ids are compared byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEME = "spiffe://"
MAX_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A workload's name: `text` is all of it, `spiffe://<trust_domain>/<path>`."""

    text: str
    trust_domain: str


def claims_spiffe(uri: str) -> bool:
    """Whether a URI wants to be a SPIFFE ID, well-formed or not: whatever does so and is none is refused, never ignored."""
    return uri.strip()[:7].lower() == "spiffe:"


def is_trust_domain(text: str) -> bool:
    """Whether this is the name of a trust domain (SPIFFE-ID section 2.1)."""
    return len(text) <= MAX_TRUST_DOMAIN_BYTES and _TRUST_DOMAIN.fullmatch(text) is not None


def is_segment(text: str) -> bool:
    """Whether this is one segment of a path (SPIFFE-ID section 2.2)."""
    return text not in {".", ".."} and _SEGMENT.fullmatch(text) is not None


def parse_spiffe_id(text: str) -> SpiffeId:
    """A workload's SPIFFE ID, with a path; raises ValueError with the rule that is broken, without the text."""
    if len(text) > MAX_ID_BYTES:
        raise ValueError(f"a SPIFFE ID is not longer than {MAX_ID_BYTES} bytes")
    if not text.startswith(SCHEME):
        raise ValueError("a SPIFFE ID starts with spiffe://")
    trust_domain, slash, path = text[len(SCHEME) :].partition("/")
    if not is_trust_domain(trust_domain):
        raise ValueError("a trust domain is in lower case, of letters, digits, '.', '_' and '-', without port and user")
    if not slash:
        raise ValueError("a workload's SPIFFE ID has a path")
    for segment in path.split("/"):
        if not is_segment(segment):
            raise ValueError("segments of a SPIFFE ID are of letters, digits, '.', '_' and '-'; none is empty, '.' or '..'")
    return SpiffeId(text, trust_domain)

"""Forms of SPIFFE IDs: `spiffe://prod.example/agents/*`. Used by mappings of trust domains and by subjects of role bindings.

`*` stands for exactly one segment of the path, `**` at the end for one or more. A wildcard is a whole segment, and never the trust
domain: no pattern reaches from one trust domain into another.
"""

from __future__ import annotations

from dataclasses import dataclass

from extauthz.identity.spiffe_id import SCHEME, is_segment, is_trust_domain

MAX_PATTERN_CHARACTERS = 2048


@dataclass(frozen=True, slots=True)
class SpiffePattern:
    """One pattern, taken apart. `prefix`: the segments before a final `**`, or all of them; "*" fits any one segment."""

    trust_domain: str
    prefix: tuple[str, ...]
    open_ended: bool

    @property
    def exact(self) -> bool:
        """Whether it fits one SPIFFE ID only."""
        return not self.open_ended and "*" not in self.prefix

    def matches(self, spiffe_id: str) -> bool:
        """Whether a SPIFFE ID (one that `spiffe_id.parse_spiffe_id` has accepted) has this form; compared byte for byte."""
        head, _, path = spiffe_id.removeprefix(SCHEME).partition("/")
        if head != self.trust_domain or not path or not spiffe_id.startswith(SCHEME):
            return False
        segments = path.split("/")
        if len(segments) <= len(self.prefix) if self.open_ended else len(segments) != len(self.prefix):
            return False
        return all(wanted in ("*", segment) for wanted, segment in zip(self.prefix, segments, strict=False))


def parse_spiffe_pattern(text: str) -> SpiffePattern:
    """A SPIFFE ID or a pattern; raises ValueError with the rule that is broken."""
    if len(text) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"must not be longer than {MAX_PATTERN_CHARACTERS} characters")
    if not text.startswith(SCHEME):
        raise ValueError("must start with spiffe://")
    trust_domain, slash, path = text.removeprefix(SCHEME).partition("/")
    if not is_trust_domain(trust_domain):
        raise ValueError("needs a trust domain in lower case, of letters, digits, '.', '_' and '-', without wildcards")
    if not slash:
        raise ValueError("needs a path: a trust domain alone is no workload")
    segments = path.split("/")
    open_ended = segments[-1] == "**"
    prefix = tuple(segments[:-1] if open_ended else segments)
    for segment in prefix:
        if segment == "**":
            raise ValueError("'**' can only be the last segment")
        if segment != "*" and not is_segment(segment):
            raise ValueError("segments are of letters, digits, '.', '_' and '-', or exactly '*'; none is empty, '.' or '..'")
    return SpiffePattern(trust_domain, prefix, open_ended)

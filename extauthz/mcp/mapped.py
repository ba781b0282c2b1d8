"""Names of members as clients of a virtual server know them: URIs of resources and ids of tasks, and the way back without ambiguity.

    task      `demo/crm+<own id>`: the server, and the id that it gave
    URI       as it is, or `m.demo.crm+<own URI>` where the member has a prefix

Both decide whom a message is for: the authorizer and the aggregator ask the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from extauthz.catalog.virtual import Exposed, Member
from extauthz.mcp.uri import in_ascii, is_normal

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_TASK_ID = re.compile(rf"({_LABEL}/{_LABEL})\+(.+)", re.ASCII | re.DOTALL)
_EXPRESSION = re.compile(r"\{([+#./;?&]?)[A-Za-z0-9_.,:*%]+\}", re.ASCII)
_MAX_TEMPLATE_CHARACTERS = 2000
_CHARACTERS = {"+": ".+", "#": ".+", "/": "[^?#]+", "?": r"(?:\?[^#]*)?", "&": "(?:&[^#]*)?"}
_ONE_SEGMENT = "[^/?#]+"


def task_id_of(mcp_server_id: str, own_id: str) -> str:
    """The id by which clients know a task of this member."""
    return f"{mcp_server_id}+{own_id}"


def parse_task_id(task_id: str) -> tuple[str, str] | None:
    """The member and its own id; None for what `task_id_of` did not make."""
    found = _TASK_ID.fullmatch(task_id)
    return (found[1], found[2]) if found is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberUri:
    """A URI at its member."""

    mcp_server_id: str
    own_uri: str


class UriMap:
    """The resources of one virtual server. Immutable; a URI that could be of two members is of none."""

    def __init__(self, members: Sequence[Member], resources: Iterable[Exposed], templates: Iterable[Exposed]) -> None:
        self._by_prefix = {member.uri_prefix: member.mcp_server_id for member in members if member.uri_prefix}
        self._prefix_of = {member.mcp_server_id: member.uri_prefix for member in members}
        self._listed: dict[str, set[str]] = {}
        for resource in resources:
            self._listed.setdefault(in_ascii(resource.name), set()).add(resource.mcp_server_id)
        self._templates = tuple((template.mcp_server_id, pattern_of(template.own_name)) for template in templates)

    def exposed(self, mcp_server_id: str, own_uri: str) -> str:
        """How clients know this URI of a member."""
        return self._prefix_of.get(mcp_server_id, "") + own_uri

    def find(self, uri: str) -> MemberUri | None:
        """The member that this URI is of, if it offers it here."""
        # (1) by its prefix
        prefix, plus, rest = uri.partition("+")
        named = self._by_prefix.get(prefix + plus) if plus else None
        if named is not None:
            offered = is_normal(rest) and (named in self._listed.get(in_ascii(uri), ()) or named in self._matching(rest))
            return MemberUri(mcp_server_id=named, own_uri=rest) if offered else None
        # (2) listed by exactly one, (3) in a template of exactly one; those with a prefix are called by it
        owners = {owner for owner in self._listed.get(in_ascii(uri), ()) if not self._prefix_of.get(owner)}
        owners = owners or {owner for owner in self._matching(uri) if not self._prefix_of.get(owner)}
        return MemberUri(mcp_server_id=owners.pop(), own_uri=uri) if len(owners) == 1 else None

    def _matching(self, own_uri: str) -> set[str]:
        return {owner for owner, pattern in self._templates if pattern is not None and pattern.fullmatch(own_uri)}


def pattern_of(template: str) -> re.Pattern[str] | None:
    """The URIs that a URI template (RFC 6570) can become, or somewhat fewer; None when it is none.

    Templates are written by servers and URIs by callers, so nothing is tried twice: an expression takes no more than it must before
    the text that follows it, and gives nothing back.
    """
    first, *rest = _EXPRESSION.split(template)
    literals = [first, *rest[1::2]]
    if len(template) > _MAX_TEMPLATE_CHARACTERS or any("{" in literal or "}" in literal for literal in literals):
        return None
    pattern, open_class = re.escape(first), ""
    for operator, literal in zip(rest[::2], literals[1:], strict=True):
        characters = _CHARACTERS.get(operator, _ONE_SEGMENT)
        if open_class and open_class != characters:
            pattern += f"{open_class}+"  # two expressions in a row: the first takes all that it may
        open_class = characters
        if literal:
            pattern += f"(?>{open_class}?{re.escape(literal)})"
            open_class = ""
    return re.compile(pattern + open_class, re.DOTALL)

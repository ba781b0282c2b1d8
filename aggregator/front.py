"""A front: what one path offers, a virtual server or a single MCP server seen as one, at one revision.

Whatever a front says is for one caller (`Viewer`): names that the caller has no right to are in no list, no count and no outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aggregator.documents import Documents, View
from aggregator.state import AggregatorState, ServerCatalog
from extauthz.catalog.server import McpServer
from extauthz.catalog.virtual import DefinitionKind, Exposed, VirtualServer
from extauthz.effective_view import listed, single, uri_map
from extauthz.egress_context import EgressContext
from extauthz.identity.principal import Principal
from extauthz.mcp.mapped import UriMap
from extauthz.policy.model import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Whom something is told."""

    principal: Principal
    caller: Caller


def viewer_of(context: EgressContext, now_unix: float) -> Viewer:
    """The caller as authorizers decide about it."""
    principal = context.principal
    caller = Caller(
        era=context.caller_era or "legacy",
        mtls=principal.by_certificate,
        issuer=principal.issuer,
        address=context.caller_address,
        now_unix=now_unix,
    )
    return Viewer(principal=principal, caller=caller)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a member fares: "stale" (its last reading failed, what it had is still listed) or "unavailable" (nothing of it is)."""

    mcp_server_id: str
    status: str
    read_at_unix: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """One address. `is_virtual`: names may be mapped, and members are several."""

    state: AggregatorState
    virtual_server: VirtualServer
    is_virtual: bool
    documents: Documents = field(repr=False)

    @property
    def id(self) -> str:
        return self.virtual_server.id

    @property
    def place(self) -> str:
        """What a session of a client is bound to: a front that was made anew is another."""
        return f"{'virtual' if self.is_virtual else 'server'}:{self.id}:{self.virtual_server.uid}"

    def same_for(self, before: Front) -> bool:
        """Whether everybody is listed the same here as before, as far as members can be had."""
        policies = self.state.authorization.policy is before.state.authorization.policy
        return policies and self.virtual_server is before.virtual_server and self.documents is before.documents

    @property
    def uris(self) -> UriMap:
        return uri_map(self.state.authorization, self.virtual_server)

    def member(self, mcp_server_id: str) -> McpServer | None:
        """A member by its id, if it is one."""
        of_front = any(member.mcp_server_id == mcp_server_id for member in self.virtual_server.members)
        return self.state.authorization.mcp_servers.get(mcp_server_id) if of_front else None

    def members(self, viewer: Viewer) -> tuple[McpServer, ...]:
        """The members that exist for this caller, in their order: something of theirs is the caller's, or they offer nothing yet."""
        servers = self.state.authorization.mcp_servers
        known = [servers[m.mcp_server_id] for m in self.virtual_server.members if m.mcp_server_id in servers]
        shown = frozenset().union(*(self.documents.owners(self.exposed(kind, viewer)) for kind in DefinitionKind))
        offering = self.documents.offering
        return tuple(s for s in known if s.id in shown or (s.id not in offering and self._is_visible(s, viewer)))

    def _is_visible(self, server: McpServer, viewer: Viewer) -> bool:
        policy, principal = self.state.authorization.policy, viewer.principal
        workload = principal.workload
        trusted = principal.trusted_in(server.namespace)
        return trusted and policy.visible(principal, server) and (workload is None or policy.visible(workload, server))

    def catalogs(self, viewer: Viewer) -> tuple[ServerCatalog, ...]:
        """What is known of the members that exist for this caller."""
        catalogs = self.state.catalogs
        return tuple(catalogs[server.id] for server in self.members(viewer) if server.id in catalogs)

    def exposed(self, kind: DefinitionKind, viewer: Viewer) -> tuple[Exposed, ...]:
        """What of this kind the caller may see, whether or not its member can be had."""
        return listed(self.state.authorization, viewer.principal, self.virtual_server, kind, viewer.caller)

    def outcomes(self, viewer: Viewer, now_unix: float) -> tuple[Outcome, ...]:
        """The members that exist for this caller and are not as they should be."""
        found = []
        for server in self.members(viewer):
            status = self._status(self.state.catalogs.get(server.id), now_unix)
            if status:
                catalog = self.state.catalogs.get(server.id)
                found.append(Outcome(mcp_server_id=server.id, status=status, read_at_unix=catalog.read_at_unix if catalog else 0.0))
        return tuple(found)

    def _status(self, catalog: ServerCatalog | None, now_unix: float) -> str:
        if catalog is None or not catalog.read_at_unix:
            return "unavailable"
        if not catalog.fault:
            return ""
        return "stale" if now_unix - catalog.read_at_unix <= self.virtual_server.stale_seconds else "unavailable"

    def shown(self, kind: DefinitionKind, viewer: Viewer, outcomes: Iterable[Outcome]) -> list[Exposed]:
        """What the caller is listed, without what is of members that cannot be had."""
        away = _away(outcomes)
        documents = self.documents.of(kind)
        return [e for e in self.exposed(kind, viewer) if e.name in documents and e.mcp_server_id not in away]

    def view(self, kind: DefinitionKind, viewer: Viewer, outcomes: Iterable[Outcome]) -> View:
        """What the caller is listed, as bytes."""
        return self.documents.view(kind, self.exposed(kind, viewer), _away(outcomes))


def _away(outcomes: Iterable[Outcome]) -> frozenset[str]:
    return frozenset([outcome.mcp_server_id for outcome in outcomes if outcome.status == "unavailable"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What of a front outlives its revision: nothing that would keep the revision's state alive."""

    server: McpServer | None
    virtual_server: VirtualServer
    documents: Documents


class Fronts:
    """The fronts of one revision, made when they are first asked for; what did not change since `previous` is taken over."""

    def __init__(self, state: AggregatorState, previous: Fronts | None = None) -> None:
        self.state = state
        self._made: dict[tuple[bool, str], Front] = {}
        self._kept = previous.kept() if previous is not None else {}

    def kept(self) -> dict[tuple[bool, str], _Kept]:
        """What a later revision may take over: of fronts that still exist."""
        exist = {True: self.state.authorization.virtual_servers, False: self.state.authorization.mcp_servers}
        return {key: kept for key, kept in self._kept.items() if key[1] in exist[key[0]]}

    def virtual(self, front_id: str) -> Front | None:
        """The virtual server of this id."""
        known = self._made.get((True, front_id))
        virtual_server = self.state.authorization.virtual_servers.get(front_id)
        if known is not None or virtual_server is None:
            return known
        return self._make(None, virtual_server)

    def single(self, front_id: str) -> Front | None:
        """The MCP server of this id, seen as a virtual server of itself."""
        known = self._made.get((False, front_id))
        server = self.state.authorization.mcp_servers.get(front_id)
        if known is not None or server is None:
            return known
        before = self._kept.get((False, front_id))
        if before is not None and before.server is server and before.documents.are_of(before.virtual_server, self.state.catalogs):
            return self._make(server, before.virtual_server)
        return self._make(server, single(server, _names(server, self.state.catalogs.get(front_id))))

    def _make(self, server: McpServer | None, virtual_server: VirtualServer) -> Front:
        key = (server is None, virtual_server.id)
        before = self._kept.get(key)
        same = before is not None and before.documents.are_of(virtual_server, self.state.catalogs)
        documents = before.documents if before is not None and same else Documents(virtual_server, self.state.catalogs)
        self._kept[key] = _Kept(server=server, virtual_server=virtual_server, documents=documents)
        front = self._made[key] = Front(state=self.state, virtual_server=virtual_server, is_virtual=server is None, documents=documents)
        return front


def _names(server: McpServer, catalog: ServerCatalog | None) -> Mapping[DefinitionKind, Iterable[str]]:
    """What a single server offers, in its own order. Tools that authorizers do not know are not offered: their calls are denied."""
    if catalog is None:
        return {}
    names: dict[DefinitionKind, Iterable[str]] = dict(catalog.definitions)
    names[DefinitionKind.TOOL] = [name for name in catalog.definitions[DefinitionKind.TOOL] if name in server.tools]
    return names

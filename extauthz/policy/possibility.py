"""What of a server a principal could use at all, whatever the arguments: the question of lists, for many names at once.

    which policies' scope matches     the same for all tools of one effect, but for policies that name a tool: `grants`
    conditions on the caller          asked of Cedar now: they hold for every call, or for none
    conditions on arguments           nobody knows yet: such a permit could match, such a forbid could not
    forbid wins, an error denies, no match denies

So whatever `evaluate` allows for some arguments is possible, and without conditions on arguments the two are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from extauthz.catalog.server import Effect, McpServer
from extauthz.catalog.virtual import DefinitionKind
from extauthz.identity.principal import Principal
from extauthz.policy.compiled import CompiledPolicy
from extauthz.policy.entities import PrincipalView, ResourceView, view_of
from extauthz.policy.grants import PolicyIndex
from extauthz.policy.model import Action, AuthorizationRequest, Caller, Possible, ResourceKind
from extauthz.policy.schema import is_text
from extauthz.policy.slices import Slices

_USE_OF: Final = {
    DefinitionKind.TOOL: (Action.TOOLS_CALL, Action.TOOLS_LIST, ResourceKind.TOOL),
    DefinitionKind.PROMPT: (Action.PROMPTS_GET, Action.PROMPTS_LIST, ResourceKind.PROMPT),
    DefinitionKind.RESOURCE: (Action.RESOURCES_READ, Action.RESOURCES_LIST, ResourceKind.MCP_RESOURCE),
    DefinitionKind.RESOURCE_TEMPLATE: (Action.RESOURCES_READ, Action.RESOURCES_LIST, ResourceKind.MCP_RESOURCE),
}
_OWN_KEYS: Final = slice(2, 4)  # of `ResourceView.keys`: those that name exactly this resource

Said = tuple[bool, bool]
"""What policies say together: something permits, and something forbids or failed."""

_MAX_KEPT: Final = 4096


class Sayings:
    """What policies have said that do not speak of the resource: the same for every server and tool that they are about. Bounded."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Said] = {}

    def get(self, key: Hashable) -> Said | None:
        """What was kept, or None."""
        return self._kept.get(key)

    def put(self, key: Hashable, said: Said) -> None:
        """Keep it; when there is too much, nothing of before."""
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        self._kept[key] = said


class Possibility:
    """One principal on one server, asked about many names. Lives for one question: it remembers what it was told on the way."""

    def __init__(
        self,
        indexes: Sequence[PolicyIndex],
        slices: Slices,
        sayings: Sayings,
        principal: Principal,
        view: PrincipalView,
        mcp_server: McpServer,
        caller: Caller,
    ) -> None:
        self._indexes = indexes
        self._slices = slices
        self._sayings = sayings
        self._principal = principal
        self._view = view
        self._mcp_server = mcp_server
        self._caller = caller
        self._read: set[str] = set()
        self._common: dict[Effect | None, tuple[CompiledPolicy, ...]] = {}

    def of(self, kind: DefinitionKind, names: Iterable[str]) -> Possible:
        """Those of the names that some call could be allowed for. May raise for what a token or a client made up."""
        if not is_text((self._principal.id, *self._principal.groups)):
            return Possible()
        action, list_action, resource_kind = _USE_OF[kind]
        texts = [name for name in names if name.isascii() or is_text((name,))]
        if kind is DefinitionKind.RESOURCE_TEMPLATE:
            possible = frozenset(name for name in texts if self._for_any_uri(action, resource_kind, name))
        else:
            possible = frozenset(self._of_these(action, resource_kind, texts))
        server = view_of(ResourceKind.MCP_SERVER, self._mcp_server, "")
        _, stopped = self._say(list_action, self._matching(list_action, server), server, _never)
        return Possible(names=possible, unlisted=stopped, caller=frozenset(self._read))

    def _of_these(self, action: Action, resource_kind: ResourceKind, names: Iterable[str]) -> Iterator[str]:
        """Tools, prompts or URIs. All of one effect have one answer, but for those that a policy names, and conditions on the name."""
        tools = self._mcp_server.tools if resource_kind is ResourceKind.TOOL else None
        named: frozenset[str] = frozenset().union(*(i.named_in(resource_kind.value, self._mcp_server.id) for i in self._indexes))
        answers: dict[Effect | None, bool | None] = {}
        effect = None
        for name in names:
            if tools is not None:
                tool = tools.get(name)
                if tool is None:
                    continue
                effect = tool.effect
            answer = None
            if name not in named:
                if effect not in answers:
                    answers[effect] = self._for_unnamed(action, resource_kind, name, effect)
                answer = answers[effect]
            if answer or (answer is None and self._for_one(action, resource_kind, name, effect)):
                yield name

    def _for_unnamed(self, action: Action, resource_kind: ResourceKind, name: str, effect: Effect | None) -> bool | None:
        """The answer for everything of this effect that no policy names; None when each has its own."""
        resource = view_of(resource_kind, self._mcp_server, name)
        common = self._matching(action, replace(resource, keys=(*resource.keys[: _OWN_KEYS.start], *resource.keys[_OWN_KEYS.stop :])))
        self._common[effect] = common
        if any(policy.parsed.reads_resource for policy in common if policy.parsed.conditional):
            return None
        return self._for_one(action, resource_kind, name, effect)

    def _for_one(self, action: Action, resource_kind: ResourceKind, name: str, effect: Effect | None) -> bool:
        """Whether this tool, prompt or URI could be used. Arguments exist for tools only; for the rest every condition is asked."""
        resource = view_of(resource_kind, self._mcp_server, name)
        if effect in self._common:
            matching = self._common[effect] + self._matching(action, replace(resource, keys=resource.keys[_OWN_KEYS]))
        else:
            matching = self._matching(action, resource)
        permitted, stopped = self._say(action, matching, resource, _reads_arguments if action is Action.TOOLS_CALL else _never)
        return permitted and not stopped

    def _for_any_uri(self, action: Action, resource_kind: ResourceKind, template: str) -> bool:
        """Whether some URI that no policy names could be read: conditions on the URI itself are not known yet either."""
        resource = view_of(resource_kind, self._mcp_server, template)
        keys = (*resource.keys[: _OWN_KEYS.start], *resource.keys[_OWN_KEYS.stop :])
        permitted, stopped = self._say(action, self._matching(action, replace(resource, keys=keys)), resource, _reads_uri)
        return permitted and not stopped

    def _matching(self, action: Action, resource: ResourceView) -> tuple[CompiledPolicy, ...]:
        return tuple(policy for index in self._indexes for policy in index.matching(self._view, action, resource))

    def _say(
        self, action: Action, matching: Sequence[CompiledPolicy], resource: ResourceView, is_open: Callable[[CompiledPolicy], bool]
    ) -> Said:
        """What these policies say of this resource, `is_open` ones in favour of the principal."""
        unconditional = [policy for policy in matching if not policy.parsed.conditional]
        if any(not policy.parsed.permit for policy in unconditional):
            return False, True
        conditional = [policy for policy in matching if policy.parsed.conditional]
        closed = tuple(policy for policy in conditional if not is_open(policy))
        permitted = bool(unconditional) or any(policy.parsed.permit for policy in conditional if is_open(policy))
        if not closed:
            return permitted, False
        permitted_too, stopped = self._say_closed(action, closed, resource)
        return permitted or permitted_too, stopped

    def _say_closed(self, action: Action, closed: tuple[CompiledPolicy, ...], resource: ResourceView) -> Said:
        """What Cedar says of policies whose conditions are known already."""
        read = sorted({fact for policy in closed for fact in policy.parsed.reads.caller})
        self._read.update(read)
        key = None
        if not any(policy.parsed.reads_resource for policy in closed):
            facts = tuple(self._caller.now_unix if fact == "now" else getattr(self._caller, fact) for fact in read)
            key = (self._view, action, closed, facts)
            known = self._sayings.get(key)
            if known is not None:
                return known
        request = AuthorizationRequest(
            principal=self._principal,
            action=action,
            resource_kind=ResourceKind(resource.kind),
            mcp_server=self._mcp_server,
            name=resource.name,
            caller=self._caller,
        )
        result = self._slices.evaluate(closed, request, self._view, resource)
        said = (
            any(policy.parsed.permit for policy in result.satisfied),
            bool(result.errors) or any(not policy.parsed.permit for policy in result.satisfied),
        )
        if key is not None:
            self._sayings.put(key, said)
        return said


def _never(_policy: CompiledPolicy) -> bool:
    return False


def _reads_arguments(policy: CompiledPolicy) -> bool:
    reads = policy.parsed.reads
    return reads.whole_arguments or bool(reads.arguments)


def _reads_uri(policy: CompiledPolicy) -> bool:
    parsed = policy.parsed
    named = any(entity_type == ResourceKind.MCP_RESOURCE.value for entity_type, _ in parsed.entities)
    return named or any(variable == "resource" for variable, _ in parsed.attributes)

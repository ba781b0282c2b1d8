"""Presets of a PolicySet as the Cedar policies that they stand for: the one place that says what each of them means.

Everybody else sees Cedar only: the checks of `apply`, the authorizers, plain Cedar. What a preset lets through depends on the effect of
a tool, which comes from annotations that an operator accepted, never from what a server says of itself later.

| preset | permits | forbids, whatever else is permitted |
|---|---|---|
| `read-only` | tools that read, prompts, resources, lists | calls of tools that write or destroy; answers to tasks and ends of them |
| `read-write` | tools that read or write, prompts, resources, lists | calls of tools that destroy |
| `full` | everything, tasks too | nothing |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from controlplane.registry.spec import SYSTEM_NAMESPACE, PolicyPresetSpec, PolicySetSpec

_MAX_ID_CHARACTERS: Final = 200
_ALL_SERVERS: Final = "ALL"
"""In ids, for a preset that names no servers; no server is called so."""

_USE: Final = (
    *("server/connect", "tools/call", "tools/list", "prompts/get", "prompts/list", "resources/read", "resources/list"),
)  # all but tasks, which may be anybody's and need a permit of their own
_NOT_READING: Final = 'resource in [Effect::"write", Effect::"destructive"]'
_DESTROYING: Final = 'resource in Effect::"destructive"'

_RULES: Final[Mapping[str, tuple[tuple[str, tuple[str, ...], str], ...]]] = MappingProxyType(
    {
        "read-only": (
            ("permit", _USE, f"unless {{ {_NOT_READING} }}"),
            ("forbid", ("tools/call", "tasks/update", "tasks/cancel"), 'unless { resource in Effect::"read" }'),
        ),
        "read-write": (
            ("permit", _USE, f"unless {{ {_DESTROYING} }}"),
            ("forbid", ("tools/call",), f"when {{ {_DESTROYING} }}"),
        ),
        "full": (("permit", (), ""),),
    }
)
"""By preset: effect, actions (none: every one) and condition of each policy, for one role on one server."""


def cedar_of(namespace: str, name: str, spec: PolicySetSpec) -> str:
    """Everything that the PolicySet says: its own text, then its presets, so that policies without an `@id` keep their numbers."""
    presets = cedar_of_presets(namespace, name, spec)
    return "\n\n".join(part for part in (spec.cedar, presets) if part)


def cedar_of_presets(namespace: str, name: str, spec: PolicySetSpec) -> str:
    """What its presets stand for, empty without any."""
    return "\n\n".join(text for _, _, text in _policies(namespace, name, spec))


def presets_by_id(namespace: str, name: str, spec: PolicySetSpec) -> dict[str, int]:
    """Which preset each policy of `cedar_of_presets` comes from, by the id that decisions call it (`namespace/@id`)."""
    return {f"{namespace}/{policy_id}": index for index, policy_id, _ in _policies(namespace, name, spec)}


def _policies(namespace: str, name: str, spec: PolicySetSpec) -> Iterator[tuple[int, str, str]]:
    """The number of the preset, the `@id` and the text of each policy."""
    for index, preset in enumerate(spec.presets):
        for role in preset.roles:
            for server in preset.servers or ("",):
                yield from ((index, *policy) for policy in _of_combination(namespace, name, preset, role, server))


def _of_combination(namespace: str, name: str, preset: PolicyPresetSpec, role: str, server: str) -> Iterator[tuple[str, str]]:
    principal = f'principal in Role::"{_qualified(namespace, role)}"'
    if server:
        resource = f'resource in McpServer::"{_qualified(namespace, server)}"'
    else:
        resource = "resource" if namespace == SYSTEM_NAMESPACE else f'resource in Namespace::"{namespace}"'
    for effect, actions, condition in _RULES[preset.preset]:
        policy_id = _bounded(f"{name}:{preset.preset}:{role}:{server or _ALL_SERVERS}:{effect}")
        named = ", ".join(f'Action::"{one}"' for one in actions)
        action = f"action in [{named}]" if actions else "action"
        scope = f"{effect} (\n  {principal},\n  {action},\n  {resource}\n)"
        yield policy_id, f'@id("{policy_id}")\n{scope}\n{condition};' if condition else f'@id("{policy_id}")\n{scope};'


def _qualified(namespace: str, name: str) -> str:
    return name if "/" in name else f"{namespace}/{name}"


def _bounded(policy_id: str) -> str:
    """Ids have a limit; of one that is beyond it the end is a digest of the whole."""
    if len(policy_id) <= _MAX_ID_CHARACTERS:
        return policy_id
    digest = hashlib.sha256(policy_id.encode()).hexdigest()[:16]
    return f"{policy_id[: _MAX_ID_CHARACTERS - 17]}-{digest}"

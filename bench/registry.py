"""Registry documents of the benchmark."""

from __future__ import annotations

from collections.abc import Iterable

from tests.e2e.stack import Stack

NAMESPACE = "bench"
SERVER = f"{NAMESPACE}/light"
CALLER = "loader"
ACCESS = f"""
apiVersion: legation/v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
spec: {{}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: {NAMESPACE}, name: loaders}}
spec:
  role: loader
  subjects: [{{kind: User, name: local/{CALLER}}}]
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: {NAMESPACE}, name: everything}}
spec:
  cedar: |
    permit (principal in Role::"{NAMESPACE}/loader", action, resource in Namespace::"{NAMESPACE}");
"""


def server_document(name: str, port: int) -> str:
    """One MCP server at a port of the loopback."""
    endpoint = f'{{url: "http://127.0.0.1:{port}/mcp"}}'
    return (
        f"apiVersion: legation/v1\nkind: McpServer\nmetadata: {{namespace: {NAMESPACE}, name: {name}}}\nspec: {{endpoints: [{endpoint}]}}\n"
    )


def documents(parts: Iterable[str]) -> str:
    """One YAML stream."""
    return "---\n".join(parts)


async def prepare(stack: Stack, *, port: int) -> None:
    """Register and accept the server that is called."""
    await stack.apply(documents([ACCESS, server_document("light", port)]))
    await stack.accept(SERVER)

"""What is registered for the suite: a server per flavour, a small one, one that the caller cannot see, and who may do what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.attacks.upstreams.recorder import Recorder

NAMESPACE = "attack"
SMALL_BODY_BYTES = 2048
USUAL_BODY_BYTES = 256 * 1024

_ROLE = 'principal in Role::"attack/caller"'
_BINDING = """---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: attack, name: callers}
spec: {role: caller, subjects: [{kind: User, name: local/caller}, {kind: User, name: local/colleague}]}
"""
_POLICY_SET = """
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: attack, name: rules}
spec:
  cedar: |
"""


def registry(upstreams: Mapping[str, Recorder], credential: str) -> str:
    """Namespaces, servers, and the role of the caller. `credential` is what the gateway says to every upstream."""
    namespaces = [
        f"---\napiVersion: legation/v1\nkind: Namespace\nmetadata: {{name: {name}}}\nspec: {{}}\n" for name in (NAMESPACE, "hidden")
    ]
    python = upstreams["python"].port
    servers = [_server(NAMESPACE, name, recorder.port, credential) for name, recorder in upstreams.items()]
    servers.append(_server(NAMESPACE, "small", python, credential) + f"  maxBodyBytes: {SMALL_BODY_BYTES}\n")
    servers.append(_server("hidden", "python", python, credential))
    return "".join((*namespaces, *servers, _BINDING))


def _server(namespace: str, name: str, port: int, credential: str) -> str:
    return f"""---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: {namespace}, name: {name}}}
spec:
  endpoints: [{{url: "http://127.0.0.1:{port}/mcp"}}]
  credential: {{staticHeader: {{header: x-upstream-key, prefix: "", secret: {{value: "{credential}"}}}}}}
"""


def policies(servers: Iterable[str]) -> str:
    """What the caller may do on each server (`World` says it in words)."""
    lists = 'Action::"tools/list", Action::"prompts/list", Action::"resources/list"'
    rules = [f'permit ({_ROLE}, action in [{lists}], resource in Namespace::"{NAMESPACE}");']
    for name in servers:
        rules += _rules(name)
    return _POLICY_SET + "".join(f'    @id("rule-{number}")\n    {rule}\n' for number, rule in enumerate(rules))


def _rules(server: str) -> list[str]:
    base = f"{NAMESPACE}/{server}"

    def permit(action: str, resource: str, when: str = "") -> str:
        return f'permit ({_ROLE}, action == Action::"{action}", resource == {resource}){when};'

    rules = [permit("tools/call", f'Tool::"{base}/{tool}"') for tool in ("safe", "barred")]
    rules += [
        f'forbid (principal, action == Action::"tools/call", resource == Tool::"{base}/barred");',
        permit("tools/call", f'Tool::"{base}/weigh"', " when { context.arguments has amount && context.arguments.amount <= 100 }"),
        permit("prompts/get", f'Prompt::"{base}/greet"'),
        permit("resources/read", f'McpResource::"{base}/test://open"'),
    ]
    if server != "sdk":  # which has plain names only, and no headers for arguments
        rules.append(permit("tools/call", f'Tool::"{base}/mirrored"'))
        rules.append(permit("prompts/get", f'Prompt::"{base}/grüße"'))
        rules += [permit("resources/read", f'McpResource::"{base}/{uri}"') for uri in ("test://ä", "test://%C3%A4")]  # one is the other
        rules.append(permit("resources/read", f'McpResource::"{base}/test://%C3%A4"'))  # decided in both forms
    return rules

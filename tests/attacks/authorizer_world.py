"""A real Envoy and a real authorizer process behind a control plane of the test's own, so that a test can break any of them.

    async with authorizer_world(tmp_path) as world:
        answer = await world.call()

One MCP server `demo/crm` with the tool `echo`, a recorder in front of it, one identity provider `acme` with its keys in the
registry, and the user `ann`, who may call it. `extauthz` runs as `legation up` starts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from controlplane.registry.spec import IdentityProviderSpec, PolicySetSpec, RoleBindingSpec
from controlplane.registry.state import Definition, Entry, RegistryState
from controlplane.supervisor import plan
from tests.attacks.upstreams.recorder import Recorder, recording
from tests.attacks.wire import RawAnswer, request_bytes, send_raw
from tests.e2e.envoy_world import KEY, EnvoyWorld, envoy_world, server_entry, state_of
from tests.e2e.light_upstream import light_upstream, tool
from tests.e2e.stack import ROOT, eventually
from tests.issuer import SigningKey, key_set
from tests.wal import written_records

ISSUER = "https://acme.example"
PERMIT = 'permit (principal in Role::"demo/caller", action, resource in Namespace::"demo");'
CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"}}}'
PATH = "/servers/demo/crm/mcp"
_OTHERS = frozenset({"alarm", "edge_rejected", "outcome"})
"""Events that are no decisions."""


ECHO = tool("echo", annotations={"readOnlyHint": True}, text="string", amount="integer")


def _named(entry: Entry[Any]) -> dict[str, Entry[Any]]:
    return {entry.id: entry}


@dataclass(kw_only=True)
class AuthorizerWorld:
    """The running parts, and what a test does to them."""

    envoy: EnvoyWorld
    recorder: Recorder
    key: SigningKey
    state: RegistryState
    environ: Mapping[str, str]
    log_file: Path
    process: asyncio.subprocess.Process | None = None
    started_at_ns: int = 0
    base: RegistryState | None = None
    usual: bool = True

    # the authorizer process

    async def start(self, *, environ: Mapping[str, str] | None = None) -> None:
        """Start the authorizer; it need not be able to decide."""
        self.usual = environ is None
        self.started_at_ns = time.time_ns()
        with self.log_file.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "extauthz", env={**self.environ, **(environ or {})}, cwd=ROOT, stdout=log, stderr=log
            )

    async def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
            self.process = None

    def node(self) -> dict[str, Any]:
        """What the control plane says about it."""
        (found,) = (node for node in self.envoy.rollout.nodes() if node["id"] == "authorizer")
        return found

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    async def restart(self, *, cached: bool = True, environ: Mapping[str, str] | None = None) -> None:
        """Kill it and start it again, with or without its last good copy of the registry."""
        await self.kill()
        if not cached:
            self.last_good.unlink(missing_ok=True)
        await self.start(environ=environ)

    @property
    def last_good(self) -> Path:
        """Its copy of the registry on disk."""
        return self.envoy.deployment.cache_dir / "authorizer.json"

    # the control plane

    @contextlib.asynccontextmanager
    async def without_control_plane(self) -> AsyncIterator[None]:
        """Nobody serves discovery while the block runs."""
        await self.envoy.control_plane.stop()
        try:
            yield
        finally:
            await self.envoy.control_plane.start()

    async def heal(self) -> None:
        """As it was at first, and serving, for the next test."""
        if self.base is not None and replace(self.state, revision=1) != self.base:
            self.commit(**{name: getattr(self.base, name) for name in ("mcp_servers", "policy_sets", "definitions")})
        if self.process is None or not self.usual:
            await self.restart()
        await eventually(self.serving, what="a call")

    def commit(self, **changes: Any) -> None:
        """A new revision with these parts of the registry changed."""
        self.state = replace(self.state, revision=self.state.revision + 1, **changes)
        self.envoy.source.commit(self.state)

    def policy(self, cedar: str) -> dict[str, Entry[PolicySetSpec]]:
        """The one policy set, as `commit(policy_sets=...)` takes it: nobody has checked it."""
        spec = PolicySetSpec(cedar=cedar)
        return _named(Entry(uid="uid-rules", namespace="demo", name="rules", spec=spec, resource_revision=self.state.revision + 1))

    # calls

    def token(self, **changes: Any) -> str:
        """A token of ann's for the server."""
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": "ann", "aud": f"http://127.0.0.1:{self.envoy.port}{PATH}", "iat": now, "exp": now + 900, **changes}
        return self.key.sign(claims)

    def request(self, body: bytes = CALL, *, length: int | None = None, token: str = "") -> bytes:
        """An honest call of a legacy client; `length` is what it claims."""
        headers = [
            ("host", f"127.0.0.1:{self.envoy.port}"),
            ("authorization", f"Bearer {token or self.token()}"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("content-length", str(len(body) if length is None else length)),
        ]
        return request_bytes("POST", PATH, headers, body)

    async def call(self, body: bytes = CALL, *, token: str = "") -> RawAnswer:
        """Send it on a new connection."""
        return await send_raw(self.envoy.port, self.request(body, token=token), seconds=60)

    async def serving(self) -> bool:
        """Whether calls pass."""
        return (await self.call()).status == 200

    async def answered(self, reason: str) -> RawAnswer:
        """The first answer with this reason, once it comes; nothing but refusals may come before it."""
        found: list[RawAnswer] = []

        async def there() -> bool:
            found[:] = [await self.call()]
            assert found[0].status != 200, "a call passed"
            return reason_of(found[0]) == reason

        await eventually(there, what=f"the answer {reason}")
        return found[0]

    # what is left of a call

    def upstream(self) -> tuple[int, int]:
        """Connections and bytes that reached the MCP server."""
        return self.recorder.connections, self.recorder.received_bytes

    def records(self) -> list[dict[str, Any]]:
        """The records of all decisions so far, oldest first."""
        return [record for record in written_records(self.envoy.deployment.audit_dir, KEY) if record["event"] not in _OTHERS]

    def record_of(self, answer: RawAnswer) -> dict[str, Any]:
        """The record of the decision that an answer names; there is exactly one."""
        (found,) = (record for record in self.records() if record["decision_id"] == answer.error["data"]["decision_id"])
        return found


def reason_of(answer: RawAnswer) -> str:
    """The reason of a JSON-RPC error."""
    return str(answer.error["data"]["reason"])


@contextlib.contextmanager
def limited(pid: int, kind: int, soft: int) -> Iterator[None]:
    """A process under a resource limit (prlimit(2)) while the block runs."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def first_free_handle(pid: int) -> int:
    """The lowest file handle that a process does not use: with this limit on their number it gets no other."""
    used = {int(handle.name) for handle in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(used) + 1) if number not in used)


@contextlib.asynccontextmanager
async def authorizer_world(
    directory: Path, *, environ: Mapping[str, str] | None = None, provider: Mapping[str, Any] | None = None, **spec: Any
) -> AsyncIterator[AuthorizerWorld]:
    """Everything running and serving. `provider` replaces the identity provider's keys, `spec` adds to the server's."""
    key = SigningKey("acme", "EdDSA")
    timeout_ms = int((environ or {}).get("LEGATION_CHECK_TIMEOUT_MS", "15000"))
    async with light_upstream([ECHO]) as upstream, recording("crm", upstream.port) as recorder:
        state = _registry(recorder.port, key, provider, spec)
        async with envoy_world(directory, state, check_timeout_ms=timeout_ms) as envoy:
            await envoy.stop_authorizer()  # the one that says what a test wants
            settings = plan.settings_of(envoy.deployment, envoy.port, {"LEGATION_CHECK_TIMEOUT_MS": str(timeout_ms), **(environ or {})})
            world = AuthorizerWorld(
                envoy=envoy,
                recorder=recorder,
                key=key,
                state=state,
                base=state,
                environ=plan.child_environ(os.environ, settings),
                log_file=directory / "extauthz.log",
            )
            await world.start()
            try:
                yield world
            finally:
                if world.process is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(world.pid, signal.SIGCONT)
                    await world.kill()


def _registry(port: int, key: SigningKey, provider: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> RegistryState:
    server = server_entry("crm", f"http://127.0.0.1:{port}/mcp", **spec)
    keys = provider if provider is not None else {"jwks": json.loads(key_set(key))}
    issuer = IdentityProviderSpec.model_validate({"issuer": ISSUER, **keys})
    callers = RoleBindingSpec.model_validate({"role": "caller", "subjects": [{"kind": "User", "name": "acme/ann"}]})
    policies = PolicySetSpec(cedar=PERMIT)
    return replace(
        state_of(1, server),
        identity_providers={"system/acme": Entry(uid="uid-acme", namespace="system", name="acme", spec=issuer, resource_revision=1)},
        role_bindings=_named(Entry(uid="uid-callers", namespace="demo", name="callers", spec=callers, resource_revision=1)),
        policy_sets=_named(Entry(uid="uid-rules", namespace="demo", name="rules", spec=policies, resource_revision=1)),
        definitions={server.uid: (Definition(kind="tool", name="echo", digest="sha256:echo", document=ECHO, accepted=ECHO),)},
    )

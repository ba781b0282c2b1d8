"""The tour of `legation up --demo`: six steps through a running gateway, each with what it proves and what it measured.

Runs in a process that is forked from the samples (`guide`), once the gateway is ready. The agent uses the official SDK's client,
the operator the API: nothing here knows the inside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.cli.rollout import rollout_sentence, wait_until_programmed
from controlplane.cli.terminal import say
from controlplane.client import ApiClient, ApiError, JsonObject, entry_path
from controlplane.command_line import data_dir_flag, typed_command
from controlplane.demo.step import Step, show, show_document
from controlplane.demo.visitor import BareAnswer, Visitor, milliseconds_since
from controlplane.development_issuer import mint_token
from extauthz.errors import LegationError
from extauthz.runtime import Deployment, deployment_of

CRM, DATABASE, ALIAS = "demo/crm", "demo/engineering-db", "demo/crm-eu"
CONTACT = "c-1005"
_REGISTRY = Path(__file__).with_name("registry.yaml")
_DEFAULT_PORTS = {"crm": 9101, "engineering-db": 9102}
_PATIENCE_SECONDS = 15.0
_CLEANUP = f"""\
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: demo, name: cleanup-week}}
spec:
  description: For one week, marketing may delete contacts.
  cedar: |
    @id("marketing-deletes-contacts-this-week")
    permit (principal in Role::"demo/marketing", action == Action::"tools/call", resource == Tool::"{CRM}/delete_contact");
"""


@dataclass(kw_only=True)
class Tour:
    """A walk through one deployment. `decisions` are those the tour caused, in order."""

    deployment: Deployment
    gateway_url: str
    ports: Mapping[str, int]
    api: ApiClient
    decisions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.agent = Visitor(deployment=self.deployment, gateway_url=self.gateway_url, subject="marketing-agent", groups=("marketing",))

    async def steps(self) -> AsyncIterator[Step]:
        """The steps, one after the other; a step that raises is a step that did not hold."""
        for walk in (self._register, self._allowed, self._denied, self._unauthenticated, self._edit_policy, self._edit_server, self._audit):
            step = Step(title="", proves="")
            try:
                await walk(step)
            except (LegationError, OSError, LookupError, TypeError, ValueError) as error:
                step.expect(False, "the step to go through", f"{type(error).__name__}: {error}")
            yield step

    async def _register(self, step: Step) -> None:
        step.title = "The registry: two MCP servers, read by the prober, reviewed by an operator"
        step.proves = "tools count only as what an operator accepted them to be"
        started = time.perf_counter()
        answer = self.api.post("/v1/apply", self._documents(), content_type="application/yaml")
        changed = [r for r in answer["results"] if r["action"] != "unchanged"]
        step.saw(f"applied {len(answer['results'])} documents, {len(changed)} of them changed: revision {answer['revision']}")
        revision = int(answer["revision"])
        for server in (CRM, DATABASE):
            catalog = self._read_catalog(server)
            path = entry_path("mcp-servers", *server.split("/"))
            accepted = self.api.post(f"{path}/accept", {"digest": catalog["digest"]} if catalog.get("digest") else {})
            revision = max(revision, int(accepted["revision"]))
            effects = ", ".join(f"{tool['name']} ({tool['effect']})" for tool in accepted["accepted"])
            step.saw(f"{server}: {effects}")
            step.expect(bool(accepted["accepted"]), f"tools of {server}", accepted)
        self._say_programmed(step, revision)
        step.measured_ms["registered, read, accepted and programmed in"] = milliseconds_since(started)

    async def _allowed(self, step: Step) -> None:
        step.title = f"marketing-agent calls update_contact of {CRM}, with the official MCP client"
        step.proves = "a permitted call reaches the MCP server, with the real answer"
        started = time.perf_counter()
        exchange = await self.agent.call(CRM, "update_contact", {"contact_id": CONTACT, "stage": "trial"})
        step.measured_ms["connect, negotiate and call"] = milliseconds_since(started)
        self.decisions.append(exchange.decision_id)
        content = (exchange.result or {}).get("structuredContent") or {}
        step.saw(
            f"allowed, decision {exchange.decision_id}: {content.get('name')} of {content.get('company')} is now {content.get('stage')!r}"
        )
        step.expect(content.get("stage") == "trial", "the updated contact", exchange.error or exchange.result)

    async def _denied(self, step: Step) -> None:
        step.title = f"the same agent calls query of {DATABASE}"
        step.proves = "a forbidden call is stopped at the gateway; the agent hears a sentence, the operator the policy"
        exchange = await self.agent.call(DATABASE, "query", {"sql": "SELECT * FROM incidents"})
        details = exchange.error.get("data")
        told = details if isinstance(details, dict) else {}
        decision_id = str(told.get("decision_id") or exchange.decision_id)
        self.decisions.append(decision_id)
        step.saw(f"the agent is told: {exchange.error.get('message')} (reason {told.get('reason')}, HTTP {exchange.status})")
        step.expect(
            told.get("reason") == "forbidden_by_policy", "a denial with reason forbidden_by_policy", exchange.error or exchange.result
        )
        record = self._record(decision_id)
        policies = ", ".join(record.get("determining_policies") or [])
        step.saw(f"the operator reads in decision {decision_id}: decided by {policies}")
        step.expect("demo/engineering-data-is-for-engineers" in policies, "the forbid as determining policy", record)
        explained = self.api.post("/v1/explain", _question(DATABASE, "query"))
        step.saw(f"explain says: {explained.get('sentence')}")
        step.expect(explained.get("decision") == "deny", "explain to agree", explained)

    async def _unauthenticated(self, step: Step) -> None:
        step.title = f"somebody calls {CRM} without an access token"
        step.proves = "nobody unknown gets past the gateway, and clients learn where tokens come from"
        answer = self.agent.request(CRM, "tools/list", with_token=False)
        self.decisions.append(answer.decision_id)
        challenge = answer.headers.get("www-authenticate", "")
        step.saw(f"HTTP {answer.status}, WWW-Authenticate: {challenge}")
        step.expect(answer.status == 401 and challenge.startswith("Bearer"), "401 with a Bearer challenge", answer)

    async def _edit_policy(self, step: Step) -> None:
        step.title = "an operator edits a policy: for a week, marketing may delete contacts"
        step.proves = "a policy edit decides the very next calls, and is gone as fast"
        self._remove("policy-sets", "demo", "cleanup-week")
        before = self.agent.call_bare(CRM, "delete_contact", {"contact_id": CONTACT})
        self.decisions.append(before.decision_id)
        step.expect(before.reason == "no_matching_permit", "a denial before the edit", before)
        started = time.perf_counter()
        answer = self.api.post("/v1/apply", _CLEANUP.encode(), content_type="application/yaml")
        allowed = self._until(lambda: self.agent.call_bare(CRM, "delete_contact", {"contact_id": CONTACT}), lambda a: "result" in a.message)
        step.measured_ms["from the edit to the first call that it allows"] = milliseconds_since(started)
        self.decisions.append(allowed.decision_id)
        self._say_programmed(step, int(answer["revision"]))
        started = time.perf_counter()
        self._remove("policy-sets", "demo", "cleanup-week")
        denied = self._until(lambda: self.agent.call_bare(CRM, "delete_contact", {"contact_id": CONTACT}), lambda a: "error" in a.message)
        step.measured_ms["from the removal to the first call that is denied again"] = milliseconds_since(started)
        self.decisions.append(denied.decision_id)

    async def _edit_server(self, step: Step) -> None:
        step.title = f"an operator registers a third MCP server, {ALIAS}, and removes it"
        step.proves = "Envoy routes to a new server without a restart, and a removed one does not exist any more"
        self._remove("mcp-servers", *ALIAS.split("/"))
        spec = {"description": "An alias of the crm.", "endpoints": [{"url": f"http://127.0.0.1:{self.ports['crm']}/mcp"}]}
        namespace, name = ALIAS.split("/")
        document = {"apiVersion": "legation/v1", "kind": "McpServer", "metadata": {"namespace": namespace, "name": name}, "spec": spec}
        started = time.perf_counter()
        self.api.put(entry_path("mcp-servers", namespace, name), document)
        listed = self._until(lambda: self.agent.request(ALIAS, "tools/list"), lambda a: a.status == 200)
        step.measured_ms["from the edit to the first answer through Envoy"] = milliseconds_since(started)
        self.decisions.append(listed.decision_id)
        self._say_programmed(step, int(self.api.get("/v1/status")["revision"]))
        started = time.perf_counter()
        self._remove("mcp-servers", namespace, name)
        gone = self._until(lambda: self.agent.request(ALIAS, "tools/list"), lambda a: a.status == 404)
        step.measured_ms["from the removal to the first 404"] = milliseconds_since(started)
        self.decisions.append(gone.decision_id)
        step.expect(gone.reason == "server_not_found", "the one 404 of servers that do not exist", gone)

    async def _audit(self, step: Step) -> None:
        step.title = "the audit record of these calls"
        step.proves = "every decision is on the record before it is answered"
        step.columns = ["   TIME", "DECISION", "PRINCIPAL", "SERVER", "TOOL OR METHOD", "REASON", "DECIDED BY"]
        for decision_id in self.decisions:
            record = self._record(decision_id)
            principal = record.get("principal") or {}
            decision = str(record.get("decision"))
            step.rows.append(
                [
                    "   " + str(record.get("at"))[11:23],
                    (decision, "good" if decision == "allow" else "bad"),
                    str(principal.get("id") or "-") if isinstance(principal, dict) else str(principal),
                    str(record.get("mcp_server") or "-"),
                    str(record.get("tool") or record.get("method") or "-"),
                    str(record.get("reason")),
                    ", ".join(record.get("determining_policies") or []) or "-",
                ]
            )
        step.expect(len(step.rows) == len(self.decisions) > 0, "a record for every decision", step.rows)

    # what the steps share

    def _documents(self) -> bytes:
        text = _REGISTRY.read_text()
        for name, port in self.ports.items():
            text = text.replace(f"127.0.0.1:{_DEFAULT_PORTS[name]}/", f"127.0.0.1:{port}/")
        return text.encode()

    def _read_catalog(self, server: str) -> JsonObject:
        """The definitions of a server, as soon as the prober could read it."""
        path = entry_path("mcp-servers", *server.split("/"))
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            status = self.api.get(path).get("status") or {}
            conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
            probed = conditions.get("Probed") or {}
            if probed.get("status") == "True":
                return self.api.get(f"{path}/tools")
            if time.monotonic() > deadline:
                raise LookupError(f"{server} was not read: {probed.get('message') or 'no reading yet'}")
            time.sleep(0.05)

    def _record(self, decision_id: str) -> JsonObject:
        """The audit record of one decision; records reach the control plane a moment after the answer."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for record in self.api.get("/v1/audit", {"limit": 200})["items"]:
                if record.get("decision_id") == decision_id:
                    return dict(record)
            time.sleep(0.05)
        raise LookupError(f"there is no record of decision {decision_id}")

    def _remove(self, plural: str, namespace: str, name: str) -> None:
        try:
            self.api.delete(entry_path(plural, namespace, name), if_match="*")
        except ApiError as error:
            if error.status != 404:
                raise

    def _until(self, ask: Callable[[], BareAnswer], enough: Callable[[BareAnswer], bool]) -> BareAnswer:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            answer = ask()
            if enough(answer):
                return answer
            if time.monotonic() > deadline:
                raise LookupError(f"did not happen within {_PATIENCE_SECONDS:g} s; the last answer was {answer.status} {answer.message}")
            time.sleep(0.002)

    def _say_programmed(self, step: Step, revision: int) -> None:
        rollout = wait_until_programmed(self.api, revision)
        nodes = ", ".join(str(node.get("id")) for node in rollout.get("nodes") or [])
        step.saw(f"revision {rollout_sentence(rollout)}" + (f" ({nodes})" if nodes else ""))
        step.expect(bool(rollout.get("complete")), "every node to accept the revision", rollout)


def _question(server: str, tool: str) -> dict[str, Any]:
    principal = {"as": "marketing-agent", "groups": ["marketing"], "kind": "User", "provider": "local"}
    return {"principal": principal, "server": server, "method": "tools/call", "tool": tool, "arguments": {"sql": "SELECT * FROM incidents"}}


async def run(tour: Tour, *, output: str) -> bool:
    """Walk and show; whether every step held."""
    steps: list[Step] = []
    async for step in tour.steps():
        steps.append(step)
        if output == "table":
            show(len(steps), step)
    further = {"gateway_url": tour.gateway_url, "mcp_client_configuration": client_configuration(tour.agent)}
    if output == "table":
        _say_farewell(tour)
    else:
        show_document(steps, further)
    return all(step.held for step in steps)


def client_configuration(agent: Visitor) -> dict[str, Any]:
    """What an MCP client needs to know, in the form that most of them read."""
    servers = {
        server.split("/")[1]: {
            "type": "http",
            "url": agent.endpoint(server),
            "headers": {"Authorization": "Bearer ${LEGATION_TOKEN}"},
        }
        for server in (CRM, DATABASE)
    }
    return {"mcpServers": servers}


def _say_farewell(tour: Tour) -> None:
    from controlplane.cli.terminal import json_text  # noqa: PLC0415 - beside its one use

    legation, flag = typed_command(), data_dir_flag(tour.deployment.data_dir)
    say("")
    say("Where things are", "strong")
    say(f"   gateway   {tour.gateway_url}")
    for server in (CRM, DATABASE):
        say(f"   MCP       {tour.agent.endpoint(server)}")
    say(f"   API       {tour.gateway_url}/v1   (openapi: {tour.gateway_url}/v1/openapi.json)")
    say(f"   logs      {tour.deployment.log_dir}")
    say("")
    say("A configuration for your MCP client", "strong")
    say(json_text(client_configuration(tour.agent)))
    say("")
    say("A token for it, and what else to try", "strong")
    say(f"   export LEGATION_TOKEN=$({legation} token --as marketing-agent --group marketing{flag})")
    say(f'   {legation} call demo/crm search_contacts \'{{"text": "nordvik"}}\' --as marketing-agent --group marketing{flag}')
    say(f"   {legation} explain demo/engineering-db query --as marketing-agent --group marketing{flag}")
    say(f"   {legation} status{flag}")
    say(f"   {legation} audit --follow{flag}")
    say("")


def walk(*, data_dir: str, gateway_url: str, ports: Mapping[str, int], output: str) -> int:
    """Take the tour of a deployment that is ready and show it; the exit code is 0 when every step held."""
    deployment = deployment_of(data_dir)
    credential = deployment.admin_credential_file
    with ApiClient(gateway_url, lambda: mint_token(credential, subject="admin", audience=f"{gateway_url}/v1", ttl_seconds=300)) as api:
        tour = Tour(deployment=deployment, gateway_url=gateway_url, ports=ports, api=api)
        return 0 if asyncio.run(run(tour, output=output)) else 1

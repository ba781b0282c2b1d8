"""`get`, `describe` and `history`: reading the registry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.accept import say_tools
from controlplane.cli.entry import KindArgument, id_of, locate, namespace_option, read_entry
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import Outcome
from controlplane.cli.terminal import Cell, json_text, moment_text, printable, say, say_document, say_table, yaml_text
from controlplane.client import entry_path
from controlplane.registry.kind import PLURAL_OF_KIND, Kind

if TYPE_CHECKING:
    from controlplane.client import ApiClient, JsonObject

_COMMENT = re.compile(r"//[^\n]*")
_POLICY = re.compile(r"\b(?:permit|forbid)\s*\(")


@click.command(cls=Command)
@click.argument("kind", type=KindArgument(all_allowed=True))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@namespace_option
@pass_invocation
def get(invocation: Invocation, *, kind: Kind | str, names: tuple[str, ...], namespace: str) -> int:
    """List the entries of KIND (`all`: of every kind), or print those named. `-o yaml` prints what apply takes back."""
    kinds = list(Kind) if kind == "all" else [Kind(kind)]
    if kind == "all" and names:
        raise click.UsageError("`get all` takes no name")
    with invocation.api() as api:
        found = {one: _entries(api, one, names, namespace) for one in kinds}
    items = [item for listed in found.values() for item in listed]
    if invocation.output == "json":
        say(json_text(items[0] if len(names) == 1 else {"items": items}))
    elif invocation.output == "yaml":
        say(yaml_text(items))
    else:
        for one, listed in found.items():
            _say_list(one, listed, heading=kind == "all")
    return Outcome.DONE


def _entries(api: ApiClient, kind: Kind, names: tuple[str, ...], namespace: str) -> list[JsonObject]:
    if names:
        return [read_entry(api, kind, *locate(api, kind, name, namespace)) for name in names]
    items: list[JsonObject] = api.get(entry_path(PLURAL_OF_KIND[kind], namespace))["items"]
    if kind is Kind.NAMESPACE and namespace:
        items = [item for item in items if id_of(item) == namespace]
    return items


def _say_list(kind: Kind, items: list[JsonObject], *, heading: bool) -> None:
    if not items:
        if not heading:
            click.echo(f"no {PLURAL_OF_KIND[kind]}", err=True)
        return
    if heading:
        say(f"\n{kind.value}", "strong")
    columns, row_of = _TABLES[kind]
    say_table(columns, [row_of(item) for item in items])


def _revision(item: JsonObject) -> str:
    return str((item.get("metadata") or {}).get("resourceRevision", ""))


def _probe(item: JsonObject) -> Cell:
    if (item.get("spec") or {}).get("suspended"):
        return "suspended", "doubt"
    status = item.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Probed":
            return {"True": ("yes", "good"), "False": ("no", "bad")}.get(str(condition.get("status")), ("not yet", "faint"))
    return "not yet", "faint"


def _server_row(item: JsonObject) -> list[Cell]:
    status, spec = item.get("status") or {}, item.get("spec") or {}
    endpoints = spec.get("endpoints") or [{}]
    more = f" (+{len(endpoints) - 1})" if len(endpoints) > 1 else ""
    tools = f"{status.get('acceptedTools', 0)} of {status.get('tools', 0)}"
    return [id_of(item), str(endpoints[0].get("url", "")) + more, _probe(item), str(status.get("era") or "-"), tools, _revision(item)]


def _namespace_row(item: JsonObject) -> list[Cell]:
    return [id_of(item), str((item.get("spec") or {}).get("description") or "-"), _revision(item)]


def _policy_row(item: JsonObject) -> list[Cell]:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    cedar = f"{spec.get('cedar') or ''}\n{status.get('cedar') or ''}"  # what presets stand for is in the status
    return [
        id_of(item),
        str(spec.get("description") or "-"),
        str(len(_POLICY.findall(_COMMENT.sub("", cedar)))),
        _revision(item),
    ]


def _binding_row(item: JsonObject) -> list[Cell]:
    spec = item.get("spec") or {}
    subjects = [f"{subject.get('kind')} {subject.get('name')}" for subject in spec.get("subjects") or []]
    shown = ", ".join(subjects[:4]) + (f" and {len(subjects) - 4} more" if len(subjects) > 4 else "")
    return [id_of(item), str(spec.get("role") or ""), shown, _revision(item)]


def _provider_row(item: JsonObject) -> list[Cell]:
    spec = item.get("spec") or {}
    keys = "inline" if spec.get("jwks") else str(spec.get("jwksUrl") or "by discovery")
    return [id_of(item), str(spec.get("issuer") or ""), keys, "operators" if spec.get("operatorsOnly") else "all", _revision(item)]


def _revocation_row(item: JsonObject) -> list[Cell]:
    spec = item.get("spec") or {}
    words = {"subject": "subject", "token": "token", "oauthClient": "client", "spiffeId": "workload"}
    what = next((f"{word} {spec[key]}" for key, word in words.items() if spec.get(key)), "")
    tokens = f"issued before {moment_text(spec['issuedBefore'])}" if spec.get("issuedBefore") else "all"
    until = moment_text(spec["until"]) if spec.get("until") else "-"
    return [id_of(item), what, tokens, until, str(spec.get("reason") or "-"), _revision(item)]


def _gateway_row(item: JsonObject) -> list[Cell]:
    spec = item.get("spec") or {}
    tls = spec.get("tls") or {}
    clients = (tls.get("clientCertificates") or {}).get("mode", "none")
    secured = f"{tls.get('minimumVersion', '1.3')} and up" if tls else "none"
    return [id_of(item), str(spec.get("url") or "-"), str(spec.get("listen") or "-"), secured, clients, _revision(item)]


def _trust_domain_row(item: JsonObject) -> list[Cell]:
    spec = item.get("spec") or {}
    source = next(iter(spec.get("bundle") or {}), "")
    return [id_of(item), str(spec.get("trustDomain") or ""), source, ", ".join(spec.get("trustedNamespaces") or []) or "-", _revision(item)]


def _authorization_server_row(item: JsonObject) -> list[Cell]:
    spec = item.get("spec") or {}
    registration = spec.get("registration") or {}
    documents = "yes" if (registration.get("clientIdMetadata") or {}).get("enabled") else "no"
    login = str((spec.get("login") or {}).get("issuer") or "")
    return [id_of(item), login, str(len(spec.get("clients") or {})), documents, registration.get("dynamic", "off"), _revision(item)]


def _virtual_server_row(item: JsonObject) -> list[Cell]:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    members = len(spec.get("members") or [])
    withheld = int(status.get("withheldCount") or 0)
    read = next((str(c.get("status")) for c in status.get("conditions") or [] if c.get("type") == "MembersRead"), "")
    state: Cell = {"True": ("yes", "good"), "False": ("not all", "bad")}.get(read, ("not yet", "faint"))
    if spec.get("suspended"):
        state = ("suspended", "doubt")
    return [
        id_of(item),
        str(members),
        state,
        str(status.get("tools", 0)),
        (str(withheld), "doubt" if withheld else ""),
        str(spec.get("mode", "direct")),
        _revision(item),
    ]


def _audit_policy_row(item: JsonObject) -> list[Cell]:
    spec = item.get("spec") or {}
    arguments, results = spec.get("arguments") or {}, spec.get("results") or {}
    mode: Cell = ("available", "doubt") if spec.get("mode") == "available" else "strict"
    rules = len(arguments.get("rules") or []) + len(results.get("rules") or [])
    holds = str(len(spec.get("legalHolds") or []))
    return [id_of(item), mode, arguments.get("keep", "hashed"), results.get("keep", "off"), str(rules), holds, _revision(item)]


_RECEIVERS = {
    "file": lambda given: str(given.get("path") or "-"),
    "syslog": lambda given: str(given.get("address", "")),
    "splunkHec": lambda given: str(given.get("url", "")),
    "elastic": lambda given: str(given.get("url", "")),
    "sentinel": lambda given: str(given.get("endpoint", "")),
    "otlp": lambda given: str(given.get("endpoint", "")),
    "parquet": lambda given: str(given.get("directory") or (given.get("s3") or {}).get("endpoint", "")),
}
"""Of every receiver of an AuditSink where it is."""


def _audit_sink_row(item: JsonObject) -> list[Cell]:
    spec = item.get("spec") or {}
    receiver = next((name for name in _RECEIVERS if spec.get(name) is not None), "")
    where = _RECEIVERS[receiver](spec[receiver]) if receiver else ""
    events = ", ".join((spec.get("filter") or {}).get("events") or []) or "all"
    state: Cell = ("suspended", "doubt") if spec.get("suspended") else "yes"
    return [id_of(item), receiver, where, events, state, _revision(item)]


def _cost_model_row(item: JsonObject) -> list[Cell]:
    spec = item.get("spec") or {}
    return [id_of(item), str(spec.get("currency") or ""), str(len(spec.get("prices") or [])), _revision(item)]


_TABLES: dict[Kind, tuple[list[str], Any]] = {
    Kind.NAMESPACE: (["NAME", "DESCRIPTION", "REVISION"], _namespace_row),
    Kind.MCP_SERVER: (["NAME", "ENDPOINT", "PROBED", "ERA", "ACCEPTED", "REVISION"], _server_row),
    Kind.POLICY_SET: (["NAME", "DESCRIPTION", "POLICIES", "REVISION"], _policy_row),
    Kind.POLICY_CANDIDATE: (["NAME", "DESCRIPTION", "POLICIES", "REVISION"], _policy_row),
    Kind.ROLE_BINDING: (["NAME", "ROLE", "SUBJECTS", "REVISION"], _binding_row),
    Kind.REVOCATION: (["NAME", "REVOKED", "TOKENS", "UNTIL", "REASON", "REVISION"], _revocation_row),
    Kind.GATEWAY: (["NAME", "URL", "LISTEN", "TLS", "CLIENT CERTIFICATES", "REVISION"], _gateway_row),
    Kind.TRUST_DOMAIN: (["NAME", "TRUST DOMAIN", "BUNDLE", "NAMESPACES", "REVISION"], _trust_domain_row),
    Kind.AUTHORIZATION_SERVER: (["NAME", "LOGIN", "CLIENTS", "METADATA DOCUMENTS", "REGISTRATION", "REVISION"], _authorization_server_row),
    Kind.VIRTUAL_SERVER: (["NAME", "MEMBERS", "READ", "TOOLS", "WITHHELD", "MODE", "REVISION"], _virtual_server_row),
    Kind.AUDIT_POLICY: (["NAME", "MODE", "ARGUMENTS", "RESULTS", "RULES", "HOLDS", "REVISION"], _audit_policy_row),
    Kind.AUDIT_SINK: (["NAME", "RECEIVER", "AT", "EVENTS", "SENDS", "REVISION"], _audit_sink_row),
    Kind.COST_MODEL: (["NAME", "CURRENCY", "PRICES", "REVISION"], _cost_model_row),
    Kind.IDENTITY_PROVIDER: (["NAME", "ISSUER", "KEYS", "FOR", "REVISION"], _provider_row),
}


@click.command(cls=Command)
@click.argument("kind", type=KindArgument())
@click.argument("name")
@namespace_option
@pass_invocation
def describe(invocation: Invocation, *, kind: Kind, name: str, namespace: str) -> int:
    """Show one entry with its status; for an MCP server also its tools, for a virtual server what it offers."""
    with invocation.api() as api:
        namespace, name = locate(api, kind, name, namespace)
        document = read_entry(api, kind, namespace, name)
        catalog = api.get(entry_path(PLURAL_OF_KIND[kind], namespace, name, "tools")) if kind is Kind.MCP_SERVER else None
    if invocation.for_machines:
        say_document({**document, "catalog": catalog["items"]} if catalog else document, invocation.output)
        return Outcome.DONE
    _say_described(document)
    if catalog and catalog["items"]:
        say("\ntools", "strong")
        say_tools(catalog)
    return Outcome.DONE


def _say_described(document: JsonObject) -> None:
    metadata, status = document.get("metadata") or {}, dict(document.get("status") or {})
    tables = {key: status.pop(key, None) or [] for key in _LISTED} if document.get("kind") == Kind.VIRTUAL_SERVER else {}
    say(printable(f"{document.get('kind')} {id_of(document)}"), "strong")
    for key in ("uid", "resourceRevision", "labels", "annotations"):
        if metadata.get(key):
            say(f"  {key}: {printable(json_text(metadata[key], indent=None) if isinstance(metadata[key], dict) else metadata[key])}")
    say("\nspec", "strong")
    for line in yaml_text([document.get("spec") or {}]).splitlines():
        say(f"  {printable(line)}")
    conditions = status.pop("conditions", None) or []
    if not conditions and not status:
        return
    say("\nstatus", "strong")
    for key, value in status.items():
        if isinstance(value, str) and "\n" in value:
            say(f"  {printable(key)}:")
            for line in value.splitlines():
                say(f"    {printable(line)}")
            continue
        say(f"  {printable(key)}: {printable(value if isinstance(value, str | int) else json_text(value, indent=None))}")
    for condition in conditions:
        style = {"True": "good", "False": "bad"}.get(str(condition.get("status")), "doubt")
        at = f" at {moment_text(condition['at'])}" if condition.get("at") else ""
        message = f": {condition['message']}" if condition.get("message") else ""
        say(printable(f"  {condition.get('type')}: {condition.get('status')}{at}{message}"), style)
    for key, rows in tables.items():
        if rows:
            say(f"\n{key}", "strong")
            say_table([column for column, _ in _LISTED[key]], [[str(row.get(name) or "-") for _, name in _LISTED[key]] for row in rows])


_LISTED = {
    "members": (("SERVER", "server"), ("ITEMS", "items"), ("READ", "readAt"), ("FAULT", "fault")),
    "items": (("KIND", "kind"), ("NAME", "name"), ("SERVER", "server"), ("OWN NAME", "ownName")),
    "withheld": (("KIND", "kind"), ("OWN NAME", "ownName"), ("SERVER", "server"), ("REASON", "reason"), ("MESSAGE", "message")),
}
"""What `describe` shows of a virtual server in tables."""


@click.command(cls=Command)
@click.argument("kind", type=KindArgument())
@click.argument("name")
@namespace_option
@pass_invocation
def history(invocation: Invocation, *, kind: Kind, name: str, namespace: str) -> int:
    """Show who changed an entry, when, and in which revision."""
    with invocation.api() as api:
        namespace, name = locate(api, kind, name, namespace)
        answer = api.get(entry_path(PLURAL_OF_KIND[kind], namespace, name, "history"))
    if invocation.for_machines:
        say_document(answer, invocation.output)
        return Outcome.DONE
    rows = [
        (
            str(item.get("revision", "")),
            moment_text(item.get("committed_at")),
            str(item.get("actor") or "-"),
            str(item.get("op") or "-"),
            str(item.get("message") or "-"),
        )
        for item in answer["items"]
    ]
    say_table(["REVISION", "AT", "ACTOR", "ACTION", "MESSAGE"], rows)
    return Outcome.DONE

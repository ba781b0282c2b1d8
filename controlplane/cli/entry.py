"""How operators name entries on the command line: kinds by any of their names, entries as `namespace/name` or just `name`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from controlplane.cli.outcome import CommandError, Outcome
from controlplane.client import ApiError, entry_path
from controlplane.registry.kind import PLURAL_OF_KIND, Kind

if TYPE_CHECKING:
    from controlplane.cli.invocation import Invocation
    from controlplane.client import ApiClient, JsonObject

_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
VIRTUAL = "virtual/"
"""Before `namespace/name` of a virtual server, as in its URL."""
_SERVER_ID = re.compile(f"{_LABEL}/{_LABEL}")
_SHORT = {
    Kind.NAMESPACE: ("ns",),
    Kind.MCP_SERVER: ("server", "servers", "mcp"),
    Kind.POLICY_SET: ("policy", "policies"),
    Kind.POLICY_CANDIDATE: ("candidate", "candidates"),
    Kind.ROLE_BINDING: ("binding", "bindings", "role", "roles"),
    Kind.IDENTITY_PROVIDER: ("provider", "providers", "idp"),
    Kind.REVOCATION: (),
    Kind.GATEWAY: (),
    Kind.TRUST_DOMAIN: (),
    Kind.AUTHORIZATION_SERVER: (),
    Kind.VIRTUAL_SERVER: ("virtual",),
    Kind.AUDIT_POLICY: ("audit-policy",),
    Kind.AUDIT_SINK: ("sink", "sinks"),
    Kind.COST_MODEL: ("cost", "costs", "prices"),
}


def _names_of(kind: Kind) -> tuple[str, ...]:
    plural = PLURAL_OF_KIND[kind]
    singular = plural.removesuffix("s")
    return (plural, singular, kind.value.lower(), kind.value.lower() + "s", *_SHORT[kind])


class KindArgument(click.ParamType[Any]):
    """A kind, by its plural, its singular, as documents spell it, or by a short name."""

    name = "kind"

    def __init__(self, *, all_allowed: bool = False) -> None:
        self._all_allowed = all_allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """The `Kind`, or None for `all`."""
        if isinstance(value, Kind):
            return value
        if self._all_allowed and value == "all":
            return "all"
        for kind in Kind:
            if str(value).lower() in _names_of(kind):
                return kind
        known = ", ".join(PLURAL_OF_KIND.values())
        return self.fail(f"there is no kind {value!r}; kinds are {known}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's
        """Plural names."""
        return [CompletionItem(plural) for plural in PLURAL_OF_KIND.values() if plural.startswith(incomplete)]


def id_of(document: JsonObject) -> str:
    """`namespace/name`, or the name of a Namespace."""
    metadata = document.get("metadata") or {}
    namespace, name = metadata.get("namespace") or "", metadata.get("name") or ""
    return f"{namespace}/{name}" if namespace else str(name)


def locate(api: ApiClient, kind: Kind, name: str, namespace: str = "") -> tuple[str, str]:
    """(namespace, name) of the entry that `name` means: as written, else in `namespace`, else the only one of that name."""
    if kind is Kind.NAMESPACE:
        return "", name
    if "/" in name:
        written_namespace, _, short = name.partition("/")
        if namespace and namespace != written_namespace:
            raise CommandError(f"{name} names the namespace {written_namespace}, and -n says {namespace}")
        return written_namespace, short
    if namespace:
        return namespace, name
    found = sorted({id_of(item) for item in api.get(entry_path(PLURAL_OF_KIND[kind], ""))["items"] if item["metadata"]["name"] == name})
    if len(found) == 1:
        return found[0].split("/")[0], name
    if found:
        raise CommandError(f"{name} is ambiguous: {', '.join(found)}", remedy="write namespace/name, or add -n NAMESPACE")
    raise not_found(kind, name)


def read_entry(api: ApiClient, kind: Kind, namespace: str, name: str) -> JsonObject:
    """The entry's document; a missing one is the answer no."""
    try:
        return api.get(entry_path(PLURAL_OF_KIND[kind], namespace, name))
    except ApiError as error:
        if error.status == 404:
            raise not_found(kind, f"{namespace}/{name}" if namespace else name) from error
        raise


def not_found(kind: Kind, name: str) -> CommandError:
    """The answer when an entry does not exist or may not be seen."""
    return CommandError(
        f"there is no {kind.value} {name} that you may see",
        remedy=f"`legation get {PLURAL_OF_KIND[kind]}` lists those there are",
        outcome=Outcome.NO,
    )


def split_server(api: ApiClient, written: str, namespace: str = "") -> tuple[str, str]:
    """(namespace, name) of an MCP server argument."""
    return locate(api, Kind.MCP_SERVER, written, namespace)


def server_id_of(invocation: Invocation, written: str, namespace: str = "") -> str:
    """`namespace/name` of an MCP server argument; only a short name without a namespace is looked up. `virtual/namespace/name` is a
    virtual server, and stays as it is."""
    if written.startswith(VIRTUAL):
        if not _SERVER_ID.fullmatch(written.removeprefix(VIRTUAL)):
            raise CommandError(f"{written!r} names no virtual server; write virtual/namespace/name")
        return written
    server_id = f"{namespace}/{written}" if namespace and "/" not in written else written
    if "/" not in server_id:
        with invocation.api() as api:
            server_id = "/".join(split_server(api, server_id))
    if not _SERVER_ID.fullmatch(server_id):
        raise CommandError(f"{server_id!r} names no MCP server; write namespace/name, or virtual/namespace/name")
    return server_id


def server_url(gateway_url: str, server_id: str) -> str:
    """Where an MCP server, or a virtual one, is at the gateway: what clients connect to and what their tokens are for."""
    if server_id.startswith(VIRTUAL):
        return f"{gateway_url}/{server_id}/mcp"
    return f"{gateway_url}/servers/{server_id}/mcp"


namespace_option = click.option(
    "-n", "--namespace", default="", metavar="NAMESPACE", help="The namespace (default: all, or the one in ns/name)."
)
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")

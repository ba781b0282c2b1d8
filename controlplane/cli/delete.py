"""`delete`: entries leave the registry; their history stays."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from controlplane.cli.entry import KindArgument, id_of, locate, namespace_option, not_found, read_entry, yes_option
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.manifest_file import ManifestDocument, read_manifests
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.rollout import rollout_sentence, wait_until_programmed
from controlplane.cli.terminal import printable, say, say_document, warn
from controlplane.client import entry_path, etag_of
from controlplane.registry.kind import PLURAL_OF_KIND, Kind

if TYPE_CHECKING:
    from controlplane.client import ApiClient, JsonObject

Target = tuple[Kind, str, str]


@click.command(cls=Command)
@click.argument("kind", type=KindArgument(), required=False)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-f", "--file", "sources", multiple=True, metavar="FILE|DIR|-", help="Delete what these files describe, last document first.")
@namespace_option
@yes_option
@pass_invocation
def delete(
    invocation: Invocation, *, kind: Kind | None, names: tuple[str, ...], sources: tuple[str, ...], namespace: str, yes: bool
) -> int:
    """Delete KIND NAME, or everything that the files describe. Calls to a deleted server get the answer of an unknown one."""
    if bool(sources) == bool(kind) or (kind and not names):
        raise click.UsageError("name KIND and NAME, or files with -f")
    with invocation.api() as api:
        if kind:
            targets = [(kind, *locate(api, kind, name, namespace)) for name in names]
        else:
            targets = [_target(document) for document in reversed(read_manifests(sources).documents)]
        found = _existing(api, targets, required=kind is not None)
        if found and not yes:
            _ask(found)
        deleted = [_delete(api, document) for document in found]
        answer: JsonObject = {"deleted": [{"kind": document["kind"], "id": id_of(document)} for document in found]}
        if deleted:
            answer["revision"] = max(deleted)
            answer["rollout"] = wait_until_programmed(api, max(deleted))
    _say(invocation, answer)
    return Outcome.DONE if not deleted or answer["rollout"].get("complete") else Outcome.NO


def _target(document: ManifestDocument) -> Target:
    content = document.content if isinstance(document.content, dict) else {}
    metadata = content.get("metadata") or {}
    try:
        kind = Kind(str(content.get("kind")))
        return kind, "" if kind is Kind.NAMESPACE else str(metadata["namespace"]), str(metadata["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError("a document needs kind, metadata.namespace and metadata.name to be deleted", where=document.place) from error


def _existing(api: ApiClient, targets: list[Target], *, required: bool) -> list[JsonObject]:
    found: list[JsonObject] = []
    for kind, namespace, name in targets:
        try:
            found.append(read_entry(api, kind, namespace, name))
        except CommandError as error:
            if required or error.outcome is not Outcome.NO:
                raise
            warn(f"{not_found(kind, f'{namespace}/{name}' if namespace else name).what}; nothing to delete")
    return found


def _ask(found: list[JsonObject]) -> None:
    names = ", ".join(f"{document['kind']} {id_of(document)}" for document in found)
    if not sys.stdin.isatty():
        raise CommandError(f"deleting {names} needs a yes, and nobody is there to say it", remedy="repeat with --yes")
    if not click.confirm(f"Delete {printable(names)}?", err=True):
        raise CommandError("nothing was deleted", outcome=Outcome.NO)


def _delete(api: ApiClient, document: JsonObject) -> int:
    metadata = document["metadata"]
    path = entry_path(PLURAL_OF_KIND[Kind(document["kind"])], str(metadata.get("namespace") or ""), str(metadata["name"]))
    return int(api.delete(path, if_match=etag_of(document)).get("revision") or 0)


def _say(invocation: Invocation, answer: JsonObject) -> None:
    if invocation.for_machines:
        say_document(answer, invocation.output)
        return
    for item in answer["deleted"]:
        say(f"deleted  {printable(item['kind'])} {printable(item['id'])}")
    if "rollout" in answer:
        say(rollout_sentence(answer["rollout"]))

"""`revoke`: a token, a subject or an OAuth client is refused from now on, whatever its tokens say."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.rollout import rollout_sentence, wait_until_programmed
from controlplane.cli.terminal import printable, say, say_document
from controlplane.client import ApiError, entry_path, etag_of
from controlplane.registry.kind import PLURAL_OF_KIND, Kind

if TYPE_CHECKING:
    from controlplane.client import ApiClient, JsonObject

_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_API_VERSION = "legation/v1"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class MomentArgument(click.ParamType[str]):
    """A moment: RFC 3339 (2026-12-31T00:00:00Z), a duration from now (30d, 8h), or `now`."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401 - click's signature
        """RFC 3339, in UTC."""
        text = str(value)
        found = _DURATION.fullmatch(text)
        if found or text == "now":
            ahead = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta()
            return (datetime.now(UTC) + ahead).isoformat()
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            self.fail(f"{text!r} is neither a moment with its zone, such as 2026-12-31T00:00:00Z, nor a duration such as 30d", param, ctx)
        return moment.astimezone(UTC).isoformat()


@click.command(cls=Command)
@click.option("--subject", metavar="[PROVIDER/]NAME", help="Somebody: as the caller, and as who acts for another.")
@click.option("--token-id", "token", metavar="[PROVIDER/]JTI", help="One token, by its jti; the audit has it as access_token_id.")
@click.option("--client", "oauth_client", metavar="[PROVIDER/]ID", help="Every token that was issued to this OAuth client.")
@click.option("--spiffe-id", metavar="SPIFFE-ID", help="A workload.")
@click.option("--issued-before", type=MomentArgument(), metavar="WHEN", help="Only tokens issued before; `now` lets new ones in.")
@click.option("--until", type=MomentArgument(), metavar="WHEN", help="When it ends: a moment, or a duration (default: never).")
@click.option("-m", "--reason", default="", metavar="WHY", help="For the history.")
@pass_invocation
def revoke(invocation: Invocation, /, *, issued_before: str | None, until: str | None, reason: str, **named: str | None) -> int:
    """Refuse a token, a subject or an OAuth client at once. `legation delete revocation NAME` lets them in again."""
    given = {kind: name for kind, name in named.items() if name is not None}
    if len(given) != 1:
        raise click.UsageError("name exactly one of --subject, --token-id, --client and --spiffe-id")
    (kind, name), *_ = given.items()
    spec = {_KEYS[kind]: name} | {
        key: value for key, value in (("issuedBefore", issued_before), ("until", until), ("reason", reason)) if value
    }
    with invocation.api() as api:
        document, revision = _put(api, _name_of(kind, name, issued_before), spec)
        rollout = wait_until_programmed(api, revision) if revision else {}
    _say(invocation, document, rollout)
    return Outcome.DONE if not rollout or rollout.get("complete") else Outcome.NO


_KEYS = {"subject": "subject", "token": "token", "oauth_client": "oauthClient", "spiffe_id": "spiffeId"}
_NOUNS = {"subject": "subject", "token": "token", "oauth_client": "client", "spiffe_id": "workload"}


def _name_of(kind: str, name: str, issued_before: str | None) -> str:
    """The entry's name: the same for the same revocation, so that it is not made twice."""
    digest = hashlib.sha256(f"{name}\n{issued_before or ''}".encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    return "-".join(part for part in (_NOUNS[kind], readable, digest) if part)


def _put(api: ApiClient, name: str, spec: JsonObject) -> tuple[JsonObject, int]:
    """The entry as it is now, and the revision that changed it (0: nothing to change). What ends later is never shortened."""
    path = entry_path(PLURAL_OF_KIND[Kind.REVOCATION], "system", name)
    try:
        known = api.get(path)
    except ApiError as error:
        if error.status != 404:
            raise
        created = api.put(path, {"apiVersion": _API_VERSION, "spec": spec})
        return created, int(created["metadata"]["resourceRevision"])
    ends, wanted = known["spec"].get("until"), spec.get("until")
    if ends == wanted:
        return known, 0
    if wanted and (not ends or datetime.fromisoformat(ends) > datetime.fromisoformat(wanted)):
        raise CommandError(
            f"it is revoked already, {f'until {ends}' if ends else 'without an end'}: Revocation {name}",
            remedy="to shorten it, delete that entry first",
            outcome=Outcome.NO,
        )
    changed = api.put(path, {"apiVersion": _API_VERSION, "spec": spec}, if_match=etag_of(known))
    return changed, int(changed["metadata"]["resourceRevision"])


def _say(invocation: Invocation, document: JsonObject, rollout: JsonObject) -> None:
    if invocation.for_machines:
        say_document({**document, "rollout": rollout} if rollout else document, invocation.output)
        return
    spec = document["spec"]
    what = next(f"{_NOUNS[kind]} {spec[key]}" for kind, key in _KEYS.items() if key in spec)
    say(printable(f"revoked  {what}" + (f" until {spec['until']}" if spec.get("until") else "")))
    say(printable(f"Revocation {document['metadata']['name']}" + ("" if rollout else ", as before")))
    if rollout:
        say(rollout_sentence(rollout))

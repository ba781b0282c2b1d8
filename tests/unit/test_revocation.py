"""Who is refused although their token is good: what an entry covers, how an index follows edits, and what a call pays."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.registry.revocation import RevocationFollower, over, revocation_of
from controlplane.xds.authorizer_resources import make_revocation
from extauthz import discovery
from extauthz.address import AddressRules
from extauthz.identity.jwks import KeySource
from extauthz.identity.principal import PROBER, Principal, PrincipalKind
from extauthz.identity.revocation import Revocation, RevocationIndex, RevokedKind
from extauthz.state import revocation_from_message
from extauthz.subscription import Subscription
from tests.unit.xds_world import revocation, state_of

NOW = 1_800_000_000.0
ISSUED = NOW - 60

ANN = Principal(
    kind=PrincipalKind.USER,
    id="acme/ann",
    provider="acme",
    subject="ann",
    oauth_client_id="crm-app",
    access_token_id="t-1",
    actor="acme/assistant",
    issued_at_unix=ISSUED,
)
WORKLOAD = Principal(kind=PrincipalKind.WORKLOAD, id="spiffe://prod.example/crm", provider="spiffe", subject="spiffe://prod.example/crm")


def entry(kind: RevokedKind, revoked: str, **times: float) -> Revocation:
    return Revocation(id="system/x", kind=kind, revoked=revoked, **times)


@pytest.mark.parametrize(
    ("revoked", "principal", "found"),
    [
        (entry(RevokedKind.SUBJECT, "acme/ann"), ANN, True),
        (entry(RevokedKind.SUBJECT, "other/ann"), ANN, False),
        (entry(RevokedKind.SUBJECT, "acme/assistant"), ANN, True),
        (entry(RevokedKind.SUBJECT, "acme/older"), dataclasses.replace(ANN, earlier_actors=("acme/newer", "acme/older")), True),
        (entry(RevokedKind.SUBJECT, "acme/t-1"), ANN, False),
        (entry(RevokedKind.SUBJECT, "acme/ann", issued_before_unix=ISSUED + 1), ANN, True),
        (entry(RevokedKind.SUBJECT, "acme/ann", issued_before_unix=ISSUED), ANN, False),
        (entry(RevokedKind.SUBJECT, "acme/ann", issued_before_unix=1.0), dataclasses.replace(ANN, issued_at_unix=0.0), True),
        (entry(RevokedKind.SUBJECT, "acme/ann", expires_at_unix=NOW + 1), ANN, True),
        (entry(RevokedKind.SUBJECT, "acme/ann", expires_at_unix=NOW), ANN, False),
        (entry(RevokedKind.TOKEN, "acme/t-1"), ANN, True),
        (entry(RevokedKind.TOKEN, "other/t-1"), ANN, False),
        (entry(RevokedKind.TOKEN, "acme/"), dataclasses.replace(ANN, access_token_id=""), False),
        (entry(RevokedKind.OAUTH_CLIENT, "acme/crm-app"), ANN, True),
        (entry(RevokedKind.OAUTH_CLIENT, "acme/other-app"), ANN, False),
        (entry(RevokedKind.SPIFFE_ID, "spiffe://prod.example/crm"), WORKLOAD, True),
        (entry(RevokedKind.SPIFFE_ID, "spiffe://prod.example/other"), WORKLOAD, False),
        (entry(RevokedKind.SUBJECT, PROBER.id), PROBER, False),
    ],
)
def test_a_revocation_covers_what_it_names_and_nothing_else(revoked: Revocation, principal: Principal, found: bool) -> None:
    assert (RevocationIndex([revoked]).find(principal, NOW) is revoked) is found


def test_of_two_revocations_of_one_subject_the_wider_one_holds() -> None:
    narrow = entry(RevokedKind.SUBJECT, "acme/ann", issued_before_unix=1.0)
    wide = entry(RevokedKind.SUBJECT, "acme/ann")

    assert RevocationIndex([narrow, wide]).find(ANN, NOW) is wide


def test_an_index_follows_edits_and_leaves_the_one_before_as_it_was() -> None:
    ann, token, client = (
        entry(RevokedKind.SUBJECT, "acme/ann"),
        entry(RevokedKind.TOKEN, "acme/t-1"),
        entry(RevokedKind.OAUTH_CLIENT, "a/b"),
    )
    again = dataclasses.replace(ann, expires_at_unix=math.inf)
    first = RevocationIndex([ann, client])
    before = {"ann": ann, "client": client}

    second = first.replaced(before, {"ann": again, "token": token}, ("ann", "client", "token"))
    third = second.replaced({"ann": again, "token": token}, {}, ("token", "ann"))

    assert first.find(ANN, NOW) is ann
    assert second.find(ANN, NOW) is again
    assert (len(first), len(second), len(third)) == (2, 2, 0)
    assert third.find(ANN, NOW) is None


class Counted(dict[Any, Any]):
    """A dictionary that counts what it is asked."""

    asked = 0

    def get(self, *args: Any) -> Any:
        self.asked += 1
        return super().get(*args)


@pytest.mark.parametrize("many", [1, 100_000])
def test_a_call_costs_the_same_few_lookups_however_many_are_revoked(many: int) -> None:
    index = RevocationIndex(entry(RevokedKind.SUBJECT, f"acme/{number}") for number in range(many))
    index._entries = counted = Counted(index._entries)

    assert index.find(ANN, NOW) is None
    assert counted.asked == 4


@pytest.mark.parametrize(
    ("spec", "kind", "revoked"),
    [
        ({"subject": "acme/ann"}, RevokedKind.SUBJECT, "acme/ann"),
        ({"token": "acme/t-1"}, RevokedKind.TOKEN, "acme/t-1"),
        ({"oauthClient": "acme/app"}, RevokedKind.OAUTH_CLIENT, "acme/app"),
        ({"spiffeId": "spiffe://prod.example/crm"}, RevokedKind.SPIFFE_ID, "spiffe://prod.example/crm"),
        (
            {"subject": "acme/ann", "issuedBefore": "2026-11-22T12:00:00Z", "until": "2027-01-01T00:00:00+01:00"},
            RevokedKind.SUBJECT,
            "acme/ann",
        ),
    ],
)
def test_the_api_and_authorizers_read_an_entry_alike(spec: dict[str, str], kind: RevokedKind, revoked: str) -> None:
    made = revocation("x", **spec)

    read = revocation_of(made)

    assert read == revocation_from_message(make_revocation(made))
    assert (read.id, read.kind, read.revoked) == ("system/x", kind, revoked)
    assert read.issued_before_unix == (math.inf if "issuedBefore" not in spec else datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp())
    assert read.expires_at_unix == (math.inf if "until" not in spec else datetime(2026, 12, 31, 23, tzinfo=UTC).timestamp())


def test_the_registrys_follower_sees_every_edit() -> None:
    follower = RevocationFollower()
    ann, app = revocation("ann", subject="acme/ann"), revocation("app", oauthClient="acme/crm-app")

    found = [follower.index(state_of(*entries)).find(ANN, NOW) for entries in ((1,), (2, ann), (3, ann, app), (4, app), (5,))]

    assert [one and one.id for one in found] == [None, "system/ann", "system/ann", "system/app", None]


def test_only_what_is_over_is_pruned() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    state = state_of(
        1,
        revocation("ended", subject="a/b", until="2026-11-22T11:59:59Z"),
        revocation("goes-on", subject="a/b", until="2026-11-22T12:00:01Z"),
        revocation("for-ever", subject="a/b"),
    )

    assert over(state, now) == ["ended"]


async def test_an_authorizer_swaps_revocations_with_the_revision_and_keeps_them_over_a_restart(tmp_path: Any) -> None:
    async with KeySource(AddressRules()) as key_source:

        def subscription() -> Subscription:
            return Subscription(key_source=key_source, cache_file=tmp_path / "last-good.json", max_staleness_seconds=3600)

        first = subscription()
        told = {discovery.REVOCATION: {"system/ann": make_revocation(revocation("ann", subject="acme/ann")).SerializeToString()}}
        first.take({}, 1)
        none = first.current()
        first.take(told, 2)
        some = first.current()
        first.write_last_good(told, 2)
        other = make_revocation(revocation("bob", subject="acme/bob")).SerializeToString()
        first.take({discovery.REVOCATION: {"system/bob": other}}, 3)
        lifted = first.current()
        restarted = subscription()
        restarted.read_last_good()

    assert none is not None
    assert some is not None
    assert lifted is not None
    assert lifted.revocations.find(ANN, NOW) is None
    assert len(lifted.revocations) == 1
    assert none.revocations.find(ANN, NOW) is None
    assert some.revocations.find(ANN, NOW) is not None
    kept = restarted.current()
    assert kept is not None
    assert kept.revocations.find(ANN, NOW) is not None

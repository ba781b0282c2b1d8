"""Revocations through the registry and its API: who may make one, what is refused, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controlplane.registry.pruning import prune_always
from tests.functional.api import DEMO, Api, binding, running_api

OFFICER = binding("system", "security-officers", "legation:security-officer", "sigrid") + binding(
    "system", "editors", "legation:editor", "edith"
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        assert (await running.apply(DEMO + OFFICER)).status == 200
        yield running


def document(name: str = "ann", *, namespace: str = "system", **spec: str) -> str:
    lines = "".join(f"  {key}: '{value}'\n" for key, value in spec.items())
    return f"apiVersion: legation/v1\nkind: Revocation\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec:\n{lines}"


async def test_a_security_officer_revokes_and_an_editor_does_not(api: Api) -> None:
    officer = await api.apply(document(subject="local/ann"), token=api.token("sigrid"))
    editor = await api.apply(document("bob", subject="local/bob"), token=api.token("edith"))
    policy = await api.apply(DEMO.replace("marketing-updates", "other"), token=api.token("sigrid"))

    assert (officer.status, editor.status, policy.status) == (200, 403, 403)
    assert [entry.spec.subject for entry in api.live.state.revocations.values()] == ["local/ann"]


async def test_a_short_name_is_stored_with_its_provider(api: Api) -> None:
    answer = await api.apply(document(oauthClient="crm-app"))

    assert answer.status == 200, answer.text
    assert api.live.state.revocations["system/ann"].spec.oauth_client == "local/crm-app"


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        (document(namespace="demo", subject="local/ann"), "metadata.namespace", "system"),
        (document(subject="lokal/ann"), "spec.subject", "not registered"),
        (document(subject="local/"), "spec.subject", "not registered"),
        (document(subject="local/ann", token="local/t"), "spec", "exactly one"),
        (document(reason="no name"), "spec", "exactly one"),
        (document(token="local/t", issuedBefore="2026-01-01T00:00:00Z"), "spec", "issuedBefore"),
        (document(subject="local/ann", until="2020-01-01T00:00:00Z"), "spec.until", "over"),
        (document(subject="local/ann", until="2027-01-01T00:00:00"), "spec.until", "timezone"),
        (document(subject="local/ann", issuedBefore="2999-01-01T00:00:00Z"), "spec.issuedBefore", "future"),
        (document(spiffeId="https://prod.example/crm"), "spec.spiffeId", "form"),
    ],
)
async def test_what_means_nobody_or_no_time_is_refused(api: Api, text: str, path: str, said: str) -> None:
    answer = await api.apply(text)

    assert answer.status == 422
    assert [error["path"] for error in answer.body["errors"]] == [path]
    assert said in answer.body["errors"][0]["message"]
    assert not api.live.state.revocations


async def test_the_last_administrator_cannot_be_revoked(api: Api) -> None:
    whole = await api.apply(document(subject="operators/admin"))
    for_a_day = await api.apply(document(subject="operators/admin", until=(datetime.now(UTC) + timedelta(days=1)).isoformat()))
    old_tokens = await api.apply(document(subject="operators/admin", issuedBefore="2020-01-01T00:00:00Z"))

    assert (whole.status, for_a_day.status, old_tokens.status) == (409, 409, 200)


async def test_a_revoked_operator_is_nobody_at_the_api_until_the_entry_is_deleted(api: Api) -> None:
    token = api.token("edith")
    before = await api.call("GET", "/v1/mcp-servers", token=token)

    await api.apply(document("edith", subject="local/edith"), token=api.token("sigrid"))
    revoked = await api.call("GET", "/v1/mcp-servers", token=token)
    renewed = await api.call("GET", "/v1/mcp-servers", token=api.token("edith"))
    await api.call("DELETE", "/v1/namespaces/system/revocations/edith", token=api.token("sigrid"), headers={"If-Match": "*"})
    after = await api.call("GET", "/v1/mcp-servers", token=token)
    history = await api.call("GET", "/v1/namespaces/system/revocations/edith/history")

    assert [answer.status for answer in (before, revoked, renewed, after)] == [200, 401, 401, 200]
    assert revoked.body["code"] == "revoked"
    assert [item["op"] for item in history.body["items"]] == ["deleted", "created"]


async def test_old_tokens_are_refused_and_new_ones_are_not(api: Api) -> None:
    old = api.token("edith")

    await asyncio.sleep(1.1)  # tokens say whole seconds
    await api.apply(document("edith", subject="local/edith", issuedBefore=datetime.now(UTC).replace(microsecond=0).isoformat()))

    assert (await api.call("GET", "/v1/mcp-servers", token=old)).status == 401
    assert (await api.call("GET", "/v1/mcp-servers", token=api.token("edith"))).status == 200


async def test_what_is_over_leaves_the_registry_by_itself_and_its_history_stays(api: Api) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    assert (
        await api.apply(document("short", subject="local/ann", until=soon) + "---\n" + document("long", subject="local/bob"))
    ).status == 200

    pruning = asyncio.create_task(prune_always(api.service, interval_seconds=0.1))
    async with asyncio.timeout(60):
        while "system/short" in api.live.state.revocations:  # noqa: ASYNC110 - the registry is read, nobody tells us
            await asyncio.sleep(0.05)
    pruning.cancel()

    assert list(api.live.state.revocations) == ["system/long"]
    history = await api.call("GET", "/v1/namespaces/system/revocations/short/history")
    assert history.body["items"][0]["actor"] == "system/revocations"


async def test_explain_says_who_is_revoked(api: Api) -> None:
    await api.apply(document(subject="local/ann"))

    answer = await api.call("POST", "/v1/explain", json={"principal": {"as": "ann"}, "server": "demo/crm", "tool": "update_contact"})

    assert (answer.body["decision"], answer.body["reason"]) == ("deny", "revoked")
    assert "system/ann" in answer.body["sentence"]

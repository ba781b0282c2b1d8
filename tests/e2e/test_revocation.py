"""A revocation through the API, on the real gateway: open connections and verified tokens outlive nothing."""

from __future__ import annotations

import time
from pathlib import Path

from tests.e2e.stack import Answer, Stack, eventually, running_stack

DEMO = Path(__file__).parents[2] / "controlplane" / "demo" / "registry.yaml"


async def test_a_revoked_subject_client_and_token_are_refused_on_the_connection_that_is_open(tmp_path: Path) -> None:
    async with running_stack(tmp_path, demo=True) as stack:
        await stack.accept("demo/crm")
        token = stack.token("marketing-agent", server="demo/crm", groups=("marketing",), jti="t-1", client_id="crm-app")
        renewed = stack.token("marketing-agent", server="demo/crm", groups=("marketing",), jti="t-2", client_id="other-app")

        async def call(access_token: str) -> Answer:
            return await stack.call("demo/crm", "search_contacts", {"query": "a"}, access_token=access_token)

        assert (await call(token)).status == 200

        for spec in ("token: local/t-1", "oauthClient: local/crm-app", "subject: local/marketing-agent"):
            revision = await stack.apply(_revocation(spec), wait=False)
            took = await _until_refused(stack, token)
            other = await call(renewed)
            assert other.status == (401 if spec.startswith("subject") else 200), spec
            print(f"revision {revision}, {spec}: refused {took * 1000:.0f} ms after the API answered")
            await _lift(stack)
            await eventually(lambda: _is_let_in(call, token), what="a lifted revocation")

        async def on_record() -> bool:
            records = (await stack.api("GET", "/v1/audit?limit=200")).json["items"]
            return any(
                r["reason"] == "revoked" and r["revocation"] == "system/test" and r["principal"]["subject"] == "marketing-agent"
                for r in records
            )

        await eventually(on_record, what="the refusal on the record")


async def _until_refused(stack: Stack, token: str) -> float:
    started = time.monotonic()

    async def refused() -> bool:
        answer = await stack.call("demo/crm", "search_contacts", {"query": "a"}, access_token=token)
        if answer.status != 401:
            return False
        assert answer.message["error"]["data"]["reason"] == "revoked"
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        return True

    await eventually(refused, interval=0.005, what="a revocation")
    return time.monotonic() - started


async def _is_let_in(call, token: str) -> bool:  # type: ignore[no-untyped-def]
    return (await call(token)).status == 200


async def _lift(stack: Stack) -> None:
    answer = await stack.api("DELETE", "/v1/namespaces/system/revocations/test", headers={"if-match": "*"})
    assert answer.status == 200, answer.text


def _revocation(spec: str) -> str:
    return f"apiVersion: legation/v1\nkind: Revocation\nmetadata: {{namespace: system, name: test}}\nspec: {{{spec}}}\n"

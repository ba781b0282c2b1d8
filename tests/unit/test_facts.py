"""What a decision writes down of a request before anything is decided."""

from __future__ import annotations

import pytest

from extauthz.check_input import CheckInput
from extauthz.facts import open_record

SECRET = "q7Zr2mXkT9vB4nWs"


def a_check(path: str, **headers: str) -> CheckInput:
    given = {name.replace("_", "-"): (value,) for name, value in headers.items()}
    return CheckInput(listener="ingress", http_method="POST", path=path, host="gateway.example", headers=given)


@pytest.mark.parametrize("scheme", ["Bearer", "DPoP", "Basic"])
def test_what_the_caller_shows_in_the_header_is_kept_nowhere_else(scheme: str) -> None:
    check = a_check(f"/servers/demo/{SECRET}/mcp?t={SECRET}", authorization=f"{scheme} {SECRET}", user_agent=f"{'x' * 190} {SECRET}")

    record = open_record(check, 0.0)

    assert record.path == "/servers/demo/[token]/mcp"
    assert record.user_agent == f"{'x' * 190} [token]"[:200]


def test_a_short_credential_does_not_make_paths_unreadable() -> None:
    assert open_record(a_check("/servers/demo/crm/mcp", authorization="Bearer crm"), 0.0).path == "/servers/demo/crm/mcp"

"""The examples of docs/policies.md are policies that apply accepts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extauthz.policy.cedar import check_policies
from extauthz.policy.model import Action
from extauthz.policy.schema import CALLER_ATTRIBUTES, PRINCIPAL_ATTRIBUTES, RESOURCES_OF_ACTION
from tests.unit.policy_world import MCP_SERVERS, document

TEXT = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
EXAMPLES = re.findall(r"```cedar\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_documentation_is_accepted(example):
    roles = {"demo/marketing", "demo/finance", "demo/contractors"}

    assert check_policies([document(example)], mcp_servers=MCP_SERVERS, roles=roles, namespaces={"demo"}, probed=MCP_SERVERS) == ([], [])


def test_the_documentation_names_every_action_and_attribute():
    assert len(EXAMPLES) >= 5
    for action in Action:
        kinds = ", ".join(
            f"`{kind.value}`" for kind in sorted(RESOURCES_OF_ACTION[action], key=lambda k: (k.value != "McpServer", k.value))
        )
        assert f"| `{action.value}` | {kinds} |" in TEXT
    for name in CALLER_ATTRIBUTES:
        assert f"`context.caller.{name}`" in TEXT
    for name in PRINCIPAL_ATTRIBUTES:
        assert f"`principal.{name}`" in TEXT

"""Shows the example step by step: `make -C examples/recorded-answers run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from stage import Deployment, UnavailableError, deployment, run_client, sample_server, step

HERE = Path(__file__).parent


def main() -> None:
    """Start what is needed, call a tool, and look at what is on the record of its answer, before and after the caller is erased."""
    with deployment() as legation, sample_server() as crm_url:
        step(f"1. A deployment at {legation.gateway_url}, and an MCP server behind it")
        step("2. The administrator registers it, and says what of its answers is kept (manifest.yaml)")
        print(legation.apply(HERE / "manifest.yaml", CRM_URL=crm_url))
        url = f"{legation.gateway_url}/servers/demo/crm/mcp"
        step(f"3. ann of support at {url}")
        token = legation.legation("token", "--as", "ann", "--group", "support", "--server", "demo/crm")
        run_client(HERE / "client.py", url, ACCESS_TOKEN=token)
        step("4. What stands on the record of that call: the answer, without the e-mail address")
        decision_id = call_of(legation)["decision_id"]
        print(legation.legation("audit", "show", decision_id))
        before = told(call_of(legation))
        step("5. ann is erased: who asked and what was answered can be read no more, and the record stays whole")
        print(legation.legation("audit", "erase", "local/ann", "--yes", "-m", "an example"))
        print(legation.legation("audit", "show", decision_id))
        step("6. The answer on the record, before and after")
        print(before)
        print(told(call_of(legation)))


def call_of(legation: Deployment) -> dict[str, Any]:
    """The decision about the client's call, with its answer."""
    calls = json.loads(legation.legation("audit", "--event", "tool_call", "--server", "demo/crm", "-o", "json"))["items"]
    return next(call for call in calls if not call.get("parent_decision_id"))


def told(call: dict[str, Any]) -> str:
    """One line about what is kept of the answer."""
    result = call["result"]
    if result.get("erased"):
        return f"{result['reason']}  erased"
    kept = json.loads(result["result_json"])
    contact = kept["structuredContent"]["result"][0]
    text = "redacted" if "$redacted" in kept["content"][0]["text"] else "readable"
    email = "hashed" if "$hashed" in contact["email"] else "readable"
    return f"{result['reason']}  {contact['name']}, e-mail {email}, text {text}"


if __name__ == "__main__":
    try:
        main()
    except UnavailableError as error:
        sys.exit(f"error: {error}")

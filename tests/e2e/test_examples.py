"""Every folder of `examples/` does what its page says, as a program of its own, with a scripted browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.login_world import OIDC_PROVIDER
from tests.e2e.stack import ROOT
from tests.toolchain import UnavailableError, npm_packages

pytestmark = [pytest.mark.envoy, pytest.mark.external, pytest.mark.timeout(600)]

EXAMPLES = ROOT / "examples"
BROWSER = f"{sys.executable} {ROOT / 'tests' / 'functional' / 'scripted_browser.py'} %s"
RECORDS = {
    "browser-login": [
        "allow  User      acme/ann  search_contacts",
        "deny   User      acme/ann  delete_contact",
    ],
    "client-credentials": [
        "allow  Agent     acme/nightly-report  search_contacts",
        "deny   Agent     acme/nightly-report  update_contact",
        "allow  Agent     acme/key-holder  search_contacts",
        "deny   Agent     acme/key-holder  update_contact",
    ],
    "recorded-answers": [
        "answered  Jonas Lindqvist, e-mail hashed, text redacted",
        "answered  erased",
    ],
    "virtual-server": [
        "allow  User      local/ann  search_contacts",
        "deny   User      local/ann  delete_contact",
        "allow  User      local/sue  search_contacts",
        "allow  User      local/sue  delete_contact",
    ],
}
"""The last lines of each example: what is on the record."""
WITH_SPIRE = {"svid"}  # tests/spire runs it
PARTS = {"README.md", "Makefile", "manifest.yaml", "client.py", "run.py"}


def test_each_folder_is_whole_and_the_page_names_it() -> None:
    folders = {file.parent.name: {part.name for part in file.parent.iterdir()} for file in EXAMPLES.glob("*/run.py")}
    named = set(re.findall(r"\]\(([a-z-]+)/README\.md\)", (EXAMPLES / "README.md").read_text()))

    for found in (set(folders), named):
        assert found - WITH_SPIRE == set(RECORDS)
    assert all(folders[name] >= PARTS for name in RECORDS), folders


def test_the_provider_is_the_one_that_is_tested() -> None:
    pinned = yaml.safe_load((EXAMPLES / "identity_provider" / "package.json").read_text())["dependencies"]

    assert [f"{name}@{release}" for name, release in pinned.items()] == [OIDC_PROVIDER]


@pytest.mark.parametrize("name", RECORDS)
def test_an_example_does_what_its_page_says(name: str, tmp_path: Path) -> None:
    try:
        tools = npm_packages(OIDC_PROVIDER)
    except UnavailableError as error:
        pytest.skip(f"the local identity provider needs npm: {error}")
    environ = {**os.environ, "LEGATION_EXAMPLES_NODE": str(tools), "BROWSER": BROWSER, "TMPDIR": str(tmp_path)}

    command = ["make", "-s", "-C", EXAMPLES / name, "run", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=500, check=False)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-len(RECORDS[name]) :] == RECORDS[name]
    assert "Jonas Lindqvist" in done.stdout
    assert list(tmp_path.iterdir()) == [], "something was left behind"

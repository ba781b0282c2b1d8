"""What the tree of files promises, checked by reading it."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("aggregator", "controlplane", "extauthz")
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "core", "base", "misc", "manager", "processor", "data", "info"}
MAX_LINES = 450
GENERATED = {"v1", "wire", "migrations"}


def sources() -> list[Path]:
    """Every Python file that a person wrote."""
    found = [path for package in (*PACKAGES, "bench", "tests") for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if "_pb2" not in path.name]


def test_the_envoy_directory_is_no_package_because_it_would_shadow_the_real_one() -> None:
    assert not (ROOT / "envoy" / "__init__.py").exists()
    assert not list((ROOT / "envoy").rglob("*.py"))


def test_no_module_has_a_name_that_says_nothing() -> None:
    named = {part for path in sources() for part in (*path.relative_to(ROOT).parent.parts, path.stem)}

    assert not named & FORBIDDEN


def test_no_file_of_the_product_has_grown_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources()
        if path.parts[len(ROOT.parts)] != "tests" and (lines := len(path.read_text().splitlines())) > MAX_LINES
    }

    assert not long


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_where_you_are(package: str) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.is_relative_to(ROOT / package) and not ast.get_docstring(ast.parse(path.read_text()))
    ]

    assert not silent


def test_only_one_place_verifies_signatures_of_tokens() -> None:
    decoding = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.parts[len(ROOT.parts)] in PACKAGES and ("jwt.decode(" in path.read_text() or ".decode_complete(" in path.read_text())
    ]

    assert len(decoding) <= 1


def test_no_process_of_ours_verifies_less_than_everything() -> None:
    careless = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.parts[len(ROOT.parts)] in PACKAGES
        and any(text in path.read_text() for text in ('verify_signature": False', "verify=False", "check_hostname = False", "CERT_NONE"))
    ]

    assert careless == ["controlplane/xds/bundle_endpoint.py"]


def test_the_one_place_that_heeds_no_host_name_checks_the_spiffe_id_in_the_handshake() -> None:
    text = (ROOT / "controlplane/xds/bundle_endpoint.py").read_text()

    assert text.count("check_hostname = False") == text.count("verify_mode = ssl.CERT_REQUIRED") == text.count("sslobject_class = ") == 1
    assert not any(careless in text for careless in ("CERT_NONE", "verify=False", "CERT_OPTIONAL"))


def test_tracked_files_hold_no_secret_and_no_deployment() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git work tree (an unpacked archive)")
    tracked = listed.stdout.splitlines()

    assert not [name for name in tracked if name.endswith((".db", ".key", ".pem", ".p12")) or name.startswith(".legation/")]

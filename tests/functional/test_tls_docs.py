"""Every document of docs/tls.md is one that the registry takes as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from controlplane.registry.manifest import parse_documents
from controlplane.registry.own_address import PublicAddress
from tests.functional.registry import open_registry
from tests.pki import TestAuthority

PAGE = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
CA = TestAuthority()


def test_the_page_has_documents() -> None:
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("block", BLOCKS, ids=[yaml.safe_load(block)["metadata"]["name"] for block in BLOCKS])
def test_a_document_of_the_page_is_taken(tmp_path: Path, block: str) -> None:
    for namespace, names in (("system", ("web",)), ("demo", ("gateway",))):
        folder = tmp_path / "secrets" / namespace
        folder.mkdir(parents=True)
        for name in names:
            CA.issue("mcp.example.com", "internal.example.com").write(folder, name)
        for authorities in ("clients.pem", "internal-ca.pem"):
            (folder / authorities).write_bytes(CA.pem)
    issued = CA.issue("partners.example.com")
    document = yaml.safe_load(block)
    stored = document["spec"].get("tls", {}).get("certificates", {}).get("own")
    if stored is not None:  # what the page leaves out
        stored["stored"] = {"chain": issued.chain_pem.decode(), "key": {"value": issued.key_pem.decode()}}
    public = PublicAddress(url="http://127.0.0.1:8080", listen="127.0.0.1:8080")
    registry = open_registry(f"sqlite:///{tmp_path / 'registry.db'}", secrets_dir=tmp_path / "secrets", public=public)

    (result,) = registry.apply(yaml.safe_dump(document).encode()).results
    registry.store.close()

    assert parse_documents(block.encode())[1] == [] or stored is not None
    assert result.action == "created"
    assert result.warnings == ()

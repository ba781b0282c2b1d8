"""Bundles that were made to keep their verifier busy for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controlplane.audit.bundle import records_name
from controlplane.audit.finding import FindingCode
from controlplane.audit.verification import verify_bundle
from controlplane.database import sqlite_url
from tests.functional.proof_world import ProofWorld


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [1, 2])
def test_a_hole_of_a_terabyte_is_not_read(tmp_path: Path, number: int):
    """A sparse file takes no room on a disk; read frame by frame it would take years."""
    world = ProofWorld(tmp_path, sqlite_url(tmp_path / "audit.db"))
    world.write("node-1-1", 5)
    world.state()
    bundle = world.export()
    world.close()
    file = bundle / records_name(number)
    if number > 1:
        file.write_bytes((bundle / records_name(1)).read_bytes())
    os.truncate(file, 2**40)

    report = verify_bundle(bundle)

    assert {finding.code for finding in report.findings} >= {
        FindingCode.FILE_CHANGED if number == 1 else FindingCode.FILE_UNEXPECTED,
        FindingCode.RECORD_UNREADABLE if number == 1 else FindingCode.POSITION_OUT_OF_ORDER,
    }
    assert not report.good

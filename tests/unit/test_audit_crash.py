"""kill -9 of a process that writes the log: whatever it was answered is there, and the chain is whole."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from extauthz.audit.record import AuditRecord
from extauthz.audit.wal import AuditLog
from extauthz.catalog.audit_policy import AuditSealingKey
from tests.unit.written_log import sealing_pair, written_log

ROOT = Path(__file__).parents[2]
WRITERS = 16
PATIENCE = 60.0


async def _write(directory: Path, writer_id: str, public_key: bytes) -> None:
    """Append for ever, and print each record's name when it was answered."""
    key = AuditSealingKey(key_id="k1", public_key=public_key)
    log = AuditLog(directory=directory, writer_id=writer_id, segment_bytes=64 * 1024, sealing_key=lambda: key)
    log.open()

    async def write(number: int) -> None:
        count = 0
        while True:
            name = f"{number}-{count}"
            await log.append(AuditRecord(decision_id=name, at_unix_us=1_700_000_000_000_000 + count, sentence="x" * random.randrange(400)))
            os.write(1, f"{name}\n".encode())
            count += 1

    await asyncio.gather(*(write(number) for number in range(WRITERS)))


@pytest.mark.parametrize("after", [1, 40, 400, 2000])
def test_a_killed_writer_leaves_what_it_answered_and_a_whole_chain(tmp_path: Path, after: int) -> None:
    private_key, sealing_key = sealing_pair()
    answered: list[str] = []
    for life in range(2):
        command = [sys.executable, "-m", "tests.unit.test_audit_crash", str(tmp_path), f"a-{life}", sealing_key.public_key.hex()]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(after)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        answered += [f"a-{life} {line.decode().strip()}" for line in lines if line.endswith(b"\n")]

    records = written_log(tmp_path).records(private_key)

    found = [f"{record.writer_id} {record.decision_id}" for record in records]
    assert len(answered) >= 2 * after
    assert set(answered) <= set(found)
    assert len(set(found)) == len(found)
    assert all(set(record.sentence) <= {"x"} for record in records)


if __name__ == "__main__":
    asyncio.run(_write(Path(sys.argv[1]), sys.argv[2], bytes.fromhex(sys.argv[3])))

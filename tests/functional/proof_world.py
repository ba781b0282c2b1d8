"""A record on a real database, with statements about it and an exported bundle of it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from controlplane.audit.anchor import Anchor, Anchoring, DirectoryAnchor
from controlplane.audit.database import open_audit_database
from controlplane.audit.evidence import Evidence
from controlplane.audit.export import export_bundle
from controlplane.audit.notary import Notary
from controlplane.audit.signer import KeyRing
from controlplane.audit.store import AuditStore
from controlplane.development_issuer import create_signing_key_file
from controlplane.registry.encryption import RegistryKey
from extauthz.v1 import audit_pb2 as pb

KEY = RegistryKey(b"0123456789abcdef0123456789abcdef")
START = datetime(2026, 11, 22, tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def write_key(path: Path) -> Path:
    path.unlink(missing_ok=True)
    assert create_signing_key_file(path)
    return path


class ProofWorld:
    """Its clock stands until it is moved."""

    def __init__(self, root: Path, database_url: str) -> None:
        self.now = START
        self.root = root
        self.store = AuditStore(open_audit_database(database_url), KEY, clock=lambda: self.now)
        self.anchor_dir = root / "anchor"
        self.anchor_dir.mkdir()
        self.key_file = write_key(root / "audit.pem")
        self.keys = KeyRing(file=self.key_file)
        self.notary = Notary(self.store, self.keys, interval_seconds=0.05, clock=lambda: self.now)
        self.evidence = Evidence(self.store)
        self._heads: dict[str, tuple[int, bytes]] = {}

    def close(self) -> None:
        self.store.close()

    def write(self, writer: str, count: int = 1, **fields: object) -> list[bytes]:
        """Records of a writer, shipped; a second apart."""
        sequence, previous = self._heads.get(writer, (0, b""))
        records: list[bytes] = []
        for _ in range(count):
            sequence, self.now = sequence + 1, self.now + timedelta(seconds=1)
            values = {
                "decision_id": f"{writer}-{sequence}", "at_unix_us": microseconds(self.now), "decision": 1, "event": 1,
                "namespace": "crm", "mcp_server": "accounts", "tool": "find", "sentence": f"call {sequence}",
            }  # fmt: skip
            record = pb.AuditRecord(writer_id=writer, sequence=sequence, previous_hash=previous, **(values | fields))
            records.append(record.SerializeToString())
            previous = hashlib.sha256(records[-1]).digest()
        first = sequence - count + 1
        ack = self.store.append(pb.ShipBatch(writer_id=writer, first_sequence=first, records=records), "node")
        assert not ack.refused
        self._heads[writer] = (sequence, previous)
        return records

    def state(self) -> None:
        """One statement about everything so far."""
        self.now += timedelta(seconds=1)
        while self.notary.state_next():
            pass

    async def anchor(self, anchors: Iterable[Anchor] = ()) -> Anchoring:
        anchoring = Anchoring(self.store, tuple(anchors) or (DirectoryAnchor(directory=self.anchor_dir),))
        await anchoring.put_waiting()
        return anchoring

    def export(self, name: str = "bundle", from_: datetime | None = None, to: datetime | None = None) -> Path:
        """The bundle as a directory."""
        self.now += timedelta(seconds=1)
        pieces = export_bundle(
            self.evidence,
            self.keys,
            from_unix_us=None if from_ is None else microseconds(from_),
            to_unix_us=None if to is None else microseconds(to),
            clock=lambda: self.now,
        )
        target = self.root / name
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces)), mode="r|") as archive:
            archive.extractall(target, filter="data")
        return target


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def put_files(directory: Path, files: dict[str, bytes]) -> None:
    """Make the directory hold exactly these files, whatever it held."""
    for path in [path for path in directory.rglob("*") if path.is_file() or path.is_symlink()]:
        if files.get(path.relative_to(directory).as_posix()) is None:
            path.unlink()
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            if path.exists():
                path.chmod(0o600)
            path.write_bytes(content)

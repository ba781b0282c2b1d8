"""What stands in the write-ahead logs of a directory, for tests without a control plane that takes it."""

from __future__ import annotations

from pathlib import Path

from controlplane.registry.audit_key import audit_private_key
from controlplane.registry.encryption import RegistryKey
from extauthz.audit.frames import read_frames, writer_of
from extauthz.audit.record import record_to_json
from extauthz.audit.sealing import open_subject_key
from extauthz.v1 import audit_pb2 as pb


def written_records(directory: Path, key: RegistryKey | None = None) -> list[dict[str, object]]:
    """Every record of every writer, in the order of time. Sealed values are opened with the key of the registry, where it is given."""
    records: list[dict[str, object]] = []
    opened: dict[str, pb.AuditSubject] = {}
    for path in sorted(path for path in directory.iterdir() if writer_of(path)) if directory.is_dir() else []:
        for frame in read_frames(path):
            if not frame.is_key:
                sealed = pb.AuditRecord.FromString(frame.payload).sealed
                records.append(record_to_json(frame.payload, opened.get(sealed.key_id)))
            elif key is not None:
                message = pb.AuditSubjectKey.FromString(frame.payload)
                opened[message.key_id] = open_subject_key(message, audit_private_key(key))
    return sorted(records, key=lambda record: str(record["at"]))

"""Secrets of a document that is being written: new values are sealed, `{encrypted: true}` keeps the stored one.

A stored secret stays with the addresses it was given for: whoever moves a server elsewhere must know the secret and give it
again, or an editor who may not read it could have it sent to a machine of his own.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from controlplane.registry.audit_sink_spec import DEFAULT_AUTHORITY
from controlplane.registry.encryption import CLIENT_SECRET, LOGIN_KEY, LOGIN_SECRET, RegistryKey, secret_aad
from controlplane.registry.entry import Json, StoredEntry, secret_references
from controlplane.registry.manifest import DocumentError
from controlplane.registry.spec import Kind
from extauthz.errors import CredentialError

MAX_SECRET_BYTES = 8192


def seal_secrets(
    kind: Kind, spec: Json, *, uid: str, before: StoredEntry | None, key: RegistryKey, document: int
) -> tuple[list[DocumentError], bool]:
    """Seal every secret of `spec` in place. The faults found, and whether a value is new."""
    stored = dict(secret_references(kind, before.spec)) if before is not None else {}
    errors: list[DocumentError] = []
    changed = False
    for path, reference in secret_references(kind, spec):
        kept = stored.get(path, {}).get("value")
        if reference.get("encrypted"):
            fault = _why_not_kept(path, kept, spec, before)
            if fault:
                errors.append(DocumentError(document=document, path=path, message=fault))
                continue
            del reference["encrypted"]
            reference["value"] = kept
        elif "value" in reference:
            fault = _why_unusable(reference["value"], lines=path.endswith(".key"))
            if fault:
                errors.append(DocumentError(document=document, path=f"{path}.value", message=fault))
                continue
            if kept is not None and _same(key, kept, secret_aad(uid, path), reference["value"]):
                reference["value"] = kept
                continue
            reference["value"] = key.seal(reference["value"], secret_aad(uid, path))
            changed = True
    return errors, changed


def _why_not_kept(path: str, kept: object, spec: Json, before: StoredEntry | None) -> str:
    if not isinstance(kept, str) or before is None:
        return "there is no stored value to keep; give 'value' or 'file'"
    if before.kind is Kind.AUTHORIZATION_SERVER:  # only what proves us to the identity provider ever leaves the registry
        moved = path in (LOGIN_SECRET, LOGIN_KEY) and _origin(spec["login"]["issuer"]) != _origin(before.spec["login"]["issuer"])
    elif before.kind is Kind.AUDIT_SINK:
        moved = _receiver(spec, path) != _receiver(before.spec, path)
    elif before.kind is Kind.GATEWAY:
        moved = False  # a listener's key is sent to Envoys only
    elif path == CLIENT_SECRET:
        moved = _origin(spec["credential"]["clientCredentials"]["tokenUrl"]) != _origin(
            before.spec["credential"]["clientCredentials"]["tokenUrl"]
        )
    else:
        moved = not _origins(spec) <= _origins(before.spec)
    if moved:
        return "the address has changed: give the value again (a stored secret is not sent to a new address)"
    return ""


def _why_unusable(value: str, *, lines: bool) -> str:
    """`lines`: a text of several lines, as private keys in PEM are."""
    if not value:
        return "is empty"
    if len(value.encode()) > MAX_SECRET_BYTES:
        return f"is longer than {MAX_SECRET_BYTES} bytes"
    line = value.replace("\r\n", "").replace("\n", "") if lines else value
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in line):
        return "holds a control character (a line break at its end?)"
    return ""


def _same(key: RegistryKey, sealed: str, aad: str, value: str) -> bool:
    try:
        return hmac.compare_digest(key.open(sealed, aad), value.encode())
    except CredentialError:
        return False


def _receiver(spec: Json, path: str) -> tuple[str, str | None, int | None]:
    """Where the secret at `path` of an AuditSink is sent."""
    name = path.split(".")[1]
    receiver = spec["parquet"]["s3"] if name == "parquet" else spec[name]
    url = receiver.get("authority", DEFAULT_AUTHORITY) if name == "sentinel" else receiver.get("endpoint") or receiver.get("url")
    return _origin(str(url))


def _origins(spec: Json) -> set[tuple[str, str | None, int | None]]:
    return {_origin(endpoint["url"]) for endpoint in spec["endpoints"]}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return (parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme))

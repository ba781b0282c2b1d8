"""Who signs statements: a private key from a file, or a command that asks whatever holds it (a KMS, an HSM, a smart card).

LEGATION_AUDIT_SIGNING_KEY_FILE holds an Ed25519 private key (PEM, PKCS #8, mode 0600) or, where LEGATION_AUDIT_SIGNER_COMMAND is set, the
public one. Rotation: put the new key beside it as FILE.next. The next statement is signed by the old key and names the new one, which
signs from then on; then FILE.next may take the place of FILE. A key that was lost is given up with FILE.replaces, which holds its id.
"""

from __future__ import annotations

import base64
import binascii
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key, load_pem_public_key

from controlplane.audit.statement import SIGNATURE_BYTES, StatementError, StatementKey
from extauthz.errors import ConfigurationError, LegationError

KEY_FILE_SETTING = "LEGATION_AUDIT_SIGNING_KEY_FILE"
COMMAND_SETTING = "LEGATION_AUDIT_SIGNER_COMMAND"
COMMAND_SECONDS = 30.0
_MAX_KEY_FILE_BYTES = 16_384
_PRIVATE_MARK = b"PRIVATE KEY"


class SigningError(LegationError):
    """Nothing could be signed. What was to be signed is signed later; nobody waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """One key that can sign."""

    key: StatementKey
    private_key: Ed25519PrivateKey | None = None
    command: tuple[str, ...] = ()

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature (64 bytes), checked with the public key. Raises `SigningError`."""
        signature = self.private_key.sign(message) if self.private_key is not None else self._asked(message)
        try:
            self.key.verify(signature, message)
        except StatementError as error:
            raise SigningError(f"{COMMAND_SETTING}: what it answered is no signature by the key {self.key.key_id}") from error
        return signature

    def _asked(self, message: bytes) -> bytes:
        name = Path(self.command[0]).name
        try:
            done = subprocess.run(  # noqa: S603 - the operator's own command, never through a shell
                (*self.command, self.key.key_id), input=message, capture_output=True, timeout=COMMAND_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SigningError(f"{COMMAND_SETTING}: {name} did not answer: {_told(error)}") from error
        if done.returncode != 0:
            raise SigningError(f"{COMMAND_SETTING}: {name} ended with code {done.returncode}")
        try:
            signature = base64.b64decode(done.stdout.strip(), validate=True)
        except (binascii.Error, ValueError) as error:
            raise SigningError(f"{COMMAND_SETTING}: {name} must print the signature in base64") from error
        if len(signature) != SIGNATURE_BYTES:
            raise SigningError(f"{COMMAND_SETTING}: {name} printed {len(signature)} bytes; an Ed25519 signature has {SIGNATURE_BYTES}")
        return signature


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """The signer of the key file and, during a rotation, that of FILE.next. Read again for each statement: a change needs no restart."""

    file: Path
    command: tuple[str, ...] = ()

    def choose(self, expected: str) -> tuple[Signer, StatementKey | None, str]:
        """Who signs the next statement, which key it names as its successor, and which lost key it replaces.

        `expected` is the id of the key that the statement before is followed by; empty before the first. Raises `SigningError`.
        """
        try:
            current, following = self._read(self.file), self._read(self.following_file) if self.following_file.exists() else None
        except ConfigurationError as error:
            raise SigningError(str(error)) from error
        if not expected or current.key.key_id == expected:
            announced = following.key if following is not None and following.key != current.key else None
            return current, announced, ""
        if following is not None and following.key.key_id == expected:
            return following, None, ""
        if self._given_up() == expected:
            return current, None, expected
        raise SigningError(
            f"{KEY_FILE_SETTING}: the next statement must be signed by the key {expected}, and {self.file} holds {current.key.key_id}; "
            f"put that key back, or give it up: write its id to {self.replaced_file.name} beside it"
        )

    @property
    def following_file(self) -> Path:
        return self.file.with_name(self.file.name + ".next")

    @property
    def replaced_file(self) -> Path:
        return self.file.with_name(self.file.name + ".replaces")

    def signer(self) -> Signer:
        """That of the key file. Raises `ConfigurationError`."""
        return self._read(self.file)

    def _given_up(self) -> str:
        try:
            return self.replaced_file.read_text()[:100].strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def _read(self, file: Path) -> Signer:
        return read_signer(file, self.command)


def read_signer(file: Path, command: tuple[str, ...] = ()) -> Signer:
    """The signer of a key file. Raises `ConfigurationError` for one that others can read, or that holds no Ed25519 key."""
    content = _content(file)
    try:
        if _PRIVATE_MARK not in content:
            if not command:
                raise ConfigurationError(f"{KEY_FILE_SETTING}: {file} holds a public key; who signs is told by {COMMAND_SETTING}")
            return Signer(key=parse_public_key(content), command=command)
        if file.stat().st_mode & 0o037:
            raise ConfigurationError(f"{KEY_FILE_SETTING}: {file} may be read or changed by others; run: chmod 600 {file}")
        private_key = load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm, OSError) as error:
        raise ConfigurationError(f"{KEY_FILE_SETTING}: {file} holds no Ed25519 key in PEM without a password") from error
    if not isinstance(private_key, Ed25519PrivateKey):
        raise ConfigurationError(f"{KEY_FILE_SETTING}: the key in {file} is not an Ed25519 key")
    if command:
        raise ConfigurationError(f"{COMMAND_SETTING} is set: {file} must hold the public key only")
    return Signer(key=StatementKey(public_key=private_key.public_key().public_bytes_raw()), private_key=private_key)


def parse_command(text: str) -> tuple[str, ...]:
    """The command and its arguments, as a shell would split them; it is started without one. Raises `ConfigurationError`."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigurationError(f"{COMMAND_SETTING} cannot be read: {error}") from error


def parse_public_key(content: bytes) -> StatementKey:
    """An Ed25519 public key in PEM. Raises `ValueError`."""
    try:
        public_key = load_pem_public_key(content)
    except UnsupportedAlgorithm as error:
        raise ValueError("the key's algorithm is not known") from error
    if not isinstance(public_key, Ed25519PublicKey):
        raise ValueError("the key is not an Ed25519 key")  # noqa: TRY004 - what the file holds, not what the caller gave
    return StatementKey(public_key=public_key.public_bytes_raw())


def public_pem(key: StatementKey) -> bytes:
    """A public key in PEM, as OpenSSL reads it."""
    public_key = Ed25519PublicKey.from_public_bytes(key.public_key)
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{KEY_FILE_SETTING}: cannot read {file}: {error.strerror}") from error


def _told(error: Exception) -> str:
    return f"it took longer than {COMMAND_SECONDS:g} seconds" if isinstance(error, subprocess.TimeoutExpired) else str(error)[:200]

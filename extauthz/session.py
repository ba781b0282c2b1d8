"""Legacy sessions, sealed: what a client holds as `Mcp-Session-Id` says nothing, and is good for one caller of one server.

    initialize ──▶ `decision` names the binding ──▶ upstream ──▶ Envoy's envelope (endpoint, upstream id) ──▶ `process` seals
    later      ──▶ `decision` opens ──▶ Envoy's envelope ──▶ that endpoint, with the id that it made

A sealed id is `lgs1_` and base64url of: hint of the key (4 bytes), nonce (12), ciphertext and tag. The plaintext is the time of
sealing (8 bytes, Unix seconds), the digest of the caller, the digest of the place (32 each) and the envelope.

AES-256-GCM-SIV (RFC 8452), since every replica seals with the same key of the day and none knows the nonces of the others: with
plain GCM one repeated nonce would give the key of authentication away, here it tells no more than that two ids are equal. Keys
come from the ContextKey resources, each derived for this purpose (HKDF-SHA256, RFC 5869).
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from extauthz import base64url
from extauthz.authorizer_settings import MAX_SESSION_AGE_SECONDS
from extauthz.catalog.server import McpServer
from extauthz.egress_context import signing_key
from extauthz.errors import Reason, SessionError
from extauthz.identity.principal import Principal
from extauthz.state import ContextKey

SESSION_HEADER = "mcp-session-id"
SEALED_HEADER = "x-legation-session"
"""What `process` sets on an answer; Envoy makes it the `mcp-session-id` that the client gets."""
MAX_SKEW_SECONDS = 300
"""By how much clocks of replicas may differ."""
BINDING_KEY = "session_binding"
"""In the dynamic metadata of a decision: what `process` seals an answer's session with."""
MAX_ENVELOPE_CHARACTERS = 2048

_PREFIX = "lgs1_"
_PURPOSE = b"legation session v1\x00"
_HINT_BYTES, _NONCE_BYTES, _TAG_BYTES, _DIGEST_BYTES = 4, 12, 16, 32
_SEALED_AT = struct.Struct(">Q")
_HEAD_BYTES = _SEALED_AT.size + 2 * _DIGEST_BYTES
_LEAST_BYTES = _HINT_BYTES + _NONCE_BYTES + _HEAD_BYTES + _TAG_BYTES
MAX_SEALED_CHARACTERS = len(_PREFIX) + (_LEAST_BYTES + MAX_ENVELOPE_CHARACTERS + 2) * 4 // 3
_ENVELOPE = re.compile(r"[A-Za-z0-9+/]+={0,2};UV:([A-Za-z0-9+/]+={0,2})", re.ASCII)
_VISIBLE = re.compile(rb"[\x21-\x7e]+")  # MCP 2025-11-25, basic/transports, "Session Management"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionBinding:
    """Whose session, and where: digests, since Envoy carries this to the sealing and needs no names."""

    caller: bytes
    place: bytes


def bind_session(principal: Principal, mcp_server: McpServer, listener: str) -> SessionBinding:
    """The binding of a session of `principal` with the server as it is registered now; a replaced server has another uid."""
    return SessionBinding(caller=caller_digest(principal), place=_digest((listener, mcp_server.id, mcp_server.uid)))


def caller_digest(principal: Principal) -> bytes:
    """By which callers are told apart: the same for every token of one caller, through one client and actor."""
    caller: tuple[str, ...] = (
        principal.kind.value,
        principal.provider,
        principal.issuer,
        principal.subject,
        principal.oauth_client_id,
        principal.actor,
    )
    if principal.workload is not None:  # its id is the actor's; the same id of another trust domain is another caller
        caller = (*caller, principal.workload.provider, principal.workload.id)
    return _digest(caller)


def binding_to_text(binding: SessionBinding) -> str:
    """As Envoy carries it from the decision to the sealing, in dynamic metadata."""
    return base64url.encode(binding.caller + binding.place)


def binding_from_text(text: str) -> SessionBinding:
    """What `binding_to_text` wrote; raises `SessionError`."""
    raw = _decode(text)
    if len(raw) != 2 * _DIGEST_BYTES:
        raise _unknown("the binding is missing or malformed")
    return SessionBinding(caller=raw[:_DIGEST_BYTES], place=raw[_DIGEST_BYTES:])


def seal_session(envelope: str, binding: SessionBinding, keys: Sequence[ContextKey], now: float) -> str:
    """The id that the client gets for Envoy's `envelope`; another text on every call. Raises `SessionError` for what is no envelope."""
    found = _ENVELOPE.fullmatch(envelope) if len(envelope) <= MAX_ENVELOPE_CHARACTERS else None
    if found is None or not _VISIBLE.fullmatch(_decode_standard(found.group(1))):
        raise _unknown("the id of the MCP server is not one id of visible ASCII characters in Envoy's envelope")
    key = signing_key(keys, now)
    if key is None:
        raise _unknown("there is no key to seal with")
    nonce = os.urandom(_NONCE_BYTES)
    hint = _hint(key)
    plaintext = _SEALED_AT.pack(int(now)) + binding.caller + binding.place + envelope.encode("ascii")
    return _PREFIX + base64url.encode(hint + nonce + _cipher(key.key).encrypt(nonce, plaintext, _PURPOSE + hint))


def open_session(sealed: str, binding: SessionBinding, keys: Sequence[ContextKey], now: float, *, max_age_seconds: int) -> str:
    """Envoy's envelope of a session that `binding` may use at `now`.

    Raises `SessionError`: `SESSION_UNKNOWN` (not sealed by us, changed, or its key is gone), `SESSION_EXPIRED`, `SESSION_FOREIGN`.
    """
    # (1) one text, one encoding
    if len(sealed) > MAX_SEALED_CHARACTERS or not sealed.startswith(_PREFIX):
        raise _unknown("the session id was not made here")
    raw = _decode(sealed.removeprefix(_PREFIX))
    if len(raw) <= _LEAST_BYTES:
        raise _unknown("the session id was not made here")
    # (2) sealed with a key that we hold
    key, plaintext = _decrypted(raw, keys)
    # (3) not too early, not too late
    (sealed_at,) = _SEALED_AT.unpack_from(plaintext)
    if not key.not_before_unix <= sealed_at < key.not_after_unix or sealed_at > now + MAX_SKEW_SECONDS:
        raise _unknown("the session id was sealed at a time when its key was not in use")
    if now >= sealed_at + min(max_age_seconds, MAX_SESSION_AGE_SECONDS):
        raise SessionError(Reason.SESSION_EXPIRED, "the session has expired")
    # (4) by the caller who opened it, on the server where it was opened
    if not hmac.compare_digest(plaintext[_SEALED_AT.size : _HEAD_BYTES], binding.caller + binding.place):
        raise SessionError(Reason.SESSION_FOREIGN, "the session belongs to another caller, client or server")
    return plaintext[_HEAD_BYTES:].decode("ascii")


class EndedSessions:
    """Digests of sessions that their clients have ended by this authorizer, the newest ones: nothing is answered in them any more.

    Their servers forget them, too, wherever they are asked; lists are answered without asking.
    """

    def __init__(self, most: int = 16_384) -> None:
        self._most = most
        self._digests: dict[str, None] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._digests

    def add(self, digest: str) -> None:
        """Remember one more; the oldest makes room for it."""
        if len(self._digests) >= self._most:
            del self._digests[next(iter(self._digests))]
        self._digests[digest] = None


def session_digest(sealed: str) -> str:
    """By which the record tells sessions apart without holding their ids: 64 bits of SHA-256."""
    return "sha256:" + hashlib.sha256(sealed.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _decrypted(raw: bytes, keys: Sequence[ContextKey]) -> tuple[ContextKey, bytes]:
    hint, nonce, ciphertext = raw[:_HINT_BYTES], raw[_HINT_BYTES : _HINT_BYTES + _NONCE_BYTES], raw[_HINT_BYTES + _NONCE_BYTES :]
    for key in keys:
        if _hint(key) == hint:
            try:
                return key, _cipher(key.key).decrypt(nonce, ciphertext, _PURPOSE + hint)
            except InvalidTag:
                continue
    raise _unknown("the session id was not sealed with a key that is held here")


@functools.lru_cache(maxsize=8)
def _cipher(key: bytes) -> AESGCMSIV:
    return AESGCMSIV(HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(key))


@functools.lru_cache(maxsize=8)
def _hint(key: ContextKey) -> bytes:
    return hashlib.sha256(_PURPOSE + key.key_id.encode()).digest()[:_HINT_BYTES]


def _digest(parts: Sequence[str]) -> bytes:
    """Of the parts with their lengths: no two lists of parts have the same digest."""
    text = "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.sha256(_PURPOSE + text.encode("utf-8", "surrogatepass")).digest()


def _decode(text: str) -> bytes:
    try:
        return base64url.decode(text)
    except ValueError as error:
        raise _unknown("the session id was not made here") from error


def _decode_standard(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _unknown(sentence: str) -> SessionError:
    return SessionError(Reason.SESSION_UNKNOWN, sentence)

"""Sessions of legacy clients, sealed: nothing is stored, so that every aggregator can go on with what another one began.

A session id is `lga1_` and base64url of: hint of the key (4 bytes), nonce (12), ciphertext and tag. The plaintext is JSON: when it was
sealed, whose it is, at which front, what the client said of itself in `initialize`, and the ids of the sessions that were opened with
legacy members. An id that somebody else shows, or at another front, is no session.

AES-256-GCM-SIV (RFC 8452) for the reason that `extauthz.session` gives; the keys are the SealingKeys, which only aggregators hold.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from extauthz import base64url
from extauthz.egress_context import signing_key
from extauthz.errors import Reason, SessionError
from extauthz.identity.principal import Principal
from extauthz.mcp.era import LEGACY_VERSIONS
from extauthz.session import MAX_SKEW_SECONDS, caller_digest
from extauthz.state import ContextKey

PREFIX = "lga1_"
MAX_ID_CHARACTERS = 7000
"""Of a header: many clients take no more than eight thousand for all of them."""
_MAX_SAID_CHARACTERS = 2000
_PURPOSE = b"legation aggregator session v1\x00"
_HINT_BYTES, _NONCE_BYTES, _TAG_BYTES = 4, 12, 16
_INFO_MEMBERS = ("name", "title", "version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a legacy client said in `initialize`, and the sessions of members that belong to it."""

    protocol_version: str
    capabilities: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    info: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    upstream_sessions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


def seal_session(session: Session, principal: Principal, place: str, keys: Sequence[ContextKey], now: float) -> str:
    """The id that the client gets. Sessions of members for which there is no room are left out: they are opened anew when needed.

    Raises `SessionError` when there is no key to seal with.
    """
    key = signing_key(keys, now)
    if key is None:
        raise SessionError(Reason.SESSION_UNKNOWN, "there is no key to seal with")
    kept: dict[str, str] = {}
    document = {
        "at": int(now),
        "cal": _digest_text(caller_digest(principal)),
        "plc": _place_digest(place),
        "ver": session.protocol_version,
        "cap": _bounded(session.capabilities),
        "inf": {name: session.info[name] for name in _INFO_MEMBERS if isinstance(session.info.get(name), str)},
        "ups": kept,
    }
    room = MAX_ID_CHARACTERS - len(PREFIX) - 4 * (len(_dumped(document)) + _HINT_BYTES + _NONCE_BYTES + _TAG_BYTES + 2) // 3
    for member, handle in session.upstream_sessions.items():
        room -= (len(member) + len(handle) + 6) * 4 // 3 + 1
        if room < 0:
            break
        kept[member] = handle
    hint, nonce = _hint(key), os.urandom(_NONCE_BYTES)
    return PREFIX + base64url.encode(hint + nonce + _cipher(key.key).encrypt(nonce, _dumped(document), _PURPOSE + hint))


def open_session(sealed: str, principal: Principal, place: str, keys: Sequence[ContextKey], now: float, *, max_age_seconds: int) -> Session:
    """The session behind an id, for its caller at its front.

    Raises `SessionError`: `SESSION_UNKNOWN` (not sealed here, changed, or its key is gone), `SESSION_EXPIRED`, `SESSION_FOREIGN`.
    """
    # (1) sealed with a key that we hold
    key, document = _opened(sealed, keys)
    # (2) not too early, not too late
    sealed_at = int(document["at"])
    if not key.not_before_unix <= sealed_at < key.not_after_unix or sealed_at > now + MAX_SKEW_SECONDS:
        raise _unknown("the session id was sealed at a time when its key was not in use")
    if now >= sealed_at + max_age_seconds:
        raise SessionError(Reason.SESSION_EXPIRED, "the session has expired")
    # (3) by the caller who opened it, at the front where it was opened
    whose = f"{document['cal']}.{document['plc']}"
    if not hmac.compare_digest(whose, f"{_digest_text(caller_digest(principal))}.{_place_digest(place)}"):
        raise SessionError(Reason.SESSION_FOREIGN, "the session belongs to another caller or server")
    version = document["ver"]
    if version not in LEGACY_VERSIONS:
        raise _unknown("the session is of a protocol version that is not served any more")
    return Session(
        protocol_version=version,
        capabilities=MappingProxyType(document["cap"]),
        info=MappingProxyType(document["inf"]),
        upstream_sessions=MappingProxyType(document["ups"]),
    )


def _opened(sealed: str, keys: Sequence[ContextKey]) -> tuple[ContextKey, dict[str, Any]]:
    if len(sealed) > MAX_ID_CHARACTERS or not sealed.startswith(PREFIX):
        raise _unknown("the session id was not made here")
    try:
        raw = base64url.decode(sealed.removeprefix(PREFIX))
    except ValueError as error:
        raise _unknown("the session id was not made here") from error
    hint, nonce, ciphertext = raw[:_HINT_BYTES], raw[_HINT_BYTES : _HINT_BYTES + _NONCE_BYTES], raw[_HINT_BYTES + _NONCE_BYTES :]
    for key in keys if len(ciphertext) > _TAG_BYTES else ():
        if _hint(key) == hint:
            try:
                document: dict[str, Any] = json.loads(_cipher(key.key).decrypt(nonce, ciphertext, _PURPOSE + hint))
            except InvalidTag:
                continue
            return key, document
    raise _unknown("the session id was not sealed with a key that is held here")


def _bounded(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a client says of itself, as long as it is of a sensible length; else only the names of what it can do."""
    return dict(said) if len(_dumped(dict(said))) <= _MAX_SAID_CHARACTERS else {name[:64]: {} for name in list(said)[:16]}


def _dumped(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _digest_text(digest: bytes) -> str:
    return base64url.encode(digest[:16])


def _place_digest(place: str) -> str:
    return _digest_text(hashlib.sha256(_PURPOSE + place.encode()).digest())


@functools.lru_cache(maxsize=8)
def _cipher(key: bytes) -> AESGCMSIV:
    return AESGCMSIV(HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(key))


@functools.lru_cache(maxsize=8)
def _hint(key: ContextKey) -> bytes:
    return hashlib.sha256(_PURPOSE + key.key_id.encode()).digest()[:_HINT_BYTES]


def _unknown(sentence: str) -> SessionError:
    return SessionError(Reason.SESSION_UNKNOWN, sentence)

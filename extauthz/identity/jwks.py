"""Public keys of identity providers: parsed strictly, fetched ahead of need, kept while the provider is down.

    KeySource.keys_for(provider, kid, deadline) ──▶ KeySet ──▶ identity.access_token

Inline keys need no network. Keys behind `jwks_url` or discovery are read by a background task per issuer; a request waits
for that task only when no keys are there yet or its key id is new, never past its deadline, and a new key id starts at most
one read per `rotation_seconds`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from extauthz.address import AddressRules
from extauthz.errors import AddressError, AuthenticationError, ConfigurationError, FetchError, Reason
from extauthz.identity.provider import IdentityProvider
from extauthz.outbound import OutboundHttp, is_insecure_http_allowed

logger = structlog.get_logger(__name__)

MAX_KEY_SET_BYTES = 256 * 1024
MAX_KEYS = 100
_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EC_ALGORITHMS = {"P-256": frozenset({"ES256"}), "P-384": frozenset({"ES384"}), "P-521": frozenset({"ES512"})}
_SECRET_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationKey:
    """One public key and the algorithms that its type allows (an RSA key never verifies ES256, nor the reverse)."""

    kid: str
    algorithms: frozenset[str]
    public_key: PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """The usable keys of one issuer. A new object means changed keys: whatever was verified with the old one is void."""

    digest: str
    keys: tuple[VerificationKey, ...]

    def has(self, kid: str) -> bool:
        """Whether a key of this id is in the set."""
        return any(key.kid == kid for key in self.keys)

    def select(self, kid: str | None, algorithms: frozenset[str]) -> VerificationKey | None:
        """The one key that fits: by id, or, when the token names none, the only key of these algorithms."""
        fitting = [key for key in self.keys if key.algorithms & algorithms and (kid is None or key.kid == kid)]
        return fitting[0] if len(fitting) == 1 else None


def parse_key_set(text: str | bytes) -> KeySet:
    """Parse a JSON Web Key Set. Raises `ConfigurationError` for secret keys, and when no key is usable for signatures."""
    if len(text) > MAX_KEY_SET_BYTES:
        raise ConfigurationError(f"a key set must not be larger than {MAX_KEY_SET_BYTES} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError("a key set must be a JSON object") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ConfigurationError(f"a key set must have a list 'keys' of at most {MAX_KEYS} keys")
    keys = [key for index, entry in enumerate(entries) if (key := _parse_key(index, entry)) is not None]
    if not keys:
        raise ConfigurationError("a key set must have a signature key: RSA of 2048 to 8192 bits, EC on P-256, P-384 or P-521, or Ed25519")
    return KeySet(digest=hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest(), keys=tuple(keys))


def discovery_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata of `issuer` may be: OpenID Connect discovery first, then RFC 8414's form."""
    parts = urlsplit(issuer)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        return ()
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    return (f"{origin}{path}/.well-known/openid-configuration", f"{origin}/.well-known/oauth-authorization-server{path}")


class KeySource:
    """Keys of all identity providers. Use as `async with KeySource(rules) as key_source`."""

    def __init__(
        self,
        address_rules: AddressRules,
        *,
        refresh_seconds: float = 300.0,
        rotation_seconds: float = 10.0,
        retry_seconds: float = 2.0,
        max_staleness_seconds: float = 86_400.0,
        fetch_timeout_seconds: float = 5.0,
        ca_file: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._outbound = OutboundHttp(address_rules, timeout_seconds=fetch_timeout_seconds, ca_file=ca_file, tls=tls)
        self._refresh_seconds = refresh_seconds
        self._rotation_seconds = rotation_seconds
        self._retry_seconds = retry_seconds
        self._max_staleness_seconds = max_staleness_seconds
        self._inline: dict[str, KeySet | ConfigurationError] = {}
        self._remote: dict[tuple[str, str, bool], _RemoteKeys] = {}

    async def __aenter__(self) -> KeySource:
        await self._outbound.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        closing = [keys.close() for keys in self._remote.values()]
        self._remote.clear()
        await asyncio.gather(*closing)
        await self._outbound.__aexit__(kind, error, trace)

    def watch(self, identity_providers: Sequence[IdentityProvider]) -> None:
        """Read the keys of exactly these providers ahead of need; forget the others. Call it with each new state."""
        wanted = {_location(provider) for provider in identity_providers if not provider.jwks_json}
        for location in [location for location in self._remote if location not in wanted]:
            self._remote.pop(location).cancel()
        for provider in identity_providers:
            if not provider.jwks_json:
                self._remote_keys(provider)
        inline = {provider.jwks_json for provider in identity_providers}
        self._inline = {text: parsed for text, parsed in self._inline.items() if text in inline}

    def current_keys(self, provider: IdentityProvider) -> KeySet | None:
        """The keys that are known now, without waiting; None when there are none or they are too old."""
        if provider.jwks_json:
            found = self._inline.get(provider.jwks_json)
            return found if isinstance(found, KeySet) else None
        remote = self._remote.get(_location(provider))
        return remote.usable() if remote is not None else None

    async def keys_for(self, provider: IdentityProvider, kid: str | None, deadline: float) -> KeySet:
        """The provider's keys, waiting at most until `deadline` (event loop time) when `kid` is not among the known ones.

        The result may lack `kid`. Raises `AuthenticationError` (`ISSUER_UNAVAILABLE`) when no keys can be had.
        """
        if provider.jwks_json:
            return self._inline_keys(provider)
        remote = self._remote_keys(provider)
        known = remote.usable()
        if known is not None and (kid is None or known.has(kid)):
            return known
        await remote.read_soon(deadline)
        found = remote.usable()
        if found is None:
            raise AuthenticationError(Reason.ISSUER_UNAVAILABLE, "the keys of the access token's issuer cannot be read at the moment")
        return found

    def _inline_keys(self, provider: IdentityProvider) -> KeySet:
        found = self._inline.get(provider.jwks_json)
        if found is None:
            try:
                found = parse_key_set(provider.jwks_json)
            except ConfigurationError as error:
                found = error
            self._inline[provider.jwks_json] = found
        if isinstance(found, ConfigurationError):
            raise AuthenticationError(Reason.ISSUER_UNAVAILABLE, f"the keys of identity provider {provider.id} are unusable")
        return found

    def _remote_keys(self, provider: IdentityProvider) -> _RemoteKeys:
        location = _location(provider)
        if location not in self._remote:
            self._remote[location] = _RemoteKeys(
                provider=provider,
                fetch=lambda: _fetch_key_set(self._outbound, provider),
                refresh_seconds=self._refresh_seconds,
                rotation_seconds=self._rotation_seconds,
                retry_seconds=self._retry_seconds,
                max_staleness_seconds=self._max_staleness_seconds,
            )
        return self._remote[location]


class _RemoteKeys:
    """The key set of one issuer and the tasks that keep it fresh."""

    def __init__(
        self,
        *,
        provider: IdentityProvider,
        fetch: Callable[[], Any],
        refresh_seconds: float,
        rotation_seconds: float,
        retry_seconds: float,
        max_staleness_seconds: float,
    ) -> None:
        self._provider_id = provider.id
        self._fetch = fetch
        self._refresh_seconds = refresh_seconds
        self._rotation_seconds = rotation_seconds
        self._retry_seconds = retry_seconds
        self._max_staleness_seconds = max_staleness_seconds
        self._loop = asyncio.get_running_loop()
        self._key_set: KeySet | None = None
        self._read_at = float("-inf")
        self._demanded_at = float("-inf")
        self._failures = 0
        self._reading: asyncio.Task[None] | None = None
        self._read()  # at once, so that the first request waits for it and spends no read on demand
        self._refreshing = self._loop.create_task(self._refresh_forever(), name=f"keys of {provider.id}")

    def usable(self) -> KeySet | None:
        """The last good keys, unless they are older than the bound."""
        return self._key_set if self._loop.time() - self._read_at <= self._max_staleness_seconds else None

    async def read_soon(self, deadline: float) -> None:
        """Wait for the read under way, or for a new one unless the last one on demand was too recent."""
        now = self._loop.time()
        if self._reading is None:
            if now - self._demanded_at < self._rotation_seconds:
                return
            self._demanded_at = now
        if deadline > now:
            await asyncio.wait({self._read()}, timeout=deadline - now)

    def cancel(self) -> None:
        """Stop the tasks without waiting for them."""
        for task in (self._refreshing, self._reading):
            if task is not None:
                task.cancel()

    async def close(self) -> None:
        """Stop the tasks and wait until they are gone."""
        self.cancel()
        await asyncio.gather(*(task for task in (self._refreshing, self._reading) if task is not None), return_exceptions=True)

    def _read(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._reading = self._loop.create_task(self._read_once(), name=f"read keys of {self._provider_id}")
            self._reading.add_done_callback(self._forget_reading)
        return self._reading

    def _forget_reading(self, task: asyncio.Task[None]) -> None:
        if self._reading is task:
            self._reading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures += 1
            logger.error("issuer keys reading failed", identity_provider=self._provider_id, error=type(error).__name__, exc_info=error)

    async def _read_once(self) -> None:
        try:
            found: KeySet = await self._fetch()
        except (AddressError, FetchError, ConfigurationError) as error:
            self._failures += 1
            logger.warning("issuer keys unreadable", identity_provider=self._provider_id, cause=str(error), failures=self._failures)
            return
        self._failures = 0
        self._read_at = self._loop.time()
        if self._key_set is None or self._key_set.digest != found.digest:
            self._key_set = found

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.wait({self._read()})
            backoff = self._retry_seconds * 2 ** min(self._failures - 1, 5) if self._failures else self._refresh_seconds
            await asyncio.sleep(min(self._refresh_seconds, backoff))


def _location(provider: IdentityProvider) -> tuple[str, str, bool]:
    return provider.issuer, provider.jwks_url, provider.allow_insecure_http


async def _fetch_key_set(outbound: OutboundHttp, provider: IdentityProvider) -> KeySet:
    jwks_url = provider.jwks_url or await _discover_jwks_url(outbound, provider)
    return parse_key_set(await _fetch(outbound, provider, jwks_url))


async def _discover_jwks_url(outbound: OutboundHttp, provider: IdentityProvider) -> str:
    """`jwks_uri` of the issuer's metadata, whose `issuer` must be the configured one, character by character."""
    problems = []
    for url in discovery_urls(provider.issuer):
        try:
            metadata = json.loads(await _fetch(outbound, provider, url))
        except FetchError as error:
            problems.append(str(error))
            continue
        except (ValueError, RecursionError):
            problems.append(f"{url} is not JSON")
            continue
        if not isinstance(metadata, dict) or metadata.get("issuer") != provider.issuer:
            problems.append(f"{url} does not describe issuer {provider.issuer}")
        elif not isinstance(metadata.get("jwks_uri"), str):
            problems.append(f"{url} has no jwks_uri")
        else:
            return str(metadata["jwks_uri"])
    raise FetchError("; ".join(problems) or f"issuer {provider.issuer} is not a URL: give its keys by jwks or jwksUrl")


async def _fetch(outbound: OutboundHttp, provider: IdentityProvider, url: str) -> bytes:
    insecure = is_insecure_http_allowed(url, allow_insecure_http=provider.allow_insecure_http)
    response = await outbound.get(url, max_bytes=MAX_KEY_SET_BYTES, insecure_http=insecure)
    if response.status != 200:
        raise FetchError(f"{url} answered {response.status}")
    return response.body


def _parse_key(index: int, entry: object) -> VerificationKey | None:
    """One key; None when it is not for signatures or of a type we do not use (RFC 7517 section 5 says to ignore those)."""
    if not isinstance(entry, dict):
        raise ConfigurationError(f"keys[{index}] must be an object")
    if entry.get("kty") == "oct" or _SECRET_MEMBERS & entry.keys():
        raise ConfigurationError(f"keys[{index}] is a secret key; a key set must hold public keys only")
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    kid = entry.get("kid", "")
    if not isinstance(kid, str):
        raise ConfigurationError(f"keys[{index}].kid must be a string")
    try:
        parsed = _public_key(entry)
    except (PyJWTError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"keys[{index}] is malformed") from error
    if parsed is None:
        return None
    public_key, algorithms = parsed
    if "alg" in entry:
        algorithms &= {entry["alg"]} if isinstance(entry["alg"], str) else set()
    return VerificationKey(kid=kid, algorithms=algorithms, public_key=public_key) if algorithms else None


def _public_key(entry: dict[str, Any]) -> tuple[PublicKey, frozenset[str]] | None:
    match entry.get("kty"), entry.get("crv"):
        case "RSA", _:
            rsa_key = RSAAlgorithm.from_jwk(entry)
            if isinstance(rsa_key, RSAPublicKey) and 2048 <= rsa_key.key_size <= 8192:
                return rsa_key, _RSA_ALGORITHMS
        case "EC", str(curve) if curve in _EC_ALGORITHMS:
            ec_key = ECAlgorithm.from_jwk(entry)
            if isinstance(ec_key, EllipticCurvePublicKey):
                return ec_key, _EC_ALGORITHMS[curve]
        case "OKP", "Ed25519":
            okp_key = OKPAlgorithm.from_jwk(entry)
            if isinstance(okp_key, Ed25519PublicKey):
                return okp_key, frozenset({"EdDSA"})
    return None

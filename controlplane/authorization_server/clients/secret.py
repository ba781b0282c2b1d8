"""Digests of client secrets and initial access tokens; of those that we make, nothing else is kept.

Secrets that we make have 256 random bits: nobody guesses them from a digest, so one SHA-256 is as good there as a slow hash, and a
flood of wrong ones costs nothing. Secrets that operators chose lie encrypted in the registry, and their digests in memory only, where
a slow hash would protect nothing either.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

MAX_SECRET_LENGTH = 512
_SHA256 = "sha256:"


def new_secret() -> str:
    """A secret of 256 random bits, of characters that no encoding changes."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """What is kept of a secret."""
    return _SHA256 + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def secret_matches(secret: str, digest: str) -> bool:
    """Whether this is the secret of that digest, compared in constant time; never for an empty secret or digest."""
    return 0 < len(secret) <= MAX_SECRET_LENGTH and hmac.compare_digest(digest_of(secret).encode(), digest.encode())

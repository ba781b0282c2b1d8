"""A client's side of DPoP (RFC 9449), for tests: proofs as they should be, and as they should not."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any

import jwt

from extauthz.identity.dpop import thumbprint
from tests.issuer import SigningKey


def digest_of(access_token: str) -> str:
    """`ath`: what a proof says of the token that it comes with."""
    return base64.urlsafe_b64encode(hashlib.sha256(access_token.encode()).digest()).rstrip(b"=").decode()


class ProofKey:
    """The client's key. `confirmation` is what an issuer puts into `cnf` of a token that is bound to it."""

    def __init__(self, algorithm: str = "ES256") -> None:
        self.key = SigningKey("proof", algorithm)
        jwk = self.key.public_jwk()
        self.jwk = {name: value for name, value in jwk.items() if name in {"kty", "crv", "x", "y", "n", "e"}}

    @property
    def confirmation(self) -> dict[str, str]:
        return {"jkt": thumbprint(self.jwk)}

    def proof(
        self,
        access_token: str,
        *,
        method: str = "POST",
        url: str,
        now: float | None = None,
        header: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A proof for one request; `...` leaves a claim or header out."""
        good: dict[str, Any] = {
            "jti": secrets.token_urlsafe(12),
            "htm": method,
            "htu": url,
            "iat": int(time.time() if now is None else now),
            "ath": digest_of(access_token),
        }
        payload = {name: value for name, value in (good | claims).items() if value is not ...}
        headers = {name: value for name, value in ({"typ": "dpop+jwt", "jwk": self.jwk} | (header or {})).items() if value is not ...}
        if "typ" not in headers:
            headers["typ"] = None
        return jwt.encode(payload, self.key.private_key, algorithm=self.key.algorithm, headers=headers)

    def unsigned(self, access_token: str, *, url: str) -> str:
        """The same with `alg: none`."""
        _, payload, _ = self.proof(access_token, url=url).split(".")
        header = json.dumps({"typ": "dpop+jwt", "alg": "none", "jwk": self.jwk}).encode()
        return f"{base64.urlsafe_b64encode(header).rstrip(b'=').decode()}.{payload}."

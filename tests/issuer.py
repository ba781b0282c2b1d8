"""Issuers of access tokens for tests: real keys, and a real HTTP issuer on loopback that can be made to misbehave."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

RESOURCE_URL = "https://gateway.example/servers/demo/crm/mcp"
ISSUER = "https://issuer.example"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class SigningKey:
    """A private key, its id, and its algorithm."""

    def __init__(self, kid: str, algorithm: str = "ES256", private_key: PrivateKey | None = None) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private_key = private_key or _new_key(algorithm)

    def public_jwk(self, **members: Any) -> dict[str, Any]:
        public = self.private_key.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            jwk = RSAAlgorithm.to_jwk(public, as_dict=True)
        elif isinstance(public, ec.EllipticCurvePublicKey):
            jwk = ECAlgorithm.to_jwk(public, as_dict=True)
        else:
            jwk = OKPAlgorithm.to_jwk(public, as_dict=True)
        jwk.pop("key_ops", None)
        return {**jwk, "kid": self.kid, "use": "sig", **members}

    def sign(self, claims: dict[str, Any], *, headers: dict[str, Any] | None = None) -> str:
        header = {"kid": self.kid, "typ": "at+jwt", **(headers or {})}
        return jwt.encode(claims, self.private_key, algorithm=self.algorithm, headers={k: v for k, v in header.items() if v is not None})


def _new_key(algorithm: str) -> PrivateKey:
    if algorithm.startswith(("RS", "PS")):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}[algorithm])


def key_set(*keys: SigningKey) -> str:
    return json.dumps({"keys": [key.public_jwk() for key in keys]})


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


class HttpIssuer:
    """Discovery and keys on 127.0.0.1. Tests change its attributes; it counts what it is asked."""

    def __init__(self, *keys: SigningKey, path: str = "") -> None:
        self.keys = list(keys)
        self.path = path
        self.claimed_issuer: str | None = None
        self.jwks_uri: str | None = None
        self.key_set_text: str | None = None
        self.oidc = True
        self.down = False
        self.delay_seconds = 0.0
        self.gate: asyncio.Event | None = None  # keys are told when it is set
        self.redirect_to = ""
        self.asked: dict[str, int] = {"metadata": 0, "keys": 0}
        self._runner: web.AppRunner | None = None
        self.origin = ""

    @property
    def issuer(self) -> str:
        return self.origin + self.path

    async def __aenter__(self) -> HttpIssuer:
        app = web.Application()
        app.router.add_get(f"{self.path}/.well-known/openid-configuration", self._oidc_metadata)
        app.router.add_get(f"/.well-known/oauth-authorization-server{self.path}", self._metadata)
        app.router.add_get("/keys", self._keys)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.origin = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _oidc_metadata(self, request: web.Request) -> web.Response:
        return await self._metadata(request) if self.oidc else web.Response(status=404)

    async def _metadata(self, _: web.Request) -> web.Response:
        self.asked["metadata"] += 1
        if self.down:
            return web.Response(status=503)
        return web.json_response({"issuer": self.claimed_issuer or self.issuer, "jwks_uri": self.jwks_uri or f"{self.origin}/keys"})

    async def _keys(self, _: web.Request) -> web.Response:
        self.asked["keys"] += 1
        await asyncio.sleep(self.delay_seconds)
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            return web.Response(status=503)
        if self.redirect_to:
            return web.Response(status=302, headers={"Location": self.redirect_to})
        text = self.key_set_text if self.key_set_text is not None else key_set(*self.keys)
        return web.Response(text=text, content_type="application/json")

"""Emulations of identity providers, for tests: tokens with the claims that the real product issues, and its refusals.

Written after the vendors' documentation (named at each class), not recorded from a tenant: docs/identity.md says so to users.
Each is a real HTTP issuer on the loopback: discovery, keys, a token endpoint for client credentials and codes (`code_for` stands
for the browser).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any, ClassVar

from aiohttp import web

from tests.issuer import SigningKey, key_set

TENANT = "11111111-2222-3333-4444-555555555555"
API = "https://gateway.example/servers/demo/crm/mcp"
CLIENT, SECRET = "crm-agent", "s3cret"
Form = dict[str, str]
Claims = dict[str, Any]


class RefusedError(Exception):
    """What the token endpoint says instead of a token."""

    def __init__(self, status: int, error: str, description: str = "") -> None:
        super().__init__(error)
        self.status, self.error, self.description = status, error, description


class EmulatedIdp:
    """Base: what is the same for all of them."""

    path = ""
    audience = API
    header: ClassVar[dict[str, Any]] = {"typ": None}

    def __init__(self) -> None:
        self.key = SigningKey(secrets.token_hex(8), "RS256")
        self.origin = ""
        self._codes: dict[str, Claims] = {}
        self._runner: web.AppRunner | None = None

    @property
    def issuer(self) -> str:
        return self.origin + self.path

    async def __aenter__(self) -> EmulatedIdp:
        app = web.Application()
        app.router.add_get(f"{self.path.rstrip('/')}/.well-known/openid-configuration", self._metadata)
        app.router.add_get("/keys", self._keys)
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.origin = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def code_for(self, user: str, **claims: Any) -> str:
        """What the browser brings back when `user` has logged in."""
        code = secrets.token_urlsafe(8)
        self._codes[code] = {"user": user, **claims}
        return code

    # what products say differently

    def access_token(self, who: Claims) -> Claims:
        raise NotImplementedError

    def client_token(self, form: Form) -> Claims:
        raise NotImplementedError

    def id_token(self, who: Claims) -> Claims:
        return {"sub": self.subject(who["user"]), "aud": CLIENT, "at_hash": "x"}

    def check(self, form: Form) -> None:
        """Raise `RefusedError` for what the product refuses before it looks at the grant."""

    def subject(self, user: str) -> str:
        return user

    def opaque_access_token(self) -> str:
        return ""

    # the protocol

    def sign(self, claims: Claims, *, header: dict[str, Any] | None = None) -> str:
        now = int(time.time())
        full = {"iss": self.issuer, "iat": now, "exp": now + 3600, **claims}
        return self.key.sign({name: value for name, value in full.items() if value is not ...}, headers={**self.header, **(header or {})})

    async def _metadata(self, _: web.Request) -> web.Response:
        return web.json_response({"issuer": self.issuer, "jwks_uri": f"{self.origin}/keys", "token_endpoint": f"{self.origin}/token"})

    async def _keys(self, _: web.Request) -> web.Response:
        return web.Response(text=key_set(self.key), content_type="application/json")

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        try:
            return web.json_response(self._grant(form))
        except RefusedError as refusal:
            return web.json_response({"error": refusal.error, "error_description": refusal.description}, status=refusal.status)

    def _grant(self, form: Form) -> dict[str, Any]:
        self.check(form)
        if form.get("client_id") != CLIENT or form.get("client_secret") != SECRET:
            raise RefusedError(401, "invalid_client")
        if form.get("grant_type") == "client_credentials":
            return {"access_token": self.sign(self.client_token(form)), "token_type": "Bearer"}
        if form.get("grant_type") != "authorization_code":
            raise RefusedError(400, "unsupported_grant_type")
        who = self._codes.pop(form.get("code", ""), None)
        if who is None:
            raise RefusedError(400, "invalid_grant")
        access_token = self.opaque_access_token() or self.sign(self.access_token(who))
        return {"access_token": access_token, "id_token": self.sign(self.id_token(who)), "token_type": "Bearer"}


class Okta(EmulatedIdp):
    """https://developer.okta.com/docs/api/openapi/okta-oauth/guides/overview/ (custom authorization server)."""

    path = "/oauth2/default"
    audience = "api://default"
    scopes = frozenset({"crm.read", "crm.write"})

    def check(self, form: Form) -> None:
        asked = set(form.get("scope", "").split())
        if form.get("grant_type") == "client_credentials" and (not asked or asked - self.scopes):
            raise RefusedError(400, "invalid_scope", "One or more scopes are not configured for the authorization server resource.")

    def access_token(self, who: Claims) -> Claims:
        groups = who.get("groups", ["marketing"])
        return self._common() | {"uid": "00u1", "sub": f"{who['user']}@example.com", "scp": ["openid", "crm.read"], "groups": groups}

    def client_token(self, form: Form) -> Claims:
        return self._common() | {"sub": CLIENT, "scp": form["scope"].split()}

    def id_token(self, who: Claims) -> Claims:
        return {"ver": 1, "jti": "ID.1", "sub": "00u1", "aud": CLIENT, "amr": ["pwd"], "idp": "00o1", "at_hash": "x"}

    def _common(self) -> Claims:
        return {"ver": 1, "jti": f"AT.{secrets.token_urlsafe(8)}", "aud": self.audience, "cid": CLIENT}


class Entra(EmulatedIdp):
    """https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference, …/v2-oauth2-client-creds-grant-flow."""

    path = f"/{TENANT}/v2.0"
    audience = "99999999-8888-7777-6666-555555555555"
    header: ClassVar[dict[str, Any]] = {"typ": "JWT"}
    overage = 200

    def check(self, form: Form) -> None:
        if "resource" in form:
            raise RefusedError(400, "invalid_request", "AADSTS901002: The 'resource' request parameter is not supported.")
        if form.get("grant_type") == "client_credentials" and not form.get("scope", "").endswith("/.default"):
            raise RefusedError(
                400, "invalid_scope", "AADSTS1002012: client credential flows must have a scope value with /.default suffixed"
            )

    def access_token(self, who: Claims) -> Claims:
        groups = who.get("groups", ["aaaaaaaa-0000-0000-0000-000000000001"])
        told: Claims = {"groups": groups}
        if len(groups) > self.overage:
            source = {"endpoint": f"https://graph.microsoft.com/v1.0/users/{who['user']}/getMemberObjects"}
            told = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": source}}
        about = {"oid": f"oid-of-{who['user']}", "sub": f"pairwise-{who['user']}", "scp": "crm.read", "roles": who.get("roles", ...)}
        return self._common() | about | told | {"preferred_username": f"{who['user']}@example.com"}

    def client_token(self, form: Form) -> Claims:
        return self._common() | {"oid": "oid-of-service-principal", "sub": "oid-of-service-principal", "roles": ["Crm.Read.All"]}

    def id_token(self, who: Claims) -> Claims:
        return {"aud": CLIENT, "oid": f"oid-of-{who['user']}", "sub": "x", "tid": TENANT, "ver": "2.0", "nonce": "n", "uti": "u2"}

    def _common(self) -> Claims:
        return {
            "aud": self.audience,
            "azp": CLIENT,
            "azpacr": "1",
            "tid": TENANT,
            "ver": "2.0",
            "uti": secrets.token_urlsafe(8),
            "nbf": int(time.time()),
        }


class Google(EmulatedIdp):
    """https://developers.google.com/identity/openid-connect/openid-connect; access tokens are opaque (ya29.…)."""

    audience = CLIENT
    header: ClassVar[dict[str, Any]] = {"typ": "JWT"}

    def check(self, form: Form) -> None:
        if form.get("grant_type") == "client_credentials":
            raise RefusedError(400, "unsupported_grant_type", "Invalid grant_type: client_credentials")

    def opaque_access_token(self) -> str:
        return f"ya29.{secrets.token_urlsafe(32)}"

    def access_token(self, who: Claims) -> Claims:
        raise AssertionError("Google's access tokens are opaque")

    def id_token(self, who: Claims) -> Claims:
        about = {"sub": f"1{who['user']}", "email": f"{who['user']}@example.com", "email_verified": who.get("email_verified", True)}
        return {"aud": CLIENT, "azp": who.get("azp", CLIENT), "at_hash": "x", "hd": who.get("hd", "example.com")} | about

    def service_account_token(self, audience: str) -> str:
        """`iamcredentials` generateIdToken: the audience is whatever was asked for."""
        return self.sign(
            {"aud": audience, "azp": "10987", "sub": "10987", "email": "crm@p.iam.gserviceaccount.com", "email_verified": True}
        )


class Ping(EmulatedIdp):
    """https://developer.pingidentity.com/pingone-api/foundations/authentication-concepts/access-tokens-and-id-tokens/token-claims.html."""

    path = f"/{TENANT}/as"
    header: ClassVar[dict[str, Any]] = {"typ": "at+jwt"}

    def access_token(self, who: Claims) -> Claims:
        return self._common() | {
            "sub": f"uuid-of-{who['user']}",
            "sid": "s1",
            "scope": "openid crm:read",
            "groups": who.get("groups", ["marketing"]),
        }

    def client_token(self, form: Form) -> Claims:
        return self._common() | {"scope": form.get("scope", "crm:read")}

    def id_token(self, who: Claims) -> Claims:
        return {"sub": f"uuid-of-{who['user']}", "aud": CLIENT, "acr": "Single_Factor", "amr": ["pwd"], "auth_time": int(time.time())}

    def _common(self) -> Claims:
        return {"client_id": CLIENT, "aud": [self.audience], "jti": secrets.token_urlsafe(8)}

    def sign(self, claims: Claims, *, header: dict[str, Any] | None = None) -> str:
        return super().sign(claims, header={"typ": None if "acr" in claims else "at+jwt"} | (header or {}))


class Keycloak(EmulatedIdp):
    """https://www.keycloak.org/docs/latest/server_admin/; without an audience mapper the audience is `account`."""

    path = "/realms/acme"
    header: ClassVar[dict[str, Any]] = {"typ": "JWT"}

    def check(self, form: Form) -> None:
        if set(form.get("scope", "").split()) - {"openid", "profile", "email", "crm"}:
            raise RefusedError(400, "invalid_scope", "Invalid scopes")

    def access_token(self, who: Claims) -> Claims:
        return self._common(who) | {"sub": f"uuid-of-{who['user']}", "sid": "s1", "preferred_username": who["user"]}

    def client_token(self, form: Form) -> Claims:
        about = {"sub": "uuid-of-service-account", "preferred_username": f"service-account-{CLIENT}"}
        return self._common({}) | about | {"client_id": CLIENT, "clientHost": "10.0.0.7", "clientAddress": "10.0.0.7"}

    def id_token(self, who: Claims) -> Claims:
        return {"typ": "ID", "azp": CLIENT, "aud": CLIENT, "sub": f"uuid-of-{who['user']}", "sid": "s1", "at_hash": "x"}

    def refresh_token(self) -> str:
        return self.sign({"typ": "Refresh", "azp": CLIENT, "aud": self.issuer, "sub": "uuid-of-ann"})

    def _common(self, who: Claims) -> Claims:
        return {
            "typ": "Bearer",
            "azp": CLIENT,
            "aud": [API, "account"] if who.get("audience_mapper", True) else "account",
            "jti": secrets.token_urlsafe(8),
            "realm_access": {"roles": ["offline_access", "marketing"]},
            "resource_access": {"crm": {"roles": ["editor"]}, "account": {"roles": ["view-profile"]}},
            "scope": "openid profile",
            "groups": who.get("groups", ...),
        }


class Auth0(EmulatedIdp):
    """https://auth0.com/docs/secure/tokens/access-tokens/access-token-profiles; without an audience the token is not a JWS."""

    path = "/"
    header: ClassVar[dict[str, Any]] = {"typ": "JWT"}
    rfc9068 = False

    def check(self, form: Form) -> None:
        if form.get("grant_type") == "client_credentials" and form.get("audience") != self.audience:
            asked = form.get("audience")
            said = (
                f"Service not found: {asked}"
                if asked
                else "No audience parameter was provided, and no default audience has been configured"
            )
            raise RefusedError(403, "access_denied", said)

    def access_token(self, who: Claims) -> Claims:
        about = {"sub": f"auth0|{who['user']}", "aud": [self.audience, f"{self.issuer}userinfo"], "scope": "openid crm:read"}
        return self._client() | about | {"https://acme.example/roles": who.get("groups", ["marketing"]), "org_id": who.get("org_id", ...)}

    def client_token(self, form: Form) -> Claims:
        gty = {} if self.rfc9068 else {"gty": "client-credentials"}
        return self._client() | gty | {"sub": f"{CLIENT}@clients", "aud": self.audience, "scope": "crm:read"}

    def id_token(self, who: Claims) -> Claims:
        return {"sub": f"auth0|{who['user']}", "aud": CLIENT, "nonce": "n", "sid": "s1"}

    def encrypted_token(self) -> str:
        header = base64.urlsafe_b64encode(json.dumps({"alg": "dir", "enc": "A256GCM", "iss": self.issuer}).encode()).rstrip(b"=").decode()
        return f"{header}..{hashlib.sha256(b'iv').hexdigest()[:16]}.ciphertext.tag"

    def sign(self, claims: Claims, *, header: dict[str, Any] | None = None) -> str:
        return super().sign(claims, header={"typ": "at+jwt" if "client_id" in claims else "JWT"} | (header or {}))

    def _client(self) -> Claims:
        return {"client_id": CLIENT, "jti": secrets.token_urlsafe(8)} if self.rfc9068 else {"azp": CLIENT}


EMULATED: dict[str, type[EmulatedIdp]] = {
    "okta": Okta,
    "entra": Entra,
    "google": Google,
    "ping": Ping,
    "keycloak": Keycloak,
    "auth0": Auth0,
}

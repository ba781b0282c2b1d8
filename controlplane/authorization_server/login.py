"""Logging people in at the identity provider: OpenID Connect with code, PKCE, nonce and state, and the check of what comes back.

    begin ─▶ (the browser goes there and comes back) ─▶ finish ─▶ Person

One login is for one authorization server and one provider. The callback's URL is the server's own, `iss` is checked where it is sent
and demanded where the provider says that it sends it (RFC 9207, mix-up), and the ID token is verified by the code that verifies
access tokens, for our client there and for this login's nonce.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import quote_plus, urlencode, urlsplit

from controlplane.authorization_server.grant import Person
from controlplane.registry.authorization_server_rules import CLIENT_SUBJECT_PREFIX, OWN_CLAIMS, login_provider_of, login_rules_of
from controlplane.registry.provider_rules import algorithms_of
from controlplane.registry.spec import AuthorizationServerSpec
from extauthz.address import AddressRules, host_of_url
from extauthz.errors import AddressError, AuthenticationError, CredentialError, FetchError
from extauthz.identity.access_token import read_unverified_token, verify_access_token
from extauthz.identity.claim import principal_from_claims, read_claim
from extauthz.identity.jwks import KeySource, discovery_urls
from extauthz.identity.principal import Principal, VerifiedClaims
from extauthz.identity.provider import IdentityProvider
from extauthz.outbound import OutboundHttp, OutboundResponse, is_insecure_http_allowed

MAX_ANSWER_BYTES = 256 * 1024
METADATA_SECONDS = 300.0
"""How long the provider's metadata is believed without looking again."""
RETRY_SECONDS = 5.0
"""How long nobody asks again after the metadata could not be read."""
KEYS_WAIT_SECONDS = 5.0
ASSERTION_SECONDS = 60
MAX_TOKEN_AGE_SECONDS = 600
MAX_SHOWN_CHARACTERS = 200
_CODE = re.compile(r"[\x21-\x7e]{1,2000}")
_ERROR = re.compile(r"[A-Za-z0-9_.-]{1,50}")


class LoginError(Exception):
    """Nobody was logged in. `code` is what the client is told (RFC 6749 section 4.1.2.1), `sentence` what people are told."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderMetadata:
    """What we need to know of the provider (OpenID Connect Discovery section 3)."""

    authorization_endpoint: str
    token_endpoint: str
    sends_issuer: bool
    secret_in_body: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunLogin:
    """A login under way: where the browser goes, and what must be the same when it is back."""

    url: str
    state: str
    nonce: str
    code_verifier: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginCredential:
    """What proves us to the provider: a secret, or a private key. Opened for one use."""

    secret: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)


class Login:
    """The login of one authorization server. Use as `async with Login(...)`."""

    def __init__(
        self,
        spec: AuthorizationServerSpec,
        *,
        provider_id: str,
        callback_url: str,
        credential: Callable[[], LoginCredential],
        address_rules: AddressRules,
        clock: Callable[[], float] = time.time,
    ) -> None:
        login = spec.login
        self._login = login
        self._callback_url = callback_url
        self._credential = credential
        self._clock = clock
        self._provider = IdentityProvider(
            id=provider_id,
            namespace="system",
            name=provider_id,
            issuer=login.issuer,
            algorithms=algorithms_of(login_provider_of(spec)),
            audiences=(login.client_id,),
            rules=login_rules_of(spec),
            allow_insecure_http=login.allow_insecure_http,
        )
        self._outbound = OutboundHttp(address_rules)
        self._keys = KeySource(address_rules)
        self._metadata: ProviderMetadata | None = None
        self._read_at = float("-inf")
        self._failed_at = float("-inf")
        self._reading = asyncio.Lock()

    async def __aenter__(self) -> Login:
        await self._outbound.__aenter__()
        await self._keys.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._keys.__aexit__(kind, error, trace)
        await self._outbound.__aexit__(kind, error, trace)

    @property
    def issuer(self) -> str:
        """The identity provider."""
        return self._login.issuer

    async def begin(self) -> BegunLogin:
        """A new login. Raises `LoginError` when the provider cannot be asked."""
        from authlib.oauth2.rfc7636 import create_s256_code_challenge  # noqa: PLC0415 - only where there is an authorization server

        metadata = await self._provider_metadata()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        parameters = {
            "response_type": "code",
            "client_id": self._login.client_id,
            "redirect_uri": self._callback_url,
            "scope": " ".join(self._login.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": create_s256_code_challenge(verifier),
            "code_challenge_method": "S256",
        }
        separator = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
        url = f"{metadata.authorization_endpoint}{separator}{urlencode(parameters)}"
        return BegunLogin(url=url, state=state, nonce=nonce, code_verifier=verifier)

    async def finish(self, answer: Mapping[str, str], *, nonce: str, code_verifier: str) -> Person:
        """Who logged in, from the provider's answer to a login whose state was compared already. Raises `LoginError`."""
        metadata = await self._provider_metadata()
        # (1) from that provider
        self._check_issuer(answer.get("iss"), metadata)
        if "error" in answer:
            raise _refused_there(answer["error"])
        code = answer.get("code", "")
        if not _CODE.fullmatch(code):
            raise LoginError("server_error", "the identity provider's answer holds no code")
        # (2) the code for an ID token
        id_token = await self._exchange(code, code_verifier, metadata)
        # (3) which is about this login
        claims = await self._verify(id_token, nonce)
        # (4) of whom
        try:
            principal = principal_from_claims(claims, self._provider)
        except AuthenticationError as error:
            raise LoginError("access_denied", error.sentence.replace("access token", "ID token")) from error
        return self._person(principal, claims)

    def _check_issuer(self, issuer: str | None, metadata: ProviderMetadata) -> None:
        if issuer is None and metadata.sends_issuer:
            raise LoginError("access_denied", "the answer does not say which identity provider it is from (iss)")
        if issuer is not None and issuer != self._login.issuer:
            raise LoginError("access_denied", "the answer is from another identity provider (iss)")

    async def _exchange(self, code: str, code_verifier: str, metadata: ProviderMetadata) -> str:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._callback_url, "code_verifier": code_verifier}
        headers: dict[str, str] = {}
        self._prove(form, headers, metadata)
        url = metadata.token_endpoint
        try:
            response = await self._outbound.post_form(
                url, body=urlencode(form).encode(), headers=headers, max_bytes=MAX_ANSWER_BYTES, insecure_http=self._insecure(url)
            )
        except (FetchError, AddressError) as error:
            raise LoginError("temporarily_unavailable", "the identity provider cannot be reached at the moment") from error
        answer = _json_object(response)
        if response.status != 200:
            told = str(answer.get("error", ""))
            shown = told if _ERROR.fullmatch(told) else "no reason"
            raise LoginError("server_error", f"the identity provider did not take its own code ({response.status}: {shown})")
        id_token = answer.get("id_token")
        if not isinstance(id_token, str):
            raise LoginError("server_error", "the identity provider's answer holds no ID token")
        return id_token

    def _prove(self, form: dict[str, str], headers: dict[str, str], metadata: ProviderMetadata) -> None:
        """RFC 6749 section 2.3.1, RFC 7523 section 2.2."""
        try:
            credential = self._credential()
        except CredentialError as error:
            raise LoginError("server_error", "the credential for the identity provider cannot be had; the log says why") from error
        client_id = self._login.client_id
        if credential.private_key:
            form |= {"client_id": client_id, "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}
            form["client_assertion"] = self._assertion(credential.private_key)
        elif metadata.secret_in_body:
            form |= {"client_id": client_id, "client_secret": credential.secret}
        else:
            pair = f"{quote_plus(client_id)}:{quote_plus(credential.secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"

    def _assertion(self, private_key: str) -> str:
        import jwt  # noqa: PLC0415

        spec = self._login.private_key_jwt
        assert spec is not None  # noqa: S101 - the document says so
        now = int(self._clock())
        claims = {
            "iss": self._login.client_id,
            "sub": self._login.client_id,
            "aud": self._login.issuer,
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }
        try:
            key = jwt.PyJWK.from_json(private_key).key if private_key.lstrip().startswith("{") else private_key
            headers = {"kid": spec.key_id} if spec.key_id else None
            return jwt.encode(claims, key, algorithm=spec.algorithm, headers=headers)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise LoginError("server_error", "the private key for the identity provider cannot be used") from error

    async def _verify(self, id_token: str, nonce: str) -> VerifiedClaims:
        """OpenID Connect Core section 3.1.3.7."""
        now = self._clock()
        try:
            unverified = read_unverified_token(id_token)
            deadline = asyncio.get_running_loop().time() + KEYS_WAIT_SECONDS
            keys = await self._keys.keys_for(self._provider, unverified.unverified_kid, deadline)
            claims = verify_access_token(id_token, self._provider, keys, audiences=self._provider.audiences, now=now)
        except AuthenticationError as error:
            raise LoginError("access_denied", error.sentence.replace("access token", "ID token")) from error
        told = claims.get("nonce")
        if not isinstance(told, str) or not hmac.compare_digest(told.encode(), nonce.encode()):
            raise LoginError("access_denied", "the ID token is not about this login (nonce)")
        audience, party = claims.get("aud"), claims.get("azp")
        several = isinstance(audience, list) and len(audience) > 1
        if (several or party is not None) and party != self._login.client_id:
            raise LoginError("access_denied", "the ID token was issued to another client (azp)")
        issued_at = claims.get("iat")
        if not isinstance(issued_at, int | float) or issued_at < now - MAX_TOKEN_AGE_SECONDS:
            raise LoginError("access_denied", "the ID token is not of this login (iat)")
        return claims

    def _person(self, principal: Principal, claims: VerifiedClaims) -> Person:
        if principal.subject.startswith(CLIENT_SUBJECT_PREFIX):
            raise LoginError("access_denied", f"a subject that begins with {CLIENT_SUBJECT_PREFIX} is a client's")
        prefix = f"{principal.provider}/"
        mapping = self._login.mapping
        copied = {name: read_claim(claims, name) for name in (*mapping.claims, *mapping.labels.values()) if name not in OWN_CLAIMS}
        return Person(
            subject=principal.subject,
            shown=_shown_name(claims) or principal.subject,
            groups=tuple(group.removeprefix(prefix) for group in principal.groups),
            tenant=principal.tenant,
            claims={name: value for name, value in copied.items() if value is not None},
            logged_in_at=int(self._clock()),
        )

    async def _provider_metadata(self) -> ProviderMetadata:
        """Read at most every five minutes; while it cannot be read, the last one serves."""
        async with self._reading:
            now = asyncio.get_running_loop().time()
            fresh = now - self._read_at < METADATA_SECONDS
            if not fresh and now - self._failed_at >= RETRY_SECONDS:
                try:
                    self._metadata, self._read_at = await self._read_metadata(), now
                except (FetchError, AddressError):
                    self._failed_at = now
            if self._metadata is None:
                raise LoginError("temporarily_unavailable", "the identity provider cannot be reached at the moment")
            return self._metadata

    async def _read_metadata(self) -> ProviderMetadata:
        for url in discovery_urls(self._login.issuer):
            try:
                response = await self._outbound.get(url, max_bytes=MAX_ANSWER_BYTES, insecure_http=self._insecure(url))
            except FetchError:
                continue
            found = _json_object(response)
            if response.status == 200 and found.get("issuer") == self._login.issuer:
                return self._parsed(found)
        raise FetchError(f"no metadata of {self._login.issuer} was found")

    def _parsed(self, found: Mapping[str, object]) -> ProviderMetadata:
        methods = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        listed = methods if isinstance(methods, list) else []
        return ProviderMetadata(
            authorization_endpoint=self._endpoint(found, "authorization_endpoint"),
            token_endpoint=self._endpoint(found, "token_endpoint"),
            sends_issuer=found.get("authorization_response_iss_parameter_supported") is True,
            secret_in_body="client_secret_basic" not in listed and "client_secret_post" in listed,
        )

    def _endpoint(self, found: Mapping[str, object], name: str) -> str:
        """A browser is sent there, or our credential: https, or loopback where the document allows it."""
        url = found.get(name)
        if not isinstance(url, str):
            raise FetchError(f"the identity provider's {name} is not a URL")
        host_of_url(url)  # no user name, nothing that two programs could read in two ways
        if "#" in url or not (url.startswith("https://") or self._insecure(url)):
            raise FetchError(f"the identity provider's {name} is not an https:// URL without #fragment")
        return url

    def _insecure(self, url: str) -> bool:
        return is_insecure_http_allowed(url, allow_insecure_http=self._login.allow_insecure_http)


def _shown_name(claims: Mapping[str, object]) -> str:
    """What people know themselves by; never a name that anything is decided by (OpenID Connect Core section 5.1)."""
    for name in ("preferred_username", "email", "name"):
        value = claims.get(name)
        if isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_SHOWN_CHARACTERS:
            return value
    return ""


def _refused_there(error: str) -> LoginError:
    shown = error if _ERROR.fullmatch(error) else "an error"
    denied = error in ("access_denied", "login_required", "interaction_required", "consent_required")
    return LoginError("access_denied" if denied else "server_error", f"the identity provider did not log you in ({shown})")


def _json_object(response: OutboundResponse) -> dict[str, object]:
    try:
        found = json.loads(response.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

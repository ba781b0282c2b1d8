"""From a gateway to the authorization server of its operators: protected-resource metadata (RFC 9728), then the issuer's (RFC 8414).

    gateway URL ─▶ /.well-known/oauth-protected-resource/v1 ─▶ issuer ─▶ its endpoints

Both documents must name what was asked for, to the letter: otherwise one gateway could have tokens issued for another, and one
issuer could answer in another's name. Over TLS only, except where gateway and issuer are on this machine; redirects are refused.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from controlplane.cli.invocation import is_loopback
from controlplane.cli.outcome import CommandError, Outcome

TIMEOUT_SECONDS = 20.0
MAX_ANSWER_BYTES = 1024 * 1024
_PLAIN_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(:[0-9]{1,5})?([/?][A-Za-z0-9._~:/?@&+,=%-]*)?")
"""No user name, no fragment, no quotes, and nothing of $ ; ! ' ( ) * that shells read."""
_LOGIN_GUIDE = 'docs/identity.md, "Operators", says what the gateway needs'


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedApi:
    """What a gateway says about tokens for its API."""

    resource_url: str
    issuers: tuple[str, ...]
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerMetadata:
    """The endpoints of an authorization server; empty where it has none. None of `challenge_methods`: it does not say."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    device_authorization_endpoint: str
    revocation_endpoint: str
    names_itself: bool  # RFC 9207: each answer to a login has `iss`
    challenge_methods: tuple[str, ...] | None
    secret_in_body: bool
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonAnswer:
    """An answer over HTTP; `body` is empty where it was no JSON object."""

    status: int
    body: Mapping[str, Any]


def read_protected_api(gateway_url: str) -> ProtectedApi:
    """The metadata of the API at this gateway; raises `CommandError` when nobody could log in by it."""
    parts = urlsplit(gateway_url)
    resource_url = f"{gateway_url}/v1"
    url = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}/v1"
    answer = exchange_json(url)
    if answer.status != 200 or not answer.body:
        raise CommandError(
            f"the gateway at {gateway_url} does not say who issues tokens for it (HTTP {answer.status} at {url})",
            remedy="is this the address of a Legation gateway, and is its control plane running?",
            outcome=Outcome.REFUSED,
        )
    said = answer.body.get("resource")
    if said != resource_url:
        raise CommandError(
            f"the gateway at {gateway_url} calls its API {said!r}, not {resource_url}",
            remedy="use the address that the gateway has for itself (LEGATION_GATEWAY_URL there), if you trust it",
            outcome=Outcome.REFUSED,
        )
    if answer.body.get("dpop_bound_access_tokens_required"):
        raise CommandError(
            "the gateway takes tokens that are bound by DPoP only, which this command line cannot use",
            remedy="spec.tokenBinding: optional in the operators' IdentityProvider lets it in",
            outcome=Outcome.REFUSED,
        )
    return ProtectedApi(
        resource_url=resource_url,
        issuers=_texts(answer.body.get("authorization_servers")),
        scopes=_texts(answer.body.get("scopes_supported")),
    )


def chosen_issuer(api: ProtectedApi, wanted: str) -> str:
    """The issuer to log in at: `wanted` where the gateway trusts it, else the only one there is."""
    if not api.issuers:
        raise CommandError(
            f"no identity provider is trusted by {api.resource_url} that people could log in at", remedy=_LOGIN_GUIDE, outcome=Outcome.NO
        )
    if wanted and wanted not in api.issuers:
        raise CommandError(
            f"{api.resource_url} does not trust the issuer {wanted}",
            where=[f"it trusts {issuer}" for issuer in api.issuers],
            remedy="name one of these with --issuer, if you know that it is the right one",
            outcome=Outcome.REFUSED,
        )
    if not wanted and len(api.issuers) > 1:
        raise CommandError(f"{api.resource_url} trusts several issuers", where=list(api.issuers), remedy="name one of these with --issuer")
    return wanted or api.issuers[0]


def read_issuer_metadata(issuer: str, *, gateway_url: str) -> IssuerMetadata:
    """The metadata of an issuer: OpenID Connect discovery, else RFC 8414."""
    if not is_usable_url(issuer) or (urlsplit(issuer).scheme == "http" and not is_loopback(gateway_url)):
        raise CommandError(f"the issuer {issuer} is refused: only https protects a login", outcome=Outcome.REFUSED)
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    urls = (f"{origin}{path}/.well-known/openid-configuration", f"{origin}/.well-known/oauth-authorization-server{path}")
    answers = []
    for url in urls:
        answer = exchange_json(url)
        if answer.status == 200 and answer.body:
            return _metadata_of(answer.body, issuer)
        answers.append(f"{url}: HTTP {answer.status}")
    raise CommandError(f"the issuer {issuer} has no metadata", where=answers, outcome=Outcome.REFUSED)


def _metadata_of(body: Mapping[str, Any], issuer: str) -> IssuerMetadata:
    if body.get("issuer") != issuer:
        raise CommandError(
            f"the metadata of the issuer {issuer} is that of {body.get('issuer')!r}",
            remedy="spec.issuer of the IdentityProvider must be what the provider calls itself, to the letter",
            outcome=Outcome.REFUSED,
        )
    methods = body.get("token_endpoint_auth_methods_supported")
    return IssuerMetadata(
        issuer=issuer,
        authorization_endpoint=_endpoint(body, "authorization_endpoint", issuer),
        token_endpoint=_endpoint(body, "token_endpoint", issuer),
        device_authorization_endpoint=_endpoint(body, "device_authorization_endpoint", issuer),
        revocation_endpoint=_endpoint(body, "revocation_endpoint", issuer),
        names_itself=body.get("authorization_response_iss_parameter_supported") is True,
        challenge_methods=_texts(body["code_challenge_methods_supported"]) if "code_challenge_methods_supported" in body else None,
        secret_in_body=isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods,
        scopes=_texts(body.get("scopes_supported")),
    )


def _endpoint(body: Mapping[str, Any], name: str, issuer: str) -> str:
    url = body.get(name)
    if url is None:
        return ""
    if not isinstance(url, str) or not is_usable_url(url) or (urlsplit(issuer).scheme, urlsplit(url).scheme) == ("https", "http"):
        raise CommandError(f"the issuer {issuer} names an unusable {name}: {url!r}", outcome=Outcome.REFUSED)
    return url


def is_usable_url(url: str) -> bool:
    """Whether a login may involve this URL: https, or this machine; nothing that another program could take for something else.

    Browsers are started by programs that may hand the URL to a shell: what a shell could run is refused, although RFC 3986 allows it.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url))
    return secure and _PLAIN_URL.fullmatch(url) is not None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()


def exchange_json(url: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None) -> JsonAnswer:
    """GET `url`, or POST `form` to it. What it answers is bounded in size and time; a redirect is refused."""
    parts = urlsplit(url)
    connection_class = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    options: dict[str, Any] = {"context": ssl.create_default_context()} if parts.scheme == "https" else {}
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = {"Accept": "application/json", "User-Agent": "legation", **(headers or {})}
    body = None
    if form is not None:
        body, sent["Content-Type"] = urlencode(form).encode(), "application/x-www-form-urlencoded"
    try:
        connection = connection_class(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS, **options)
        try:
            connection.request("GET" if body is None else "POST", target, body=body, headers=sent)
            response = connection.getresponse()
            text = response.read(MAX_ANSWER_BYTES + 1)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, error) from error
    if 300 <= response.status < 400:
        raise CommandError(f"{_place(url)} answered with a redirect; redirects are not followed", outcome=Outcome.REFUSED)
    if len(text) > MAX_ANSWER_BYTES:
        raise CommandError(f"{_place(url)} answered with more than {MAX_ANSWER_BYTES} bytes", outcome=Outcome.REFUSED)
    return JsonAnswer(status=response.status, body=_object(text))


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _unreachable(url: str, error: Exception) -> CommandError:
    certificate = isinstance(error, ssl.SSLCertVerificationError)
    said = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error) or type(error).__name__
    return CommandError(
        f"cannot talk to {_place(url)}: {said}",
        remedy="SSL_CERT_FILE names certificate authorities of your own" if certificate else "check the address and your network",
        outcome=Outcome.UNREACHABLE,
    )


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"

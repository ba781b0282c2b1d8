"""What a client says about itself (RFC 7591 section 2), read strictly: for registrations and for metadata documents alike.

Members that nobody here knows are ignored. Refused is what would weaken the client when it is ignored, what would make us or a
browser open something, and what only we may say. Grant types and scopes that this server does not offer are left out.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Mapping

from controlplane.authorization_server.clients.client import (
    AUTH_METHODS,
    PUBLIC,
    ApplicationType,
    AuthMethod,
    ClientRules,
    ClientSource,
    RegisteredClient,
)
from controlplane.authorization_server.clients.redirect_uri import application_type_of, checked_redirect_uris
from controlplane.authorization_server.clients.refusal import RegistrationError
from controlplane.authorization_server.clients.trust import authority_of_url, is_trusted
from extauthz.address import host_of_url
from extauthz.errors import AddressError, ConfigurationError

MAX_NAME_LENGTH = 100
MAX_URL_LENGTH = 2000
MAX_LIST_LENGTH = 50
MAX_TEXT_LENGTH = 4000
MAX_CLIENT_KEY_SET_BYTES = 16 * 1024

_PROMISES = (
    "dpop_bound_access_tokens",
    "require_pushed_authorization_requests",
    "require_signed_request_object",
    "tls_client_certificate_bound_access_tokens",
)
"""Protection that the client relies on and that this server does not enforce."""
_CALLED = (
    "backchannel_client_notification_endpoint",
    "backchannel_logout_uri",
    "frontchannel_logout_uri",
    "initiate_login_uri",
    "request_uris",
    "sector_identifier_uri",
)
"""URLs that a server which honoured them would fetch, call, or send browsers to."""
_SHOWN = ("client_uri", "logo_uri", "policy_uri", "tos_uri")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")
_MARKS = frozenset({"Mn", "Me"})
MAX_MARKS_ON_A_LETTER = 3
"""More of them grow over the lines above and below."""


def parse_metadata(body: bytes, *, max_bytes: int) -> dict[str, object]:
    """The JSON object in `body`, where no member stands twice; else `RegistrationError`."""
    if len(body) > max_bytes:
        raise invalid(f"client metadata must not be larger than {max_bytes} bytes")
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise invalid("client metadata must be one JSON object in UTF-8, without repeated members") from error
    if not isinstance(found, dict):
        raise invalid("client metadata must be a JSON object")
    return found


def client_of_metadata(
    metadata: Mapping[str, object],
    *,
    client_id: str,
    source: ClientSource,
    rules: ClientRules,
    methods: Collection[AuthMethod],
    default_method: AuthMethod,
) -> RegisteredClient:
    """The client that this metadata describes. Raises `RegistrationError` or `RedirectUriError`."""
    _check_members(metadata)
    method = _method(metadata, methods, default_method)
    grant_types = _grant_types(metadata, rules, method)
    uris = _list(metadata, "redirect_uris")
    stated = _application_type(metadata)
    redirect_uris = checked_redirect_uris(uris, stated, rules.private_use_schemes)
    if "authorization_code" in grant_types and not redirect_uris:
        raise RegistrationError("invalid_redirect_uri", "a client that asks people to log in needs redirect_uris")
    jwks_json, jwks_uri = _keys(metadata, rules, client_id, method)
    return RegisteredClient(
        client_id=client_id,
        name=_name(metadata),
        redirect_uris=redirect_uris,
        grant_types=grant_types,
        token_endpoint_auth_method=method,
        scopes=_scopes(metadata, rules),
        jwks_json=jwks_json,
        jwks_uri=jwks_uri,
        source=source,
        client_uri=_text(metadata, "client_uri"),
        logo_uri=_text(metadata, "logo_uri"),
        application_type=stated or application_type_of(redirect_uris),
    )


def invalid(description: str) -> RegistrationError:
    """RFC 7591 section 3.2.2."""
    return RegistrationError("invalid_client_metadata", description)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _check_members(metadata: Mapping[str, object]) -> None:
    for member in _PROMISES:
        if metadata.get(member, False) is not False:
            raise invalid(f"{member} is not offered here")
    for member in _CALLED:
        if metadata.get(member) not in (None, []):
            raise invalid(f"{member} is not used here, and refused")
    for member in _SHOWN:
        url = _text(metadata, member)
        if url and not _is_web_page(url):
            raise invalid(f"{member} must be an https URL")


def _is_web_page(url: str) -> bool:
    try:
        host_of_url(url)
    except AddressError:
        return False
    return url.startswith("https://") and len(url) <= MAX_URL_LENGTH


def _method(metadata: Mapping[str, object], methods: Collection[AuthMethod], default: AuthMethod) -> AuthMethod:
    stated = metadata.get("token_endpoint_auth_method", default)
    if stated not in AUTH_METHODS or stated not in methods:
        raise invalid(f"token_endpoint_auth_method must be one of {', '.join(sorted(methods))}")
    return stated


def _grant_types(metadata: Mapping[str, object], rules: ClientRules, method: AuthMethod) -> frozenset[str]:
    stated = _texts(metadata, "grant_types") if "grant_types" in metadata else ["authorization_code"]
    found = rules.grant_types.intersection(stated)
    if not found & {"authorization_code", "client_credentials"}:
        raise invalid(f"grant_types must hold one that is offered: {', '.join(sorted(rules.grant_types))}")
    if "client_credentials" in found and method == PUBLIC:
        raise invalid("client_credentials are for clients that prove themselves (token_endpoint_auth_method)")
    if "authorization_code" in found and "response_types" in metadata and "code" not in _texts(metadata, "response_types"):
        raise invalid("response_types must hold code")
    return found


def _application_type(metadata: Mapping[str, object]) -> ApplicationType | None:
    match metadata.get("application_type"):
        case "web":
            return "web"
        case "native":
            return "native"
        case None:
            return None
    raise invalid("application_type must be web or native")


def _scopes(metadata: Mapping[str, object], rules: ClientRules) -> tuple[str, ...]:
    if "scope" not in metadata:
        return rules.scopes
    wanted = frozenset(_text(metadata, "scope").split(" "))
    return tuple(scope for scope in rules.scopes if scope in wanted)


def _keys(metadata: Mapping[str, object], rules: ClientRules, client_id: str, method: AuthMethod) -> tuple[str, str]:
    jwks, jwks_uri = metadata.get("jwks"), _text(metadata, "jwks_uri")
    if jwks is not None and jwks_uri:
        raise invalid("jwks and jwks_uri exclude each other")
    if jwks_uri:
        _check_key_location(jwks_uri, rules, client_id)
    jwks_json = _key_set_text(jwks) if jwks is not None else ""
    if method != "private_key_jwt":
        return "", ""  # nothing here reads them
    if not (jwks_json or jwks_uri):
        raise invalid("private_key_jwt needs jwks or jwks_uri")
    return jwks_json, jwks_uri


def _check_key_location(jwks_uri: str, rules: ClientRules, client_id: str) -> None:
    """Keys come from hosts that the entry trusts, as documents do: nobody makes us fetch from anywhere by registering."""
    try:
        is_own = client_id.startswith(("https://", "http://")) and authority_of_url(client_id) == authority_of_url(jwks_uri)
        trusted = is_own or is_trusted(jwks_uri, rules.documents.trusted_domains)
    except AddressError as error:
        raise invalid("jwks_uri must be an https URL") from error
    scheme = jwks_uri.partition(":")[0]
    if scheme != "https" and not (scheme == "http" and rules.documents.insecure_loopback and client_id.startswith("http://")):
        raise invalid("jwks_uri must be an https URL")
    if len(jwks_uri) > MAX_URL_LENGTH or not trusted:
        raise invalid("jwks_uri is at a host that is not trusted here")


def _key_set_text(jwks: object) -> str:
    from extauthz.identity.jwks import parse_key_set  # noqa: PLC0415 - loads the signature library: only where a client has keys

    text = json.dumps(jwks)
    if len(text) > MAX_CLIENT_KEY_SET_BYTES:
        raise invalid(f"jwks must not be larger than {MAX_CLIENT_KEY_SET_BYTES} bytes")
    try:
        parse_key_set(text)
    except ConfigurationError as error:
        raise invalid(f"jwks: {error}") from error
    return text


def _name(metadata: Mapping[str, object]) -> str:
    name = _text(metadata, "client_name").strip()
    if len(name) > MAX_NAME_LENGTH:
        raise invalid(f"client_name must have {MAX_NAME_LENGTH} characters at most")
    categories = [unicodedata.category(character) for character in name]
    if _HIDDEN_CATEGORIES.intersection(categories) or _BLANK_LETTERS.intersection(name):
        raise invalid("client_name must hold characters that people can see")
    marks = 0
    for category in categories:
        marks = marks + 1 if category in _MARKS else 0
        if marks > MAX_MARKS_ON_A_LETTER:
            raise invalid("client_name must not heap marks on a letter")
    return name


def _text(metadata: Mapping[str, object], member: str) -> str:
    value = metadata.get(member)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_TEXT_LENGTH:
        raise invalid(f"{member} must be a string of {MAX_TEXT_LENGTH} characters at most")
    return value


def _list(metadata: Mapping[str, object], member: str) -> list[object]:
    value = metadata.get(member, [])
    if not isinstance(value, list) or len(value) > MAX_LIST_LENGTH:
        raise invalid(f"{member} must be a list of {MAX_LIST_LENGTH} at most")
    return value


def _texts(metadata: Mapping[str, object], member: str) -> list[str]:
    values = _list(metadata, member)
    if not all(isinstance(value, str) and len(value) <= 200 for value in values):
        raise invalid(f"{member} must hold short strings")
    return [str(value) for value in values]

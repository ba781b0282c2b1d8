"""What a client says about itself, and the door through which it registers (RFC 7591)."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from jwt.algorithms import ECAlgorithm
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata

from controlplane.authorization_server.clients.client import ClientRules, MetadataDocumentRules, RegistrationRules
from controlplane.authorization_server.clients.refusal import ClientRefusal, RegistrationError
from controlplane.authorization_server.clients.registration import MAX_REGISTRATION_BYTES, check_registration_allowed, registered
from controlplane.authorization_server.clients.secret import digest_of, new_secret, secret_matches
from tests.issuer import SigningKey

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OPEN = ClientRules(
    server_uid="s",
    grant_types=frozenset({"authorization_code", "refresh_token", "client_credentials"}),
    scopes=("crm:read", "crm:write"),
    documents=MetadataDocumentRules(trusted_domains=("keys.example.com", "*.apps.example.com:8443")),
    registration=RegistrationRules(mode="open"),
)
VOUCHED = replace(
    OPEN, registration=RegistrationRules(mode="initialAccessToken", initial_access_tokens=(digest_of("one"), digest_of("two")))
)
IDE: dict[str, Any] = {"client_name": "IDE", "redirect_uris": ["http://127.0.0.1/cb"], "token_endpoint_auth_method": "none"}


def request(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in (IDE | changes).items() if value is not ...}).encode()


def public_jwk() -> dict[str, Any]:
    return SigningKey("k1").public_jwk()


def test_a_public_client_registers_and_is_told_what_it_is() -> None:
    registration = registered(request(grant_types=["authorization_code", "refresh_token"], scope="crm:write other"), OPEN, NOW)
    client, information = registration.client, registration.information()

    assert information == {
        "client_id": client.client_id,
        "client_id_issued_at": int(NOW.timestamp()),
        "client_name": "IDE",
        "redirect_uris": ["http://127.0.0.1/cb"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
        "scope": "crm:write",
    }
    assert client.source == "dynamic"
    assert client.is_public
    assert client.host == ""
    assert client.secret_digest == ""


@pytest.mark.parametrize("method", [..., "client_secret_basic", "client_secret_post"])
def test_a_client_that_can_keep_a_secret_is_told_one_that_is_kept_nowhere(method: Any) -> None:
    registration = registered(request(token_endpoint_auth_method=method), OPEN, NOW)
    information = registration.information()

    assert information["token_endpoint_auth_method"] == ("client_secret_basic" if method is ... else method)
    assert information["client_secret_expires_at"] == 0
    secret = str(information["client_secret"])
    assert len(secret) >= 43
    assert secret_matches(secret, registration.client.secret_digest)
    assert secret not in repr(registration)
    assert registration.client.secret_digest not in repr(registration)


@pytest.mark.parametrize("method", [None, "none", "client_secret_post", "client_secret_basic"])
def test_what_the_official_sdk_sends_is_understood_and_what_it_is_answered_too(method: Any) -> None:
    said = OAuthClientMetadata(redirect_uris=["http://localhost:3030/callback"], client_name="SDK", token_endpoint_auth_method=method)
    body = said.model_dump_json(by_alias=True, exclude_none=True).encode()

    registration = registered(body, OPEN, NOW)

    understood = OAuthClientInformationFull.model_validate_json(json.dumps(dict(registration.information())))
    assert understood.client_id == registration.client.client_id
    assert understood.token_endpoint_auth_method == registration.client.token_endpoint_auth_method
    assert [str(uri) for uri in understood.redirect_uris or []] == ["http://localhost:3030/callback"]
    assert registration.client.application_type == "native"


def test_two_registrations_are_two_clients() -> None:
    first, second = (registered(request(token_endpoint_auth_method="client_secret_post"), OPEN, NOW) for _ in range(2))

    assert first.client.client_id != second.client.client_id
    assert first.client_secret != second.client_secret


def test_members_that_nobody_knows_are_ignored_and_what_is_not_offered_is_left_out() -> None:
    document = request(
        x_unknown={"a": 1},
        contacts=["a@example.com"],
        software_id="x",
        client_uri="https://ide.example/",
        logo_uri="https://ide.example/logo.png",
        grant_types=["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code", "implicit", "password"],
        response_types=["code", "token"],
        request_uris=[],
        dpop_bound_access_tokens=False,
    )

    client = registered(document, OPEN, NOW).client

    assert client.grant_types == {"authorization_code", "refresh_token"}
    assert client.scopes == OPEN.scopes
    assert (client.client_uri, client.logo_uri) == ("https://ide.example/", "https://ide.example/logo.png")


@pytest.mark.parametrize(
    ("changes", "error", "cause"),
    [
        ({"redirect_uris": ...}, "invalid_redirect_uri", "needs redirect_uris"),
        ({"redirect_uris": []}, "invalid_redirect_uri", "needs redirect_uris"),
        ({"redirect_uris": "https://a.example/cb"}, "invalid_client_metadata", "a list"),
        ({"redirect_uris": [{}]}, "invalid_redirect_uri", "a string"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri", "must be https"),
        ({"redirect_uris": ["https://a.example/cb", "https://*.example/cb"]}, "invalid_redirect_uri", "wildcard"),
        ({"redirect_uris": ["https://a.example/cb"] * 51}, "invalid_client_metadata", "50 at most"),
        ({"application_type": "web"}, "invalid_redirect_uri", "native applications"),
        ({"application_type": "service"}, "invalid_client_metadata", "web or native"),
        ({"application_type": ["web"]}, "invalid_client_metadata", "web or native"),
        ({"token_endpoint_auth_method": "tls_client_auth"}, "invalid_client_metadata", "token_endpoint_auth_method"),
        ({"token_endpoint_auth_method": "client_secret_jwt"}, "invalid_client_metadata", "token_endpoint_auth_method"),
        ({"token_endpoint_auth_method": []}, "invalid_client_metadata", "token_endpoint_auth_method"),
        ({"grant_types": ["implicit"]}, "invalid_client_metadata", "grant_types"),
        ({"grant_types": ["password", "refresh_token"]}, "invalid_client_metadata", "grant_types"),
        ({"grant_types": []}, "invalid_client_metadata", "grant_types"),
        ({"grant_types": "authorization_code"}, "invalid_client_metadata", "a list"),
        ({"grant_types": [1]}, "invalid_client_metadata", "short strings"),
        ({"grant_types": ["client_credentials"]}, "invalid_client_metadata", "grant_types"),
        ({"response_types": ["token"]}, "invalid_client_metadata", "must hold code"),
        ({"scope": ["crm:read"]}, "invalid_client_metadata", "scope must be a string"),
        ({"client_name": "x" * 101}, "invalid_client_metadata", "100 characters"),
        ({"client_name": "Ann\u202ekcabllaC"}, "invalid_client_metadata", "people can see"),
        ({"client_name": "a\u200bb"}, "invalid_client_metadata", "people can see"),
        ({"client_name": "a\x00b"}, "invalid_client_metadata", "people can see"),
        ({"client_name": "a\nb"}, "invalid_client_metadata", "people can see"),
        ({"client_name": "\ud800"}, "invalid_client_metadata", "people can see"),
        ({"client_name": "\u3164"}, "invalid_client_metadata", "people can see"),
        ({"client_name": "a" + "\u0301" * 4}, "invalid_client_metadata", "heap marks"),
        ({"client_name": 7}, "invalid_client_metadata", "client_name must be a string"),
        ({"client_uri": "javascript:alert(1)"}, "invalid_client_metadata", "client_uri must be an https URL"),
        ({"client_uri": "http://ide.example/"}, "invalid_client_metadata", "client_uri must be an https URL"),
        ({"logo_uri": "data:image/svg+xml,<svg onload=x>"}, "invalid_client_metadata", "logo_uri must be an https URL"),
        ({"logo_uri": 'https://a.example/"onerror="x'}, "invalid_client_metadata", "logo_uri must be an https URL"),
        ({"tos_uri": "file:///etc/passwd"}, "invalid_client_metadata", "tos_uri must be an https URL"),
        ({"policy_uri": "https://user@a.example/"}, "invalid_client_metadata", "policy_uri must be an https URL"),
        ({"jwks": {"keys": []}}, "invalid_client_metadata", "jwks: "),
        ({"jwks": "https://a.example"}, "invalid_client_metadata", "jwks: "),
        ({"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}}, "invalid_client_metadata", "public keys only"),
        ({"jwks": {"keys": [{}] * 101}}, "invalid_client_metadata", "jwks: "),
        ({"jwks": {"keys": [{"n": "x" * 17_000}]}}, "invalid_client_metadata", "16384 bytes"),
        ({"jwks_uri": "https://evil.example/jwks"}, "invalid_client_metadata", "not trusted here"),
        ({"jwks_uri": "https://keys.example.com:8443/jwks"}, "invalid_client_metadata", "not trusted here"),
        ({"jwks_uri": "https://apps.example.com:8443/jwks"}, "invalid_client_metadata", "not trusted here"),
        ({"jwks_uri": "https://a.apps.example.com/jwks"}, "invalid_client_metadata", "not trusted here"),
        ({"jwks_uri": "https://evilkeys.example.com/jwks"}, "invalid_client_metadata", "not trusted here"),
        ({"jwks_uri": "http://keys.example.com/jwks"}, "invalid_client_metadata", "https URL"),
        ({"jwks_uri": "file:///etc/passwd"}, "invalid_client_metadata", "https URL"),
        ({"jwks_uri": "https://keys.example.com/jwks", "jwks": {"keys": []}}, "invalid_client_metadata", "exclude each other"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "invalid_client_metadata", "needs jwks or jwks_uri"),
        ({"client_id": "admin"}, "invalid_client_metadata", "client_id is given by this server"),
        ({"client_secret": "x"}, "invalid_client_metadata", "client_secret is given by this server"),
        ({"registration_access_token": "x"}, "invalid_client_metadata", "is given by this server"),
        ({"software_statement": "a.b.c"}, "unapproved_software_statement", "trusted"),
        ({"request_uris": ["https://evil.example/r"]}, "invalid_client_metadata", "request_uris is not used here"),
        ({"sector_identifier_uri": "https://evil.example"}, "invalid_client_metadata", "is not used here"),
        ({"initiate_login_uri": "https://evil.example"}, "invalid_client_metadata", "is not used here"),
        ({"backchannel_logout_uri": "http://169.254.169.254/"}, "invalid_client_metadata", "is not used here"),
        ({"dpop_bound_access_tokens": True}, "invalid_client_metadata", "is not offered"),
        ({"tls_client_certificate_bound_access_tokens": True}, "invalid_client_metadata", "is not offered"),
        ({"require_pushed_authorization_requests": "true"}, "invalid_client_metadata", "is not offered"),
    ],
)
def test_metadata_that_is_dangerous_or_malformed_is_refused(changes: dict[str, Any], error: str, cause: str) -> None:
    with pytest.raises(ClientRefusal, match=cause) as caught:
        registered(request(**changes), OPEN, NOW)

    assert (caught.value.error, caught.value.status) == (error, 400)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b'{"a":1,"a":2}',
        b'{"redirect_uris":[],"jwks":{"keys":[],"keys":[]}}',
        b'{"a":NaN}',
        b"\xff",
        b"\xef\xbb\xbf{}",
        '{"client_name":"x"}'.encode("utf-16"),
        b"[" * 30_000,
        b'{"a":' * 6_000,
    ],
)
def test_what_is_not_one_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RegistrationError, match="JSON object"):
        registered(body, OPEN, NOW)


def test_a_request_that_is_too_large_is_not_even_read() -> None:
    with pytest.raises(RegistrationError, match=f"larger than {MAX_REGISTRATION_BYTES} bytes"):
        registered(b" " * (MAX_REGISTRATION_BYTES + 1), OPEN, NOW)


def test_keys_are_kept_for_clients_that_prove_themselves_by_a_signature() -> None:
    jwks = {"keys": [public_jwk()]}

    inline = registered(request(token_endpoint_auth_method="private_key_jwt", jwks=jwks), OPEN, NOW).client
    behind = registered(
        request(token_endpoint_auth_method="private_key_jwt", jwks_uri="https://a.apps.example.com:8443/k"), OPEN, NOW
    ).client
    neither = registered(request(jwks=jwks), OPEN, NOW).client

    assert json.loads(inline.jwks_json) == jwks
    assert behind.jwks_uri == "https://a.apps.example.com:8443/k"
    assert (neither.jwks_json, neither.jwks_uri) == ("", "")


def test_a_private_key_in_a_registration_is_refused() -> None:
    private = json.loads(ECAlgorithm.to_jwk(SigningKey("k1").private_key))

    with pytest.raises(RegistrationError, match="public keys only") as caught:
        registered(request(jwks={"keys": [private]}), OPEN, NOW)
    assert private["d"] not in str(caught.value)


def test_nobody_becomes_a_principal_of_its_own_by_an_open_door() -> None:
    wanted = request(grant_types=["client_credentials"], token_endpoint_auth_method="client_secret_basic", redirect_uris=...)

    with pytest.raises(RegistrationError, match="grant_types"):
        registered(wanted, OPEN, NOW)
    assert registered(wanted, VOUCHED, NOW).client.grant_types == {"client_credentials"}
    with pytest.raises(RegistrationError, match="prove themselves"):
        registered(request(grant_types=["client_credentials"]), VOUCHED, NOW)


@pytest.mark.parametrize("token", ["", "three", "ONE", "one ", digest_of("one"), "x" * 600])
def test_a_registration_without_its_token_is_refused(token: str) -> None:
    with pytest.raises(RegistrationError) as caught:
        check_registration_allowed(VOUCHED.registration, token)

    assert (caught.value.error, caught.value.status) == ("invalid_token", 401)
    assert token == "" or token not in str(caught.value)


def test_each_initial_access_token_opens_the_door() -> None:
    for token in ("one", "two"):
        check_registration_allowed(VOUCHED.registration, token)
    check_registration_allowed(OPEN.registration, "")


def test_the_door_is_shut_unless_it_was_opened() -> None:
    for rules in (RegistrationRules(), RegistrationRules(initial_access_tokens=(digest_of("one"),))):
        with pytest.raises(RegistrationError) as caught:
            check_registration_allowed(rules, "one")
        assert (caught.value.error, caught.value.status) == ("access_denied", 403)
    with pytest.raises(RegistrationError):
        check_registration_allowed(RegistrationRules(mode="initialAccessToken"), "")


def test_a_secret_fits_its_own_digest_only() -> None:
    secret = new_secret()

    assert secret_matches(secret, digest_of(secret))
    for wrong, digest in (
        (secret + "x", digest_of(secret)),
        ("", digest_of("")),
        ("", ""),
        (secret, ""),
        (secret, secret),
        ("x" * 600, digest_of("x" * 600)),
    ):
        assert not secret_matches(wrong, digest)

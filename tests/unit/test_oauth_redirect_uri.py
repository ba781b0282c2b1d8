"""Redirect URIs: what may be registered, and what a request may name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.authorization_server.clients.client import RegisteredClient
from controlplane.authorization_server.clients.redirect_uri import (
    MAX_REDIRECT_URIS,
    application_type_of,
    check_redirect_uri,
    checked_redirect_uris,
    is_loopback_redirect,
    redirect_uri_matches,
)
from controlplane.authorization_server.clients.refusal import RedirectUriError
from controlplane.registry.authorization_server_spec import RegistrationSpec

REGISTERED = (
    "https://app.example.com/cb?tenant=a",
    "http://127.0.0.1:3000/cb",
    "http://[::1]/cb",
    "http://localhost/cb?x=1",
    "com.example.app:/answer",
)
CLIENT = RegisteredClient(client_id="ide", name="IDE", redirect_uris=REGISTERED)

GOOD = [
    *REGISTERED,
    "https://app.example.com",
    "https://app.example.com/",
    "https://app.example.com:8443/cb",
    "https://xn--bcher-kva.example/cb",
    "https://intranet/cb",
    "https://192.0.2.7/cb",
    "https://[2001:db8::1]/cb",
    "https://app.example.com/a%20b?next=%2Fx".replace("%2F", "x"),
    "https://localhost/cb",
    "http://127.0.0.1",
    "http://localhost:33418/",
    "com.example.app://answer.here/cb",
]
BAD = [
    ("", "1 to 2000"),
    ("https://a.example/" + "x" * 2000, "1 to 2000"),
    ("https://a.example/cb#", "no fragment"),
    ("https://a.example/cb#x", "no fragment"),
    ("https://*.example.com/cb", "no wildcard"),
    ("https://a.example/*", "no wildcard"),
    ("https://a.example/c b", "characters of a URI"),
    ("https://a.example/cb\n", "characters of a URI"),
    ("https://a.example/cb\r\nLocation: https://evil.example", "characters of a URI"),
    ("https://a.example/cb\x00", "characters of a URI"),
    ("https://a.example\\@evil.example/cb", "characters of a URI"),
    ("https://\u0430.example/cb", "characters of a URI"),
    ("https://user@a.example/cb", "without user name"),
    ("https://user:pass@a.example/cb", "without user name"),
    ("https://a.example@evil.example/cb", "without user name"),
    ("https:a.example/cb", "must be https"),
    ("https:/a.example/cb", "must be https"),
    ("https:///cb", "must be https"),
    ("//a.example/cb", "must be https"),
    ("/cb", "must be https"),
    ("cb", "must be https"),
    ("HTTPS://a.example/cb", "must be https"),
    ("https://A.example/cb", "must be https"),
    ("https://a.example:443/cb", "port"),
    ("https://a.example:0/cb", "must be https"),
    ("https://a.example:08443/cb", "must be https"),
    ("https://a.example:65536/cb", "port"),
    ("https://a.example:/cb", "must be https"),
    ("https://a%2eexample/cb", "must be https"),
    ("https://%61.example/cb", "must be https"),
    ("https://a..example/cb", "has a host"),
    ("https://a.example./cb", "has a host"),
    ("https://-a.example/cb", "has a host"),
    ("https://2130706433/cb", "has a host"),
    ("https://127.1/cb", "has a host"),
    ("https://0x7f.0.0.1/cb", "has a host"),
    ("https://1.2.3.4.5/cb", "has a host"),
    ("https://a.0x7f/cb", "has a host"),
    ("https://[::0001]/cb", "has a host"),
    ("https://[::1/cb", "must be https"),
    ("https://[::1%25lo]/cb", "must be https"),
    ("https://a.example/x/../cb", "dot segments"),
    ("https://a.example/./cb", "dot segments"),
    ("https://a.example/..", "dot segments"),
    ("https://a.example/%2e%2e/cb", "normal form"),
    ("https://a.example/%2E%2E/cb", "must not be escaped"),
    ("https://a.example/%2Fcb", "must not be escaped"),
    ("https://a.example/%5Ccb", "must not be escaped"),
    ("https://a.example/%00", "must not be escaped"),
    ("https://a.example/%0D%0A", "must not be escaped"),
    ("https://a.example/%41", "must not be escaped"),
    ("https://a.example/%c3%a9", "normal form"),
    ("https://a.example/%", "normal form"),
    ("https://a.example/%4", "normal form"),
    ("https://a.example/%zz", "normal form"),
    ("https://a.example/cb?code=x", "parameter of the answer"),
    ("https://a.example/cb?a=b&state", "parameter of the answer"),
    ("https://a.example/cb?iss=https://evil.example", "parameter of the answer"),
    ("http://a.example/cb", "must be https: http is for"),
    ("http://10.0.0.1/cb", "must be https: http is for"),
    ("http://127.0.0.2/cb", "must be https: http is for"),
    ("http://localhost.evil.example/cb", "must be https: http is for"),
    ("http://localhost@evil.example/cb", "without user name"),
    ("http://127.0.0.1.evil.example/cb", "must be https: http is for"),
    ("http://[::ffff:127.0.0.1]/cb", "must be https: http is for"),
    ("javascript:alert(1)", "must be https"),
    ("javascript://a.example/%0Aalert(1)", "must be https"),
    ("data:text/html,x", "must be https"),
    ("file:///etc/passwd", "must be https"),
    ("vbscript:x", "must be https"),
    ("blob:https://a.example/x", "must be https"),
    ("about:blank", "must be https"),
    ("ftp://a.example/cb", "must be https"),
    ("ws://a.example/cb", "must be https"),
    ("urn:ietf:wg:oauth:2.0:oob", "must be https"),
    ("myapp:/answer", "with a dot"),
    ("myapp://answer", "with a dot"),
    ("com.example.app:answer", "must be https"),
    ("Com.example.app:/answer", "must be https"),
    ("com.example.app://user@answer/", "must be https"),
    ("com.example.app:", "must be https"),
    ("com.example.app://", "must be https"),
    ("com.example.app:///answer", "must be https"),
    ("com.example..app:/answer", "must be https"),
    ("com.example.app:/../answer", "dot segments"),
]


@pytest.mark.parametrize("uri", GOOD)
def test_a_redirect_uri_in_normal_form_may_be_registered(uri: str) -> None:
    check_redirect_uri(uri)

    assert redirect_uri_matches(RegisteredClient(client_id="a", name="A", redirect_uris=(uri,)), uri)


@pytest.mark.parametrize(("uri", "cause"), BAD, ids=[repr(uri)[:60] for uri, _ in BAD])
def test_what_is_not_one_plain_redirect_uri_cannot_be_registered(uri: str, cause: str) -> None:
    with pytest.raises(RedirectUriError, match=cause) as caught:
        check_redirect_uri(uri)

    assert caught.value.error == "invalid_redirect_uri"


@pytest.mark.parametrize(
    "uri", [*REGISTERED, "http://127.0.0.1/cb", "http://127.0.0.1:1/cb", "http://[::1]:65535/cb", "http://localhost:80/cb?x=1"]
)
def test_a_request_may_name_a_registered_uri_and_a_listener_on_any_port(uri: str) -> None:
    assert redirect_uri_matches(CLIENT, uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://app.example.com/cb",
        "https://app.example.com/cb?tenant=a&x=1",
        "https://app.example.com/cb?tenant=A",
        "https://app.example.com/cb/?tenant=a",
        "https://app.example.com/cb?tenant=a#",
        "https://app.example.com/cb?tenant=a\n",
        "https://app.example.com/%63b?tenant=a",
        "https://app.example.com/x/../cb?tenant=a",
        "https://app.example.com:443/cb?tenant=a",
        "https://app.example.com:8443/cb?tenant=a",
        "https://app.example.com./cb?tenant=a",
        "https://APP.example.com/cb?tenant=a",
        "https://app.example.com@evil.example/cb?tenant=a",
        "https://app.example.com.evil.example/cb?tenant=a",
        "https://evilapp.example.com/cb?tenant=a",
        "http://app.example.com/cb?tenant=a",
        "http://127.0.0.1:0/cb",
        "http://127.0.0.1:65536/cb",
        "http://127.0.0.1:03000/cb",
        "http://127.0.0.1:3000/cb/",
        "http://127.0.0.1:3000/cb?x=1",
        "http://127.0.0.1:3000/cbx",
        "http://127.0.0.1:3000",
        "http://127.0.0.1:3000@evil.example/cb",
        "http://127.0.0.1:3000.evil.example/cb",
        "http://127.0.0.1:\uff13\uff10\uff10\uff10/cb",
        "http://127.0.0.1:3000\\/cb",
        "http://127.1:3000/cb",
        "http://127.0.0.2:3000/cb",
        "http://localhost:3000/cb",
        "http://localhost.:3000/cb?x=1",
        "http://[::1%25lo]:3000/cb",
        "http://[0:0:0:0:0:0:0:1]:3000/cb",
        "https://127.0.0.1:3000/cb",
        "HTTP://127.0.0.1:3000/cb",
        "com.example.app:/answer/",
        "com.example.app:/Answer",
        "com.example.app.evil:/answer",
        "javascript:alert(1)",
    ],
)
def test_a_request_may_name_nothing_else(uri: str) -> None:
    assert not redirect_uri_matches(CLIENT, uri)


@given(st.sampled_from(GOOD), st.integers(0, 60), st.characters())
def test_one_changed_character_is_another_uri_or_another_port(uri: str, position: int, character: str) -> None:
    client = RegisteredClient(client_id="a", name="A", redirect_uris=(uri,))
    changed = uri[: position % len(uri)] + character + uri[position % len(uri) + 1 :]

    if redirect_uri_matches(client, changed) and changed != uri:
        assert is_loopback_redirect(uri)
        assert is_loopback_redirect(changed)
        check_redirect_uri(changed)


def test_the_kind_of_application_says_what_it_may_register() -> None:
    assert application_type_of(["https://a.example/cb"]) == "web"
    for native in ("http://localhost/cb", "http://127.0.0.1/cb", "com.example.app:/cb", "https://localhost/cb"):
        assert application_type_of(["https://a.example/cb", native]) == "native"
        assert checked_redirect_uris([native, native], "native") == (native,)
        assert checked_redirect_uris([native], None) == (native,)
        with pytest.raises(RedirectUriError, match="native applications"):
            checked_redirect_uris([native], "web")
    assert checked_redirect_uris(["https://a.example/cb"], "native") == ("https://a.example/cb",)


def test_redirect_uris_are_strings_and_not_too_many() -> None:
    with pytest.raises(RedirectUriError, match="a string"):
        checked_redirect_uris([["https://a.example/cb"]], None)
    with pytest.raises(RedirectUriError, match=f"{MAX_REDIRECT_URIS} redirect URIs at most"):
        checked_redirect_uris([f"https://a.example/{number}" for number in range(MAX_REDIRECT_URIS + 1)], None)


@pytest.mark.parametrize("uri", ["cursor://anysphere.cursor-mcp/oauth/callback", "cursor:/callback", "vscode://vendor.name/cb?x=1"])
def test_a_scheme_without_a_dot_is_good_where_it_is_admitted_by_name(uri: str):
    check_redirect_uri(uri, {"cursor", "vscode"})

    for admitted in ((), ("other",), ("cursor://",)):
        with pytest.raises(RedirectUriError):
            check_redirect_uri(uri, admitted)


@pytest.mark.parametrize(
    "uri", ["cursor:callback", "cursor://user@host/cb", "cursor://host:1/cb", "cursor://host/../cb", "cursor://HOST/cb", "CURSOR://host/cb"]
)
def test_an_admitted_scheme_does_not_make_other_forms_good(uri: str):
    with pytest.raises(RedirectUriError):
        check_redirect_uri(uri, {"cursor"})


@pytest.mark.parametrize("scheme", ["javascript", "data", "file", "http", "blob", "intent"])
def test_no_operator_admits_a_scheme_that_leads_to_no_program(scheme: str):
    with pytest.raises(ValueError, match="no scheme of a program"):
        RegistrationSpec(private_use_schemes=(scheme,))

"""URIs of resources: only the form that no server changes when it parses it."""

from __future__ import annotations

from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, TypeAdapter, UrlConstraints, ValidationError

from extauthz.mcp.uri import in_ascii, is_normal

# What the Python SDK 1.x makes of a URI before its handlers see it.
SDK_URI: TypeAdapter[AnyUrl] = TypeAdapter(Annotated[AnyUrl, UrlConstraints(host_required=False)])


@pytest.mark.parametrize(
    "uri",
    [
        "test://a", "test://static-text", "file:///etc/passwd", "file:///c:/x", "https://h.example/", "https://h.example:8443/a?q=1#f",
        "ui://app/view.html", "urn:isbn:1", "mailto:a@b", "github://Owner/Repo", "ssh://git@host/x", "test://u:p@host:70/x",
        "test:///a", "test://a//b", "test://a/b%20c", "test://ä/ö", "test://[::1]/x", "http://10.0.0.1/", "test:a", "test://a/...",
        "test://a?b='c'", "file://h.example/x", "https://h.1a/", "test://a/.b", "https://[2001:db8::1]:8443/a'b", "test://a/b%2Fc",
        "test://a/..b%2f.c%5C...",
    ],
)  # fmt: skip
def test_an_ordinary_uri_is_normal(uri: str) -> None:
    assert is_normal(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "", "a", "/a", "//a", "TEST://a", "Test:a", "1a://b", "test://a/../b", "test://a/./b", "test://a/..", "test://a/%2e%2e/b",
        "test://a/.%2E", "test:a/../b", "test://a b", " test://a", "test://a ", "test://a\tb", "test://a\n", "test://a\\b",
        "test://a<b", "test://a\0", "test://a\x7f", "test://{id}", 'test://a"', "test://a|b", "test://a^b", "test://a`b", "test://a%",
        "test://a%2", "test://a%zz", "https://h.example", "ftp://h.example", "ws://h.example", "wss://h.example", "https://H.example/",
        "https://h.example:443/", "http://h.example:80/", "https:/h.example/", "https:h", "https:///a", "https://h.example:08/",
        "https://h.example:/", "test://a:65536/", "test://a:", "test://@a", "test://u:@a", "test://u;x@a", "http://0x7f.1/",
        "http://2130706433/", "http://127.1/", "http://010.0.0.1/", "http://256.0.0.1/", "http://[0:0::1]/", "https://[::1]:443/",
        "http://[::zz]/", "http://a..b/", "http://ä.example/", "http://xn--a/", "file://localhost/a", "file:/a", "file:////a",
        "file://h:1/a", "file://H/a", "https://a,b/", "https://aä/", "file://h/c:/x", "https://h.example/?a='b'", "test://[::1",
        "test://:80/", "test://u@/", "test://a/..%2Fb", "file:///a/b%2f..%2F..%2fc", "test:a%2F../b", "file:///a/..%5Cb",
        "test://a/b%5c%2E%2e", "test://../a", "test://a%2F..", "test://.",
    ],
)  # fmt: skip
def test_a_uri_that_some_server_would_change_is_not_normal(uri: str) -> None:
    assert not is_normal(uri)


def test_letters_outside_ascii_have_a_second_form() -> None:
    assert in_ascii("test://a/ä%20😀") == "test://a/%C3%A4%20%F0%9F%98%80"
    assert in_ascii("test://a/%C3%A4?[x]") == "test://a/%C3%A4?[x]"


PIECES = st.sampled_from(
    [
        *("http", "https", "file", "test", "ws", "ftp", "TEST", "ui", "urn", ":", "//", "/", "a", "A", "b.c", ".", "..", "%2e", "%2E"),
        *("%41", "%zz", "%", "?", "#", "@", "u", "u:p", "[::1]", "[0:0::1]", "127.0.0.1", "0x7f.1", "08", "localhost", "h.example", "H"),
        *("xn--a", "_", "-", "'", '"', "<", "{", "|", "\\", "^", "ä", "ß", "。", "①", ":80", ":443", ":0080", "!", "$", "&", "(", "*"),
        *("+", ",", ";", "=", "~", "[", "]", "c:", "C|", "0", "..;", "%00", "%2f", "1.2.3", " ", "\t", "\n", "\0", "\x7f", "\u200b"),
    ]
)


@settings(max_examples=500)
@given(
    start=st.sampled_from(["http://", "https://", "file://", "test://", "test:", "urn:", "ui://a/", ""]),
    pieces=st.lists(PIECES, max_size=6),
)
def test_the_sdk_leaves_what_is_normal_as_it_is(start: str, pieces: list[str]) -> None:
    uri = start + "".join(pieces)
    if not is_normal(uri):
        return

    try:
        parsed = str(SDK_URI.validate_python(uri))
    except ValidationError:
        return

    assert parsed in {uri, in_ascii(uri)}

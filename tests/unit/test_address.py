"""The rules against server-side request forgery: every notation of an inner address is refused."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.address import AddressRules, embedded_ipv4, parse_host_literal
from extauthz.errors import AddressError, ConfigurationError

PUBLIC_ONLY = AddressRules()
LOOPBACK_ALLOWED = AddressRules(["127.0.0.0/8", "::1/128"])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.1.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "168.63.129.16",
        "192.0.0.8",
        "198.18.0.1",
        "203.0.113.7",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::1%25lo]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:10.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::1]",
        "[2002:7f00:1::]",
        "[2002:c0a8:101::1]",
        "[2001:0:53aa:64c::1]",
        "[fe80::1%25eth0]",
        "[fd00::1]",
        "[fd00:ec2::254]",
        "[fc00::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[2001:db8::1]",
        "[100::1]",
        "[4000::1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "localhost.localdomain",
        "ip6-localhost",
    ],
)
def test_an_inner_address_is_refused_in_every_notation(host: str) -> None:
    with pytest.raises(AddressError):
        PUBLIC_ONLY.check_url(f"http://{host}:8080/mcp")


@pytest.mark.parametrize("host", ["example.com", "mcp.example.com.", "8.8.8.8", "[2606:4700::1111]", "0x08080808", "under_score.example"])
def test_public_addresses_and_names_pass(host: str) -> None:
    PUBLIC_ONLY.check_url(f"https://{host}/mcp")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com",
        "javascript:alert(1)",
        "//example.com/x",
        "/relative",
        "",
        "http://",
        "http:///path",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://example.com:port/",
        "http://exa mple.com/",
        "http://example.com/\r\nHost: evil",
        "http://127。0。0。1/",
        "http://①②⑦.0.0.1/",
        "http://%31%32%37.0.0.1/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://0x/",
        "http://[::1/",
        "http://[::gg]/",
        "http://[v1.fe80::a]/",
        "http://a..b/",
        "http://-a.example/",
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(AddressError):
        PUBLIC_ONLY.check_url(url)


def test_an_allowed_network_lets_exactly_its_addresses_pass() -> None:
    rules = AddressRules(["127.0.0.0/8", "10.1.0.0/16"])

    rules.check_url("http://127.0.0.1:9101/mcp")
    rules.check_url("http://localhost:9101/mcp")
    rules.check_url("http://10.1.2.3/mcp")
    rules.check_url("http://[::ffff:127.0.0.1]/mcp")
    for refused in ("10.2.0.1", "::1", "192.168.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"):
        with pytest.raises(AddressError):
            rules.check_address(refused)


def test_a_metadata_address_needs_an_entry_of_its_own() -> None:
    with pytest.raises(AddressError, match="metadata"):
        AddressRules(["169.254.0.0/16", "0.0.0.0/0"]).check_address("169.254.169.254")

    AddressRules(["169.254.169.254/32"]).check_address("169.254.169.254")
    AddressRules(["169.254.0.0/16"]).check_address("169.254.1.1")


def test_the_refusal_names_the_rule_and_the_setting() -> None:
    with pytest.raises(AddressError, match=r"10\.0\.0\.1 is refused: private address .*LEGATION_ALLOWED_UPSTREAM_NETWORKS"):
        PUBLIC_ONLY.check_address("10.0.0.1")


def test_a_malformed_allowed_network_stops_the_process_and_names_itself() -> None:
    with pytest.raises(ConfigurationError, match=r"'10\.0\.0\.1/8'"):
        AddressRules(["10.0.0.1/8"])


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(AddressError):
        PUBLIC_ONLY.check_address("example.com")


async def test_a_name_is_checked_by_what_it_resolves_to() -> None:
    with pytest.raises(AddressError, match="loopback"):
        await PUBLIC_ONLY.resolve("localhost", 80)

    assert set(await LOOPBACK_ALLOWED.resolve("localhost", 80)) <= {"127.0.0.1", "::1"}


async def test_one_refused_address_refuses_the_whole_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_faced(host: str, port: int, *_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("93.184.216.34", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", two_faced)

    with pytest.raises(AddressError, match=r"two-faced\.example \(10\.0\.0\.1\)"):
        await PUBLIC_ONLY.resolve("two-faced.example", 443)


async def test_a_literal_is_resolved_without_a_resolver_and_in_canonical_form() -> None:
    assert await LOOPBACK_ALLOWED.resolve("0x7f.1", 80) == ["127.0.0.1"]
    with pytest.raises(AddressError):
        await PUBLIC_ONLY.resolve("2130706433", 80)


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_every_notation_of_an_ipv4_address_means_the_same(value: int) -> None:
    address = IPv4Address(value)
    a, b, c, d = address.packed

    for notation in (str(address), str(value), hex(value), f"0{value:o}", f"{a}.{b}.{c * 256 + d}", f"{a:#x}.0{b:o}.{c}.{d}"):
        assert parse_host_literal(notation) == address, notation


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_an_embedded_ipv4_address_is_judged_like_itself(value: int) -> None:
    address = IPv4Address(value)
    for carrier in (0xFFFF << 32 | value, 0x64FF9B << 96 | value, 0x2002 << 112 | value << 80):
        wrapped = IPv6Address(carrier)
        assert embedded_ipv4(wrapped) == address
        assert _is_refused(str(wrapped)) == _is_refused(str(address)), wrapped


def _is_refused(ip: str) -> bool:
    try:
        PUBLIC_ONLY.check_address(ip)
    except AddressError:
        return True
    return False

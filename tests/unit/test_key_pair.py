"""Certificates with keys: what is refused before Envoy hears of it, and what is said about the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ssl import DER_cert_to_PEM_cert

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.registry.authority import parse_authorities
from controlplane.registry.key_pair import KeyPairError, check_key_pair
from extauthz.errors import ConfigurationError
from tests.pki import Issued, TestAuthority, pem_of

CA = TestAuthority()
BETWEEN = CA.below()
GOOD = BETWEEN.issue("gw.example", "*.tenants.example", "192.0.2.1")


def test_a_good_pair_is_written_anew_and_nothing_else_of_the_file_with_it() -> None:
    pair = check_key_pair(b"remark\n" + GOOD.chain_pem + CA.pem, b"remark\n" + GOOD.key_pem, datetime.now(UTC))

    assert pair.chain == GOOD.chain_pem + CA.pem
    assert pair.key == GOOD.key_pem
    assert pair.names == ("gw.example", "*.tenants.example", "192.0.2.1")
    assert "PRIVATE" not in repr(pair)


Made = Callable[[], tuple[bytes, bytes]]

REFUSED: dict[str, tuple[str, str, Made]] = {
    "no certificates": ("chain", "holds no certificates", lambda: (b"-----BEGIN nothing", GOOD.key_pem)),
    "an empty chain": ("chain", "holds no certificates", lambda: (b"", GOOD.key_pem)),
    "a damaged certificate": ("chain", "holds no certificates", lambda: (GOOD.chain_pem.replace(b"MII", b"AAA"), GOOD.key_pem)),
    "no key": ("key", "is not a private key", lambda: (GOOD.chain_pem, GOOD.chain_pem)),
    "an encrypted key": ("key", "passphrase", lambda: (GOOD.chain_pem, pem_of(GOOD.key, b"secret"))),
    "another key": ("key", "is not the private key", lambda: (GOOD.chain_pem, CA.issue("gw.example").key_pem)),
    "the root first": ("chain", "not in order", lambda: (CA.pem + GOOD.chain_pem, GOOD.key_pem)),
    "a stranger behind the leaf": ("chain", "not in order", lambda: (GOOD.chain_pem + TestAuthority().pem, GOOD.key_pem)),
    "a twin of the intermediate": ("chain", "not in order", lambda: _twin()),  # noqa: PLW0108 - it stands below
    "eleven certificates": ("chain", "at most 10", lambda: (GOOD.chain_pem * 6, GOOD.key_pem)),
    "expired": ("chain", "expired on", lambda: _pair(ends=timedelta(hours=-1))),
    "not yet valid": ("chain", "valid only from", lambda: _pair(starts=timedelta(hours=1))),
    "a short RSA key": ("key", "RSA key of 1024 bits", lambda: _pair(key=rsa.generate_private_key(65537, 1024))),
    "an odd curve": ("key", "secp256k1", lambda: _pair(key=ec.generate_private_key(ec.SECP256K1()))),
    "Ed25519": ("key", "RSA or ECDSA", lambda: _pair(key=ed25519.Ed25519PrivateKey.generate())),
    "DSA": ("key", "RSA or ECDSA", lambda: _pair(key=dsa.generate_private_key(2048))),
}


def _pair(**options: object) -> tuple[bytes, bytes]:
    issued = CA.issue("gw.example", **options)  # type: ignore[arg-type]
    return issued.chain_pem, issued.key_pem


def _twin() -> tuple[bytes, bytes]:
    """Issued by somebody of the same name as the certificate behind it."""
    issued = CA.below().issue("gw.example")
    return Issued(chain=(issued.chain[0], BETWEEN.certificate), key=issued.key).chain_pem, issued.key_pem


def test_a_damaged_certificate_is_refused_by_a_sentence_wherever_it_is_damaged() -> None:
    """Whatever else came out of here would end the control plane: files are read every second."""
    der = bytearray(GOOD.chain[0].public_bytes(Encoding.DER))
    for place in range(len(der)):
        damaged = der[:place] + bytes([der[place] ^ 0x15]) + der[place + 1 :]
        pem = DER_cert_to_PEM_cert(bytes(damaged)).encode()
        with contextlib.suppress(KeyPairError):
            check_key_pair(pem, GOOD.key_pem, datetime.now(UTC))
        with contextlib.suppress(ConfigurationError):
            parse_authorities(pem, "system/ca.pem")


@pytest.mark.parametrize("name", REFUSED)
def test_what_envoy_or_clients_would_refuse_is_refused_with_the_part_that_is_wrong(name: str) -> None:
    part, sentence, make = REFUSED[name]

    with pytest.raises(KeyPairError, match=sentence) as refused:
        check_key_pair(*make(), datetime.now(UTC))

    assert refused.value.part == part
    assert "-----" not in str(refused.value)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())])
def test_rsa_of_2048_bits_and_the_larger_curves_are_good(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    issued = CA.issue("gw.example", key=key)

    assert check_key_pair(issued.chain_pem, issued.key_pem, datetime.now(UTC)).names == ("gw.example",)


@pytest.mark.parametrize(
    ("lives", "ends", "soon"),
    [
        (timedelta(days=90), timedelta(days=8), False),
        (timedelta(days=90), timedelta(days=6), True),
        (timedelta(hours=1), timedelta(minutes=30), False),
        (timedelta(hours=1), timedelta(minutes=15), True),
    ],
)
def test_a_certificate_is_late_a_week_before_its_end_or_in_its_last_third(lives: timedelta, ends: timedelta, soon: bool) -> None:
    issued = CA.issue("gw.example", starts=ends - lives, ends=ends)

    assert check_key_pair(issued.chain_pem, issued.key_pem, datetime.now(UTC)).expires_soon(datetime.now(UTC)) is soon


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("gw.example", True),
        ("192.0.2.1", True),
        ("a.tenants.example", True),
        ("a.b.tenants.example", False),
        ("tenants.example", False),
        ("other.example", False),
        ("192.0.2.2", False),
    ],
)
def test_names_are_covered_as_clients_judge(host: str, covered: bool) -> None:
    pair = check_key_pair(GOOD.chain_pem, GOOD.key_pem, datetime.now(UTC))

    assert (pair.uncovered([host]) == []) is covered

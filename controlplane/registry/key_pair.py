"""Certificates with their private keys, checked before anybody is told of them: what Envoy refuses poisons what it is sent next.

    PEM parses ─▶ the chain is in order ─▶ the key is the leaf's ─▶ strong enough ─▶ its dates

Checked when a document is applied (`registry.gateway_rules`) and again whenever a source changes (`xds.certificate_source`).
No text of an error shows anything of a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import MD5, SHA1
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from extauthz.errors import ConfigurationError
from extauthz.identity.certificate import CertificateError, extension_of, reading_certificates

EXPIRES_SOON = timedelta(days=7)
LEAST_RSA_BITS = 2048
MAX_CHAIN = 10
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


class KeyPairError(ConfigurationError):
    """A chain and a key that cannot be used. `part` is where the fault is."""

    def __init__(self, part: Literal["chain", "key"], sentence: str) -> None:
        super().__init__(sentence)
        self.part = part


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A chain (leaf first) and the leaf's private key, both PEM and written anew: nothing else of a file leaves it.

    `names`: DNS names and addresses of the leaf. `not_after`: when the first certificate of the chain ends.
    """

    chain: bytes
    key: bytes = field(repr=False)
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    def expires_soon(self, now: datetime) -> bool:
        """Whether less than a week is left, or a third of its time when that is less: a short-lived one is not always late."""
        return self.not_after - now < min(EXPIRES_SOON, (self.not_after - self.not_before) / 3)

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.not_after <= now

    def uncovered(self, hosts: Iterable[str]) -> list[str]:
        """Those of `hosts` (names or addresses without port) that the leaf is not good for, as clients judge (RFC 6125)."""
        return [host for host in dict.fromkeys(hosts) if not any(_covers(name, host) for name in self.names)]


def check_key_pair(chain_pem: bytes, key_pem: bytes, now: datetime) -> KeyPair:
    """The pair, or `KeyPairError`, whatever the two hold: files are damaged, and half written."""
    try:
        with reading_certificates():
            return _checked(chain_pem, key_pem, now)
    except CertificateError as error:
        raise KeyPairError("chain", "holds a certificate that cannot be read: it is damaged, or its key is of an unknown kind") from error


def _checked(chain_pem: bytes, key_pem: bytes, now: datetime) -> KeyPair:
    chain = _parse_chain(chain_pem)
    key = _parse_key(key_pem)
    _check_order(chain)
    if chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ):
        raise KeyPairError("key", "is not the private key of the chain's first certificate")
    _check_dates(chain, now)
    return KeyPair(
        chain=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        names=_names_of(chain[0]),
        not_before=chain[0].not_valid_before_utc,
        not_after=min(certificate.not_valid_after_utc for certificate in chain),
    )


def _parse_chain(pem: bytes) -> Sequence[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise KeyPairError("chain", "holds no certificates in PEM") from error
    if len(chain) > MAX_CHAIN:
        raise KeyPairError("chain", f"holds {len(chain)} certificates; at most {MAX_CHAIN} are a chain")
    return chain


def _parse_key(pem: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise KeyPairError("key", "is encrypted with a passphrase; give it in plain PEM") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyPairError("key", "is not a private key in PEM") from error
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < LEAST_RSA_BITS:
            raise KeyPairError("key", f"is an RSA key of {key.key_size} bits; at least {LEAST_RSA_BITS} are needed")
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.name not in _CURVES:
            raise KeyPairError("key", f"is on the curve {key.curve.name}; Envoy takes P-256, P-384 and P-521")
        return key
    raise KeyPairError("key", "must be an RSA or ECDSA key; Envoy takes no other ones")


def _check_order(chain: Sequence[x509.Certificate]) -> None:
    """Each certificate is issued by the one behind it; the root may be absent, as it should be."""
    for index, certificate in enumerate(chain):
        if isinstance(certificate.signature_hash_algorithm, (MD5, SHA1)) and certificate.issuer != certificate.subject:
            raise KeyPairError("chain", f"its certificate {index + 1} is signed with SHA-1 or MD5, which no client takes")
        if index + 1 == len(chain):
            return
        try:
            certificate.verify_directly_issued_by(chain[index + 1])
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            fault = f"is not in order: its certificate {index + 1} is not issued by certificate {index + 2} (the leaf comes first)"
            raise KeyPairError("chain", fault) from error


def _check_dates(chain: Sequence[x509.Certificate], now: datetime) -> None:
    for index, certificate in enumerate(chain):
        if certificate.not_valid_after_utc <= now:
            raise KeyPairError("chain", f"its certificate {index + 1} expired on {day_of(certificate.not_valid_after_utc)}")
        if certificate.not_valid_before_utc > now:
            raise KeyPairError("chain", f"its certificate {index + 1} is valid only from {day_of(certificate.not_valid_before_utc)} on")


def day_of(at: datetime) -> str:
    """An instant as operators read it."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _names_of(leaf: x509.Certificate) -> tuple[str, ...]:
    names = extension_of(leaf, x509.SubjectAlternativeName)
    if names is None:
        return ()
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return (*(name.lower() for name in names.get_values_for_type(x509.DNSName)), *addresses)


def _covers(name: str, host: str) -> bool:
    """A wildcard stands for one label, and covers itself."""
    try:
        return ip_address(name) == ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    if name == host:
        return True
    label, _, rest = host.partition(".")
    return name.startswith("*.") and bool(label) and bool(rest) and name[2:] == rest

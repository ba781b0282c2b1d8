"""A certificate authority for tests of listeners: pairs as they should be, and with one thing wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate with those that lead to its root (without the root), and its key."""

    chain: tuple[x509.Certificate, ...]
    key: Key

    @property
    def chain_pem(self) -> bytes:
        return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in self.chain)

    @property
    def key_pem(self) -> bytes:
        return pem_of(self.key)

    def write(self, folder: Path, name: str) -> None:
        """`<name>.crt` and `<name>.key`, each moved over the old one as tools do it."""
        for end, content in (("key", self.key_pem), ("crt", self.chain_pem)):
            new = folder / f".{name}.new"
            new.write_bytes(content)
            new.replace(folder / f"{name}.{end}")


def pem_of(key: Key, passphrase: bytes | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def key_of_a_huge_exponent() -> rsa.RSAPrivateKey:
    """Each verification with its public key costs what a signature costs: hundreds of times the usual. Envoy takes none."""
    usual = rsa.generate_private_key(65537, 2048).private_numbers()
    order = (usual.p - 1) * (usual.q - 1)
    exponent = next(e for e in range(order // 2 | 1, order, 2) if math.gcd(e, order) == 1)
    secret = pow(exponent, -1, order)
    parts = (rsa.rsa_crt_dmp1(secret, usual.p), rsa.rsa_crt_dmq1(secret, usual.q), rsa.rsa_crt_iqmp(usual.p, usual.q))
    public = rsa.RSAPublicNumbers(exponent, usual.public_numbers.n)
    return rsa.RSAPrivateNumbers(usual.p, usual.q, secret, *parts, public).private_key()


class TestAuthority:
    """Issues certificates; `below` is an intermediate of it."""

    __test__ = False

    def __init__(self, name: str = "authority", *, above: TestAuthority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.above = above
        issuer = above or self
        self.name = _name(name)
        builder = _builder(self.name, issuer.name, self.key, timedelta(days=-1), timedelta(days=365))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = builder.sign(issuer.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        return (self.certificate, *self.above.path) if self.above is not None else ()

    def below(self, name: str = "intermediate") -> TestAuthority:
        return TestAuthority(name, above=self)

    def issue(
        self,
        *hosts: str,
        key: Key | None = None,
        starts: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=90),
        uris: Sequence[str] = (),
    ) -> Issued:
        """A certificate for `hosts` (names and addresses) and `uris`."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [*map(_host, hosts), *map(x509.UniformResourceIdentifier, uris)]
        builder = _builder(_name((hosts or uris or ("nobody",))[0]), self.name, key, starts, ends)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        leaf = builder.sign(self.key, hashes.SHA256())
        return Issued(chain=(leaf, *self.path), key=key)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, starts: timedelta, ends: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)

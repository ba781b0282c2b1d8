"""A small certificate authority for trials of mutual TLS between our processes (`legation certificates DIR`).

One directory holds the authority and, per process, a certificate whose URI names its role:
`spiffe://legation.internal/legation/<role>`. For production use SPIRE, cert-manager or your own authority with such URIs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from extauthz.errors import ConfigurationError

TRUST_DOMAIN = "legation.internal"
DEFAULT_NAMES = ("control-plane", "authorizer", "aggregator", "envoy")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


def write_certificates(
    directory: Path, names: Sequence[str] = DEFAULT_NAMES, *, hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1"), days: int = 30
) -> list[Path]:
    """Write `ca.crt`, `ca.key` (kept when there) and `<name>.crt`, `<name>.key` for each name; returns what was written.

    The role in the URI is the name without a trailing number: `authorizer-2` has the role `authorizer`. Each certificate is
    good for the name itself and for `hosts`.
    """
    for name in names:
        if not _NAME.fullmatch(name) or name == "ca":
            raise ConfigurationError(f"{name!r} cannot name a certificate; use names such as {', '.join(DEFAULT_NAMES)}, authorizer-2")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    written: list[Path] = []
    authority, authority_key = _authority(directory, written, days)
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _leaf(name, hosts, key, authority, authority_key, days)
        _write(directory / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644, written)
        _write(directory / f"{name}.key", _private_pem(key), 0o600, written)
    return written


def role_of_name(name: str) -> str:
    """`authorizer` for `authorizer-2`."""
    return re.sub(r"-[0-9]+$", "", name)


def _authority(directory: Path, written: list[Path], days: int) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_file, key_file = directory / "ca.crt", directory / "ca.key"
    if certificate_file.exists() and key_file.exists():
        held_key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        held = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        if isinstance(held_key, ec.EllipticCurvePrivateKey) and held.not_valid_after_utc > datetime.now(UTC) + timedelta(days=days):
            return held, held_key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Legation trial authority")])
    certificate = (
        _builder(name, name, key, days=days * 12)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signing_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644, written)
    _write(key_file, _private_pem(key), 0o600, written)
    return certificate, key


def _leaf(
    name: str,
    hosts: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/legation/{role_of_name(name)}")]
    names += [_host_name(host) for host in dict.fromkeys((name, *hosts))]
    return (
        _builder(subject, authority.subject, key, days=days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signing_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signing_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signing_certificates,
        key_cert_sign=signing_certificates,
        crl_sign=signing_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(file: Path, content: bytes, mode: int, written: list[Path]) -> None:
    """Replace a file whole; a private key is never readable by others, not even for a moment."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
    temporary.replace(file)
    written.append(file)

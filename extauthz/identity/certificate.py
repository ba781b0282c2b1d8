"""X.509 certificates: how all of them are read, and the rules that hold wherever one is judged.

Asked about client certificates (`x509_svid`), authorities in trust bundles and files, endpoints, and pairs for listeners. What the
parsers of `cryptography` raise for strange certificates is open-ended, and some of it comes only when a part is asked for: so whatever
touches certificates of strangers does it inside `reading_certificates`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from extauthz.errors import LegationError

ACCEPTED_KEYS = "RSA of 2048 to 8192 bits with a usual exponent, or EC on P-256, P-384 or P-521"
MAX_RSA_EXPONENT = 2**33
"""Envoy's limit. With an exponent as long as the modulus each signature costs as much as making one."""
_CURVES = (SECP256R1, SECP384R1, SECP521R1)

E = TypeVar("E", bound=x509.ExtensionType)


class CertificateError(LegationError):
    """A certificate, or a part of it, that cannot be read. Shows nothing of it."""


@contextlib.contextmanager
def reading_certificates() -> Iterator[None]:
    """Whatever a parser makes of strange certificates in here is a `CertificateError`; refusals of ours pass.

    Remarks about old ones are not shown: who judges them does it by rules.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except LegationError:
        raise
    except Exception as error:
        raise CertificateError("a certificate cannot be read") from error


def is_sound_key(key: object) -> bool:
    """Whether signatures may be verified with this public key: strong enough, and cheap enough, since callers choose theirs."""
    if isinstance(key, RSAPublicKey):
        return 2048 <= key.key_size <= 8192 and key.public_numbers().e < MAX_RSA_EXPONENT
    return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign certificates (X509-SVID sections 4.1 and 4.3)."""
    constraints, usage = extension_of(certificate, x509.BasicConstraints), extension_of(certificate, x509.KeyUsage)
    return constraints is not None and constraints.ca and usage is not None and usage.key_cert_sign


def fault_of_leaf(certificate: x509.Certificate) -> str:
    """Why it is no workload's (X509-SVID sections 4.1 and 4.3); empty: it is no authority, signs handshakes and nothing else."""
    constraints, usage = extension_of(certificate, x509.BasicConstraints), extension_of(certificate, x509.KeyUsage)
    if constraints is not None and constraints.ca:
        return "is that of an authority, and an authority is no workload"
    if usage is None or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        return "has a key usage that is not a workload's: digitalSignature, neither keyCertSign nor cRLSign"
    return ""


def uris_of(certificate: x509.Certificate) -> list[str]:
    """The URIs among its subject alternative names."""
    names = extension_of(certificate, x509.SubjectAlternativeName)
    return names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []


def extension_of(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """The extension of this kind, None without one."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None

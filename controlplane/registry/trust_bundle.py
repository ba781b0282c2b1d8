"""Trust bundles: the authorities of one SPIFFE trust domain, read from a SPIFFE bundle document or from PEM.

    parse_bundle_document(text, trust_domain) ─┐
    parse_bundle_pem(pem, trust_domain) ───────┴─▶ TrustBundle ─▶ xds (to Envoys and authorizers), applied documents

Strict where a mistake would widen trust: what is no certificate authority, or one of another trust domain, or secret, refuses the
whole bundle. What the specification says to ignore is ignored: unknown uses and key types, entries without `x5c` or `kid`.
SPIFFE Trust Domain and Bundle section 4, X509-SVID sections 4 and 6, JWT-SVID section 6.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from extauthz.errors import ConfigurationError
from extauthz.identity.certificate import ACCEPTED_KEYS, CertificateError, is_authority, is_sound_key, reading_certificates, uris_of
from extauthz.identity.spiffe_id import claims_spiffe

MAX_BUNDLE_BYTES = 256 * 1024
MAX_AUTHORITIES = 100
MAX_SEQUENCE = 2**63 - 1
X509_SVID, JWT_SVID = "x509-svid", "jwt-svid"

_SECRET_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_PUBLIC_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y")}
_SOUND_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512, hashes.SHA3_256, hashes.SHA3_384, hashes.SHA3_512)


class BundleError(ConfigurationError):
    """This is no bundle of the trust domain. `path` says where in the document, as in `keys[2].x5c`; empty: all of it."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.reason = message


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """Whom a trust domain's SVIDs are signed by. Equal documents give equal values on every replica.

    `x509_authorities`: DER, sorted; empty: no X.509-SVID of it is believed. `jwt_authorities_json`: a JWK set of public keys with
    `kid` and `use: jwt-svid`, members and keys sorted; "" when there is none. `sequence`: 0 when the document told none.
    `refresh_hint_seconds`: as told, 0 when not.
    """

    trust_domain: str
    x509_authorities: tuple[bytes, ...] = ()
    jwt_authorities_json: str = ""
    sequence: int = 0
    refresh_hint_seconds: int = 0

    @property
    def jwt_authority_count(self) -> int:
        """How many keys verify JWT-SVIDs."""
        return len(json.loads(self.jwt_authorities_json)["keys"]) if self.jwt_authorities_json else 0

    def without_authorities(self) -> bool:
        """Whether no SVID can be believed by this bundle: the trust domain revoked all its keys."""
        return not self.x509_authorities and not self.jwt_authorities_json


def parse_bundle(content: bytes, trust_domain: str) -> TrustBundle:
    """A bundle document or PEM, whichever the file holds. Raises `BundleError`, which shows nothing of the content."""
    if content.lstrip().startswith(b"-----BEGIN "):
        return parse_bundle_pem(content, trust_domain)
    return parse_bundle_document(content, trust_domain)


def parse_bundle_document(content: bytes, trust_domain: str) -> TrustBundle:
    """A SPIFFE bundle document as a file or an endpoint has it. Raises `BundleError`."""
    return bundle_from_document(_load_object(content), trust_domain)


def bundle_from_document(document: Mapping[str, object], trust_domain: str) -> TrustBundle:
    """A SPIFFE bundle document that was parsed already. Raises `BundleError`."""
    keys = document.get("keys")
    if not isinstance(keys, list) or len(keys) > MAX_AUTHORITIES:
        raise BundleError(f"must be a list of at most {MAX_AUTHORITIES} keys", path="keys")
    authorities: list[bytes] = []
    jwt_keys: dict[str, dict[str, str]] = {}
    for index, key in enumerate(keys):
        path = f"keys[{index}]"
        if not isinstance(key, dict):
            raise BundleError("must be an object", path=path)
        if key.get("kty") == "oct" or _SECRET_MEMBERS & key.keys():
            raise BundleError(
                "is a secret key; a bundle holds public keys only. Whoever could read it must be thought to have it", path=path
            )
        if key.get("kty") not in _PUBLIC_MEMBERS:
            continue
        if key.get("use") == X509_SVID and key.get("x5c"):
            authorities.append(_x509_authority(key["x5c"], trust_domain, f"{path}.x5c"))
        elif key.get("use") == JWT_SVID and key.get("kid"):
            _add_jwt_authority(jwt_keys, key, path)
    return TrustBundle(
        trust_domain=trust_domain,
        x509_authorities=tuple(sorted(set(authorities))),
        jwt_authorities_json=_key_set(jwt_keys),
        sequence=_whole_number(document, "spiffe_sequence"),
        refresh_hint_seconds=_whole_number(document, "spiffe_refresh_hint"),
    )


def parse_bundle_pem(content: bytes, trust_domain: str) -> TrustBundle:
    """X.509 authorities in PEM. Raises `BundleError`; at least one must be there."""
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleError(f"a bundle must not be larger than {MAX_BUNDLE_BYTES} bytes")
    if b"PRIVATE KEY-----" in content:
        raise BundleError("holds a private key; a bundle holds certificates only. Whoever could read it must be thought to have the key")
    try:
        with reading_certificates():
            certificates = x509.load_pem_x509_certificates(content)
    except CertificateError as error:
        raise BundleError("holds no certificates in PEM") from error
    return bundle_from_certificates((certificate.public_bytes(Encoding.DER) for certificate in certificates), trust_domain)


def bundle_from_certificates(certificates: Iterable[bytes], trust_domain: str, *, jwt_keys_document: bytes = b"") -> TrustBundle:
    """X.509 authorities in DER and a JWK set of JWT authorities, as the Workload API tells them. Raises `BundleError`.

    The set may lack `use`, which only bundle documents need.
    """
    found = [_checked_authority(der, trust_domain, f"certificate {index + 1}") for index, der in enumerate(certificates)]
    if len(found) > MAX_AUTHORITIES:
        raise BundleError(f"a bundle holds at most {MAX_AUTHORITIES} authorities")
    told = bundle_from_document(_with_use(_load_object(jwt_keys_document)), trust_domain) if jwt_keys_document else None
    return TrustBundle(
        trust_domain=trust_domain,
        x509_authorities=tuple(sorted(set(found))),
        jwt_authorities_json=told.jwt_authorities_json if told is not None else "",
    )


def _load_object(content: bytes) -> dict[str, object]:
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleError(f"a bundle must not be larger than {MAX_BUNDLE_BYTES} bytes")
    try:
        document = json.loads(content, object_pairs_hook=_object_without_twins, parse_constant=_refuse_constant)
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise BundleError("is not a JSON document") from error
    if not isinstance(document, dict):
        raise BundleError("must be a JSON object")
    return document


def _with_use(document: dict[str, object]) -> dict[str, object]:
    keys = document.get("keys")
    return {"keys": [{"use": JWT_SVID} | key if isinstance(key, dict) else key for key in keys] if isinstance(keys, list) else keys}


def _x509_authority(x5c: object, trust_domain: str, path: str) -> bytes:
    """The first certificate of `x5c`; all others must be ignored (X509-SVID section 6.2)."""
    text = x5c[0] if isinstance(x5c, list) else None
    if not isinstance(text, str):
        raise BundleError("must be a list of certificates: DER in base64", path=path)
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BundleError("is not base64 (the usual alphabet, with padding)", path=path) from error
    return _checked_authority(der, trust_domain, path)


def _checked_authority(der: bytes, trust_domain: str, path: str) -> bytes:
    """`der`, when it is the certificate of an authority that may sign for `trust_domain` (X509-SVID sections 3.2 and 4)."""
    try:
        with reading_certificates():
            fault = _fault_of_authority(x509.load_der_x509_certificate(der), trust_domain)
    except CertificateError as error:
        raise BundleError("is not a certificate that can be read", path=path) from error
    if fault:
        raise BundleError(fault, path=path)
    return der


def _fault_of_authority(certificate: x509.Certificate, trust_domain: str) -> str:
    if not is_authority(certificate):
        return "is not the certificate of an authority: it needs CA in its basic constraints, and keyCertSign"
    if not is_sound_key(certificate.public_key()):
        return f"has a key that is not accepted: {ACCEPTED_KEYS}"
    if not isinstance(certificate.signature_hash_algorithm, _SOUND_HASHES):
        return "is signed with an algorithm that is not accepted: SHA-256 or better"
    foreign = next((uri for uri in uris_of(certificate) if claims_spiffe(uri) and uri != f"spiffe://{trust_domain}"), "")
    return f"is an authority of {foreign[:300]}, and not of spiffe://{trust_domain}" if foreign else ""


def _add_jwt_authority(found: dict[str, dict[str, str]], key: dict[str, Any], path: str) -> None:
    kid, members = key["kid"], _PUBLIC_MEMBERS[key["kty"]]
    if not isinstance(kid, str) or len(kid) > 1000:
        raise BundleError("must be a string", path=f"{path}.kid")
    if not all(isinstance(key.get(member), str) for member in members):
        raise BundleError("is malformed", path=path)
    public = {"kty": key["kty"], "kid": kid, "use": JWT_SVID} | {member: key[member] for member in members}
    try:
        parsed = RSAAlgorithm.from_jwk(public) if key["kty"] == "RSA" else ECAlgorithm.from_jwk(public)
    except (PyJWTError, ValueError, TypeError, KeyError) as error:
        raise BundleError("is malformed", path=path) from error
    if not is_sound_key(parsed):
        raise BundleError(f"has a key that is not accepted: {ACCEPTED_KEYS}", path=path)
    if found.setdefault(kid, public) != public:
        raise BundleError("is the id of two different keys", path=f"{path}.kid")


def _key_set(keys: Mapping[str, dict[str, str]]) -> str:
    if not keys:
        return ""
    return json.dumps({"keys": [keys[kid] for kid in sorted(keys)]}, sort_keys=True, separators=(",", ":"))


def _whole_number(document: Mapping[str, object], name: str) -> int:
    value = document.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEQUENCE:
        raise BundleError("must be a whole number from 0 up to 63 bits", path=name)
    return value


def _object_without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BundleError("names one member twice")
    return found


def _refuse_constant(text: str) -> object:
    raise BundleError(f"{text} is not JSON")

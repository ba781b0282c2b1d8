"""X.509-SVIDs: from the client certificate of a connection to a SPIFFE ID that authorities of its trust domain vouch for.

    claimed_spiffe_id(certificate) ──▶ (the trust domain that it names) ──▶ verify_x509_svid ──▶ X509Svid

What Envoy's listener accepted does not matter here: the same rules hold whether it checked nobody, an authority of its own or the
trust bundle. Leaf rules: X509-SVID sections 2, 4 and 5.2; path: RFC 5280 by `cryptography`, with the SPIFFE rules for authorities.
The intermediates come from Envoy's `x-forwarded-client-cert`; they are claims of the caller's, and good only as part of a path.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.certificate import (
    ACCEPTED_KEYS,
    CertificateError,
    extension_of,
    fault_of_leaf,
    is_sound_key,
    reading_certificates,
    uris_of,
)
from extauthz.identity.spiffe_id import SCHEME, SpiffeId, claims_spiffe, parse_spiffe_id
from extauthz.identity.trust_domain import TrustDomain

FORWARDED_CERTIFICATE_HEADER = "x-forwarded-client-cert"
MAX_CHAIN_CERTIFICATES = 8
"""Leaf and intermediates; an authority's own certificate is not counted."""
_KEPT_CERTIFICATES = 1024
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)-----END CERTIFICATE-----\n?", re.ASCII)
_FORWARDED_PAIR = re.compile(r'(By|Hash|Cert|Chain|Subject|URI|DNS)=(?:"((?:[^"\\]|\\.)*)"|([^",;]*))(?:;|\Z)', re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """A verified X.509-SVID. It is good while every certificate of its path is: from `not_before_unix` to `not_after_unix`.

    `issued_at_unix`: when the leaf says that it began to be good; nothing else tells when it was issued.
    """

    spiffe_id: SpiffeId
    issued_at_unix: float
    not_before_unix: float
    not_after_unix: float


@lru_cache(maxsize=_KEPT_CERTIFICATES)
def claimed_spiffe_id(certificate: str) -> SpiffeId | None:
    """The SPIFFE ID that a client certificate claims, nothing verified; None when it claims none.

    `certificate` is PEM, percent-encoded, as Envoy gives it. Raises `AuthenticationError` for a certificate that cannot be read, and
    for one that claims to be SPIFFE with another than exactly one URI, or with one that is no SPIFFE ID.
    """
    uris = uris_of(_leaf(certificate))
    if not any(map(claims_spiffe, uris)):
        return None
    if len(uris) != 1:
        raise _invalid("the client certificate has more than one URI, and an X.509-SVID has exactly one")
    try:
        return parse_spiffe_id(uris[0])
    except ValueError as error:
        raise _invalid(f"the client certificate's SPIFFE ID is not one: {error}") from error


def verify_x509_svid(
    certificate: str, forwarded: Sequence[str], spiffe_id: SpiffeId, trust_domain: TrustDomain, now_unix: float
) -> X509Svid:
    """Verify that authorities of `trust_domain` vouch for the certificate, whose `claimed_spiffe_id` is `spiffe_id`, at `now_unix`.

    `forwarded`: the values of `x-forwarded-client-cert`. Raises `AuthenticationError`.
    """
    # (1) the leaf says what an X.509-SVID of a workload says
    leaf = _leaf(certificate)
    if spiffe_id.trust_domain != trust_domain.trust_domain:
        raise _invalid("the client certificate is of another trust domain")
    _check_leaf(leaf)
    _check_dates(leaf, now_unix)
    # (2) a path of good certificates leads from it to an authority of this very trust domain
    intermediates = _intermediates(forwarded, leaf)
    _check_cost([leaf, *intermediates])
    path = _verified_path(leaf, intermediates, trust_domain, now_unix)
    # (3) who stands between them is of the same trust domain
    for authority in path[1:-1]:
        _check_intermediate(authority, trust_domain)
    return X509Svid(
        spiffe_id=spiffe_id,
        issued_at_unix=leaf.not_valid_before_utc.timestamp(),
        not_before_unix=max(link.not_valid_before_utc.timestamp() for link in path),
        not_after_unix=min(link.not_valid_after_utc.timestamp() for link in path),
    )


def _check_leaf(leaf: x509.Certificate) -> None:
    """X509-SVID sections 4.1, 4.3, 4.4: a leaf is no authority, signs handshakes and nothing else, and may be a client."""
    if fault := fault_of_leaf(leaf):
        raise _invalid(f"the client certificate {fault}")
    extended = extension_of(leaf, x509.ExtendedKeyUsage)
    if extended is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in extended:
        raise _invalid("the client certificate's extended key usage does not hold clientAuth")


def _check_dates(leaf: x509.Certificate, now_unix: float) -> None:
    """First, so that who comes with an old certificate learns that it is old. The path's dates are the verifier's."""
    if now_unix < leaf.not_valid_before_utc.timestamp():
        raise _invalid("the client certificate is not valid yet")
    if now_unix >= leaf.not_valid_after_utc.timestamp():
        raise AuthenticationError(Reason.SVID_EXPIRED, "the client certificate has expired")


def _check_cost(chain: Sequence[x509.Certificate]) -> None:
    """Before anything is verified with keys that a stranger may have made, and along paths that he may have laid.

    Certificates of one authority that sign each other are a maze: a verifier would try as many paths as it has patience for.
    """
    keys = [certificate.public_key() for certificate in chain]
    if not all(map(is_sound_key, keys)):
        raise _invalid(f"a key of the client certificate's chain is not accepted: {ACCEPTED_KEYS}")
    spki = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys]
    if len(set(spki)) != len(spki):
        raise _invalid("the client certificate's chain has several certificates of one key")


def _check_intermediate(authority: x509.Certificate, trust_domain: TrustDomain) -> None:
    """X509-SVID sections 3.2 and 4.2: a signing certificate that has a SPIFFE ID has that of its trust domain, without a path."""
    uris = uris_of(authority)
    if any(map(claims_spiffe, uris)) and uris != [SCHEME + trust_domain.trust_domain]:
        raise _invalid("an intermediate certificate is of another trust domain, or of a workload")


def _verified_path(
    leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], trust_domain: TrustDomain, now_unix: float
) -> list[x509.Certificate]:
    """Leaf first, authority last. Signatures, keys, dates, names, path lengths and critical extensions are checked there."""
    store = _authorities(trust_domain.x509_authorities)
    if store is None:
        raise AuthenticationError(Reason.TRUST_DOMAIN_UNKNOWN, "no X.509-SVID of this trust domain is believed here")
    of_authorities, of_leaf = _extension_policies()
    verifier = (
        PolicyBuilder()
        .store(store)
        .time(datetime.fromtimestamp(now_unix, UTC))
        .max_chain_depth(MAX_CHAIN_CERTIFICATES)
        .extension_policies(ca_policy=of_authorities, ee_policy=of_leaf)
        .build_client_verifier()
    )
    try:
        return verifier.verify(leaf, list(intermediates)).chain
    except (VerificationError, ValueError, TypeError) as error:
        raise _invalid("no valid path leads from the client certificate to an authority of its trust domain") from error


@lru_cache(maxsize=256)
def _authorities(der: tuple[bytes, ...]) -> Store | None:
    """The trust anchors; one that cannot be read, or whose key is not accepted, is none."""
    certificates = []
    for one in der:
        try:
            certificate = _parse(one)
            if is_sound_key(certificate.public_key()):
                certificates.append(certificate)
        except AuthenticationError:
            continue
    return Store(certificates) if certificates else None


@lru_cache(maxsize=1)
def _extension_policies() -> tuple[ExtensionPolicy, ExtensionPolicy]:
    """Of authorities and of leaves. Those of the Web PKI want DNS names and more; ours ask what SPIFFE asks.

    A critical extension that the verifier does not know is refused by it in any case, and name constraints are its own.
    """

    def is_authority(_policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
        if not constraints.ca:
            raise ValueError("not an authority")

    def signs_certificates(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage) -> None:
        if not usage.key_cert_sign:
            raise ValueError("may not sign certificates")

    of_authorities = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, is_authority)
        .require_present(x509.KeyUsage, Criticality.AGNOSTIC, signs_certificates)
    )
    return of_authorities, ExtensionPolicy.permit_all()  # the leaf's rules are `_check_leaf`


def _intermediates(forwarded: Sequence[str], leaf: x509.Certificate) -> list[x509.Certificate]:
    """What stands behind the leaf in Envoy's `x-forwarded-client-cert`, whose leaf must be the same certificate."""
    if not forwarded:
        return []
    if len(forwarded) != 1:
        raise _invalid("more than one x-forwarded-client-cert came with the client certificate")
    chain = _forwarded_chain(forwarded[0])
    if not chain:
        return []
    if len(chain) > MAX_CHAIN_CERTIFICATES:
        raise _invalid(f"the client certificate's chain is longer than {MAX_CHAIN_CERTIFICATES} certificates")
    first, *others = map(_parse, chain)
    if first != leaf:
        raise _invalid("x-forwarded-client-cert is of another certificate than the connection's")
    return list(dict.fromkeys(others))


def _forwarded_chain(text: str) -> list[bytes]:
    """`Chain` of exactly one element, as Envoy writes it with SANITIZE_SET; empty when it has none."""
    chains: list[str] = []
    position = 0
    while position < len(text):
        pair = _FORWARDED_PAIR.match(text, position)
        if pair is None or (pair[1] in {"Cert", "Chain"} and pair[2] is None):
            raise _invalid("x-forwarded-client-cert is not one element of Envoy's")
        if pair[1] == "Chain":
            chains.append(pair[2])
        position = pair.end()
    if len(chains) > 1:
        raise _invalid("x-forwarded-client-cert holds more than one chain")
    return list(_der(chains[0])) if chains else []


@lru_cache(maxsize=_KEPT_CERTIFICATES)
def _leaf(certificate: str) -> x509.Certificate:
    found = list(_der(certificate))
    if len(found) != 1:
        raise _invalid("the connection's client certificate is not one certificate")
    return _parse(found[0])


def _der(encoded: str) -> Iterator[bytes]:
    """The certificates of a percent-encoded PEM text, and nothing but certificates."""
    pem = unquote(encoded)
    position = 0
    while position < len(pem):
        found = _CERTIFICATE.match(pem, position)
        if found is None:
            raise _unreadable()
        try:
            yield base64.b64decode(found[1].replace("\n", ""), validate=True)
        except (binascii.Error, ValueError) as error:
            raise _unreadable() from error
        position = found.end()


def _parse(der: bytes) -> x509.Certificate:
    """A certificate of which every part that is asked for later can be read."""
    try:
        with reading_certificates():
            certificate = x509.load_der_x509_certificate(der)
            _ = certificate.extensions, certificate.public_key()
    except CertificateError as error:
        raise _unreadable() from error
    return certificate


def _unreadable() -> AuthenticationError:
    return _invalid("the client certificate, or one of its chain, cannot be read")


def _invalid(sentence: str) -> AuthenticationError:
    return AuthenticationError(Reason.SVID_INVALID, sentence)

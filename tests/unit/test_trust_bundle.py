"""SPIFFE bundles: what is taken, what is ignored as the specification says, and what refuses the whole bundle."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from controlplane.registry.trust_bundle import (
    MAX_AUTHORITIES,
    MAX_BUNDLE_BYTES,
    BundleError,
    bundle_from_certificates,
    bundle_from_document,
    parse_bundle,
    parse_bundle_document,
    parse_bundle_pem,
)
from tests.issuer import SigningKey
from tests.pki import key_of_a_huge_exponent
from tests.spiffe_ca import SpiffeCa, x509_jwk

TD = "prod.example"


@pytest.fixture(scope="module")
def ca() -> SpiffeCa:
    return SpiffeCa(TD)


def document_of(ca: SpiffeCa, **members: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ca.bundle_document(**members))
    return found


def jwk_of(der: bytes, **members: Any) -> dict[str, Any]:
    return {"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(der).decode()], **members}


def authority(
    *,
    uri: str | None = None,
    key: Any = None,
    is_ca: bool | None = True,
    signs: bool = True,
    usage: bool = True,
    hash_algorithm: Any = None,
) -> bytes:
    """The certificate of an authority that bends one rule."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    if usage:
        names = "digital_signature content_commitment key_encipherment data_encipherment key_agreement crl_sign encipher_only decipher_only"
        flags = dict.fromkeys(names.split(), False)
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=signs, **flags), critical=True)
    if uri is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hash_algorithm or hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def test_a_bundle_document_holds_authorities_of_both_kinds_its_sequence_and_its_refresh_hint(ca: SpiffeCa) -> None:
    bundle = parse_bundle(ca.bundle_document(sequence=7, refresh_hint_seconds=60).encode(), TD)

    assert bundle.x509_authorities == tuple(sorted(a.der for a in ca.x509_authorities))
    assert [key["kid"] for key in json.loads(bundle.jwt_authorities_json)["keys"]] == [key.kid for key in ca.jwt_authorities]
    assert (bundle.sequence, bundle.refresh_hint_seconds, bundle.jwt_authority_count) == (7, 60, 1)


def test_the_same_authorities_are_the_same_bundle_whatever_their_order_and_source(ca: SpiffeCa) -> None:
    two = SpiffeCa(TD)
    two.prepare_x509()
    two.prepare_jwt()
    document = document_of(two, refresh_hint_seconds=None)
    turned = document | {"keys": list(reversed(document["keys"])) + document["keys"]}

    assert bundle_from_document(turned, TD) == bundle_from_document(document, TD)
    assert parse_bundle(two.bundle_pem().encode(), TD).x509_authorities == bundle_from_document(document, TD).x509_authorities
    told = bundle_from_certificates((a.der for a in two.x509_authorities), TD, jwt_keys_document=two.jwt_bundle())
    assert told.jwt_authorities_json == bundle_from_document(document, TD).jwt_authorities_json


def test_nothing_but_the_public_members_of_a_key_is_kept(ca: SpiffeCa) -> None:
    key = ca.jwt_authorities[0].public_jwk(use="jwt-svid") | {"x5u": "https://elsewhere.example", "alg": "none"}

    kept = json.loads(bundle_from_document({"keys": [key]}, TD).jwt_authorities_json)["keys"][0]

    assert kept.keys() == {"kty", "kid", "use", "crv", "x", "y"}


def test_a_key_set_that_the_workload_api_tells_may_lack_uses(ca: SpiffeCa) -> None:
    keys = [{k: v for k, v in key.items() if k != "use"} for key in json.loads(ca.jwt_bundle())["keys"]]

    bundle = bundle_from_certificates([], TD, jwt_keys_document=json.dumps({"keys": keys}).encode())

    assert bundle.jwt_authority_count == 1
    assert bundle_from_document({"keys": keys}, TD).jwt_authority_count == 0


@pytest.mark.parametrize(
    "ignored",
    [
        {"kty": "EC", "use": "x509-svid"},
        {"kty": "EC", "use": "x509-svid", "x5c": []},
        {"kty": "OKP", "use": "jwt-svid", "kid": "a", "crv": "Ed25519", "x": "AA"},
        {"kty": "future", "use": "x509-svid", "x5c": ["!"]},
        {"kty": "EC", "use": "X509-SVID", "x5c": ["!"]},
        {"kty": "EC", "use": "wit-svid", "kid": "a"},
        {"kty": "EC", "use": "sig", "kid": "a"},
        {"kty": "EC", "kid": "a"},
        {"kty": "RSA", "use": "jwt-svid", "n": "AQ", "e": "AQAB"},
    ],
    ids=repr,
)
def test_what_the_specification_says_to_ignore_is_ignored(ca: SpiffeCa, ignored: dict[str, Any]) -> None:
    document = document_of(ca)

    assert bundle_from_document(document | {"keys": [ignored, *document["keys"]]}, TD) == bundle_from_document(document, TD)


def test_all_but_the_first_certificate_of_an_x5c_are_ignored(ca: SpiffeCa) -> None:
    jwk = x509_jwk(ca.x509_authorities[0].certificate)
    more = jwk | {"x5c": [*jwk["x5c"], "not even base64"]}

    assert bundle_from_document({"keys": [more]}, TD).x509_authorities == (ca.x509_authorities[0].der,)


def test_a_document_without_keys_says_that_nobody_is_believed_any_more() -> None:
    bundle = parse_bundle_document(b'{"keys": []}', TD)

    assert bundle.without_authorities()


def test_an_authority_needs_no_spiffe_id() -> None:
    der = authority()

    assert bundle_from_document({"keys": [jwk_of(der)]}, TD).x509_authorities == (der,)


AUTHORITIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "of another trust domain": (lambda: authority(uri="spiffe://other.example"), "other.example"),
    "of a trust domain that this one is a prefix of": (lambda: authority(uri=f"spiffe://{TD}.evil.example"), "evil.example"),
    "of a trust domain in upper case": (lambda: authority(uri=f"spiffe://{TD.upper()}"), "is an authority of"),
    "of a SPIFFE ID that is no URI at all": (lambda: authority(uri="spiffe://[half.example"), "is an authority of"),
    "with an RSA key of a huge exponent": (lambda: authority(key=key_of_a_huge_exponent()), "key that is not accepted"),
    "with the SPIFFE ID of a workload": (lambda: authority(uri=f"spiffe://{TD}/workload"), "/workload"),
    "that is a leaf": (
        lambda: SpiffeCa(TD).x509_svid().chain[0].public_bytes(serialization.Encoding.DER),
        "not the certificate of an authority",
    ),
    "that is CA:FALSE": (lambda: authority(is_ca=False), "not the certificate of an authority"),
    "without basic constraints": (lambda: authority(is_ca=None), "not the certificate of an authority"),
    "that may not sign certificates": (lambda: authority(signs=False), "not the certificate of an authority"),
    "without key usage": (lambda: authority(usage=False), "not the certificate of an authority"),
    "with a short RSA key": (lambda: authority(key=rsa.generate_private_key(65537, 1024)), "key that is not accepted"),
    "with an unusual curve": (lambda: authority(key=ec.generate_private_key(ec.SECP256K1())), "key that is not accepted"),
    "with a key that Envoy does not verify": (lambda: authority(key=ed25519.Ed25519PrivateKey.generate()), "key that is not accepted"),
    "signed with SHA-224": (lambda: authority(hash_algorithm=hashes.SHA224()), "signed with an algorithm"),
    "that is no certificate": (lambda: b"0\x03\x02\x01\x01", "not a certificate"),
}


@pytest.mark.parametrize(("make", "words"), AUTHORITIES.values(), ids=AUTHORITIES)
def test_one_authority_refuses_the_whole_bundle(ca: SpiffeCa, make: Callable[[], bytes], words: str) -> None:
    document = document_of(ca)
    bad = document | {"keys": [*document["keys"], jwk_of(make())]}

    with pytest.raises(BundleError, match=words) as raised:
        bundle_from_document(bad, TD)

    assert raised.value.path == "keys[2].x5c"
    with pytest.raises(BundleError, match=words):
        bundle_from_certificates([make()], TD)


KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "private member d": ({"d": "AAAA"}, "secret key"),
    "a symmetric key": ({"kty": "oct", "k": "AAAA"}, "secret key"),
    "malformed coordinates": ({"x": "!"}, "malformed"),
    "a point that is on no curve": ({"x": "AAAA", "y": "AAAA"}, "malformed"),
    "a missing coordinate": ({"y": None}, "malformed"),
    "a kid that is no text": ({"kid": 7}, "must be a string"),
    "an unusual curve": ({"crv": "secp256k1"}, "malformed|not accepted"),
}


@pytest.mark.parametrize(("members", "words"), KEYS.values(), ids=KEYS)
def test_one_jwt_authority_refuses_the_whole_bundle(ca: SpiffeCa, members: dict[str, Any], words: str) -> None:
    key = ca.jwt_authorities[0].public_jwk(use="jwt-svid") | members

    with pytest.raises(BundleError, match=words):
        bundle_from_document({"keys": [key]}, TD)


def test_a_short_rsa_key_refuses_the_whole_bundle() -> None:
    numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    n = base64.urlsafe_b64encode(numbers.n.to_bytes(128, "big")).rstrip(b"=").decode()

    with pytest.raises(BundleError, match="not accepted"):
        bundle_from_document({"keys": [{"kty": "RSA", "use": "jwt-svid", "kid": "a", "n": n, "e": "AQAB"}]}, TD)


def test_a_secret_key_is_refused_even_where_it_would_be_ignored() -> None:
    with pytest.raises(BundleError, match="secret key"):
        bundle_from_document({"keys": [{"kty": "EC", "use": "unknown", "d": "AAAA"}]}, TD)


def test_one_key_id_means_one_key() -> None:
    first, second = SigningKey("same"), SigningKey("same")

    with pytest.raises(BundleError, match="two different keys"):
        bundle_from_document({"keys": [key.public_jwk(use="jwt-svid") for key in (first, second)]}, TD)


DOCUMENTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"<html>", "not a JSON document"),
    "a list": (b"[]", "must be a JSON object"),
    "no keys": (b"{}", "must be a list"),
    "keys that are no list": (b'{"keys": {}}', "must be a list"),
    "a key that is no object": (b'{"keys": [1]}', "must be an object"),
    "a member twice": (b'{"keys": [], "keys": []}', "twice"),
    "NaN": (b'{"keys": [], "spiffe_sequence": NaN}', "not JSON"),
    "a sequence that is a text": (b'{"keys": [], "spiffe_sequence": "1"}', "spiffe_sequence"),
    "a sequence that is a fraction": (b'{"keys": [], "spiffe_sequence": 1.0}', "spiffe_sequence"),
    "a sequence that is true": (b'{"keys": [], "spiffe_sequence": true}', "spiffe_sequence"),
    "a negative sequence": (b'{"keys": [], "spiffe_sequence": -1}', "spiffe_sequence"),
    "a sequence without end": (b'{"keys": [], "spiffe_sequence": %s}' % (b"9" * 30), "spiffe_sequence"),
    "a negative hint": (b'{"keys": [], "spiffe_refresh_hint": -5}', "spiffe_refresh_hint"),
    "too many keys": (json.dumps({"keys": [{}] * (MAX_AUTHORITIES + 1)}).encode(), "at most"),
    "too many bytes": (b'{"keys": []}' + b" " * MAX_BUNDLE_BYTES, "larger than"),
    "a depth without end": (b'{"keys": ' + b"[" * 100_000, "not a JSON document"),
    "bad base64": (b'{"keys": [{"kty": "EC", "use": "x509-svid", "x5c": ["*"]}]}', "not base64"),
    "an x5c that is a text": (b'{"keys": [{"kty": "EC", "use": "x509-svid", "x5c": "AA=="}]}', "list of certificates"),
}


@pytest.mark.parametrize(("content", "words"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_what_is_no_bundle_document_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        parse_bundle(content, TD)


def test_pem_is_authorities_and_nothing_else(ca: SpiffeCa) -> None:
    svid = ca.x509_svid()

    with pytest.raises(BundleError, match="not the certificate of an authority"):
        parse_bundle_pem(svid.chain_pem.encode(), TD)
    with pytest.raises(BundleError, match="private key") as raised:
        parse_bundle_pem((ca.bundle_pem() + svid.key_pem).encode(), TD)
    assert "BEGIN" not in str(raised.value)
    with pytest.raises(BundleError, match="no certificates"):
        parse_bundle_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", TD)
    with pytest.raises(BundleError, match="larger than"):
        parse_bundle_pem(ca.bundle_pem().encode() * 1000, TD)

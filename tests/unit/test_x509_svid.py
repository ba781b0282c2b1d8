"""X.509-SVIDs: which client certificates are a workload's, and which are refused (X509-SVID sections 2 to 5)."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.trust_domain import TrustDomain
from extauthz.identity.x509_svid import MAX_CHAIN_CERTIFICATES, X509Svid, claimed_spiffe_id, verify_x509_svid
from tests.pki import key_of_a_huge_exponent
from tests.spiffe_ca import HOUR, SpiffeCa, X509Authority, refused_x509_svids
from tests.unit.svids import encoded, forwarded, trust_domain

CA = SpiffeCa("prod.example")
PROD = trust_domain(CA)
CLAIM_NOTHING = {"without a SAN", "without a URI SAN", "with a URI that is no SPIFFE ID"}


def verified(
    chain: Sequence[x509.Certificate], domain: TrustDomain = PROD, *, now: float | None = None, header: str | None = None
) -> X509Svid:
    certificate = encoded(chain[0])
    spiffe_id = claimed_spiffe_id(certificate)
    assert spiffe_id is not None
    values = [forwarded(chain)] if header is None else [header] if header else []
    return verify_x509_svid(certificate, values, spiffe_id, domain, time.time() if now is None else now)


def refusal(chain: Sequence[x509.Certificate], domain: TrustDomain = PROD, **options: Any) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        verified(chain, domain, **options)
    return caught.value


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dns": ["workload.prod.example"]},
        {"subject": "buyer"},
        {"ca": None},
        {"extended_key_usage": []},
        {"extended_key_usage": [ExtendedKeyUsageOID.CLIENT_AUTH]},
        {"key_usage": ("digital_signature", "key_agreement", "key_encipherment")},
        {"intermediates": [None]},
        {"intermediates": ["spiffe://prod.example", None, "spiffe://prod.example"]},
        {"intermediates": [None] * (MAX_CHAIN_CERTIFICATES - 1)},
    ],
)
def test_a_good_svid_is_the_workload_that_it_names(options: dict[str, Any]) -> None:
    svid = CA.x509_svid("/agents/buyer", **options)

    found = verified(svid.chain)

    assert found.spiffe_id.text == "spiffe://prod.example/agents/buyer"
    assert found.not_after_unix == svid.leaf.not_valid_after_utc.timestamp()
    assert found.issued_at_unix == svid.leaf.not_valid_before_utc.timestamp()


@pytest.mark.parametrize("name", sorted(refused_x509_svids(CA)))
def test_every_svid_that_breaks_a_rule_is_refused_or_claims_nothing(name: str) -> None:
    chain = refused_x509_svids(CA)[name].chain
    if name in CLAIM_NOTHING:
        assert claimed_spiffe_id(encoded(chain[0])) is None
        return
    with pytest.raises(AuthenticationError) as caught:
        verified(chain)
    expected = Reason.SVID_EXPIRED if name == "that is expired" else Reason.SVID_INVALID
    assert caught.value.reason is expected, caught.value.sentence


MORE: dict[str, dict[str, Any]] = {
    "of an authority that says only that it signs handshakes": {"ca": True},
    "without key usage": {"key_usage": None},
    "with a usage that only agrees on keys": {"key_usage": ("key_agreement",)},
    "for any purpose but not for clients": {"extended_key_usage": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]},
    "for signing code": {"extended_key_usage": [ExtendedKeyUsageOID.CODE_SIGNING]},
    "with the same SPIFFE ID twice": {"uris": ["spiffe://prod.example/workload"] * 2},
    "with a web address before it": {"uris": ["https://prod.example/", "spiffe://prod.example/workload"]},
    "below an intermediate of another trust domain": {"intermediates": ["spiffe://other.example"]},
    "below an intermediate that is a workload": {"intermediates": ["spiffe://prod.example/workload"]},
    "below an intermediate in upper case": {"intermediates": ["SPIFFE://PROD.example"]},
    "below an intermediate of a trust domain that ours is a prefix of": {"intermediates": ["spiffe://prod.example.evil"]},
    "below too many intermediates": {"intermediates": [None] * MAX_CHAIN_CERTIFICATES},
}


@pytest.mark.parametrize("name", MORE)
def test_more_that_is_refused(name: str) -> None:
    assert refusal(CA.x509_svid("/workload", **MORE[name]).chain).reason is Reason.SVID_INVALID


def test_an_svid_of_one_trust_domain_is_nothing_to_another() -> None:
    other = SpiffeCa("other.example")
    svid = other.x509_svid("/workload")

    assert verified(svid.chain, trust_domain(other)).spiffe_id.trust_domain == "other.example"
    assert refusal(svid.chain, PROD).reason is Reason.SVID_INVALID
    # a federated bundle under the wrong name: the authorities of the one, the name of the other
    swapped = trust_domain(SpiffeCa("other.example"), x509_authorities=PROD.x509_authorities)
    assert refusal(svid.chain, swapped).reason is Reason.SVID_INVALID
    assert refusal(CA.x509_svid().chain, trust_domain(other, trust_domain="prod.example")).reason is Reason.SVID_INVALID


def test_without_authorities_nobody_of_the_trust_domain_is_believed() -> None:
    for authorities in ((), (b"no certificate",)):
        assert refusal(CA.x509_svid().chain, trust_domain(CA, x509_authorities=authorities)).reason is Reason.TRUST_DOMAIN_UNKNOWN
    mixed = trust_domain(CA, x509_authorities=(b"no certificate", *PROD.x509_authorities))
    assert verified(CA.x509_svid().chain, mixed).spiffe_id.trust_domain == "prod.example"


def test_an_authority_that_left_the_bundle_vouches_for_nobody_and_a_new_one_does() -> None:
    ca = SpiffeCa("prod.example")
    old = ca.x509_svid("/workload")
    ca.prepare_x509()
    both = trust_domain(ca)
    ca.retire_x509()
    new = ca.x509_svid("/workload")

    for chain, bundle in ((old.chain, both), (new.chain, both), (new.chain, trust_domain(ca))):
        assert verified(chain, bundle)
    assert refusal(old.chain, trust_domain(ca)).reason is Reason.SVID_INVALID


def test_dates_hold_for_every_certificate_of_the_path() -> None:
    svid, now = CA.x509_svid("/workload", ttl_seconds=HOUR), time.time()
    early = refusal(svid.chain, now=now - HOUR)
    assert (early.reason, early.sentence) == (Reason.SVID_INVALID, "the client certificate is not valid yet")
    assert verified(svid.chain, now=now + HOUR - 60)
    assert refusal(svid.chain, now=svid.leaf.not_valid_after_utc.timestamp()).reason is Reason.SVID_EXPIRED

    brief = SpiffeCa("prod.example", authority_ttl_seconds=HOUR)
    outlives = brief.x509_svid("/workload", ttl_seconds=2 * HOUR, intermediates=[None])
    found = verified(outlives.chain, trust_domain(brief))
    assert found.not_after_unix < outlives.leaf.not_valid_after_utc.timestamp() - HOUR + 60
    assert refusal(outlives.chain, trust_domain(brief), now=now + HOUR + 60).reason is Reason.SVID_INVALID


# what Envoy says of the chain


def test_the_order_of_intermediates_does_not_matter_and_strangers_among_them_do_not_help() -> None:
    svid = CA.x509_svid("/workload", intermediates=[None, None])
    leaf, first, second = svid.chain
    stranger = SpiffeCa("other.example").x509_authorities[0].certificate

    assert verified([leaf, second, stranger, first])
    assert refusal([leaf, first]).reason is Reason.SVID_INVALID
    assert refusal([leaf, stranger]).reason is Reason.SVID_INVALID


def test_an_authority_of_another_trust_domain_in_the_chain_is_no_trust_anchor() -> None:
    other = SpiffeCa("other.example")
    forged = other.x509_svid(uris=["spiffe://prod.example/workload"])
    assert refusal([*forged.chain, other.x509_authorities[0].certificate]).reason is Reason.SVID_INVALID


SVID = CA.x509_svid("/workload", intermediates=[None])
CHAIN = encoded(*SVID.chain)
PLAIN = CA.x509_svid("/workload")


@pytest.mark.parametrize(
    "header",
    [
        f'Chain="{CHAIN}"',
        f'By=spiffe://gateway.example/envoy;Hash=ab;Chain="{CHAIN}"',
        f'Hash=ab;Cert="{encoded(SVID.leaf)}";Chain="{CHAIN}"',
        f'Hash=ab;Subject="";Chain="{CHAIN}";URI=spiffe://prod.example/workload;DNS=a.example',
        f'Subject="O=\\"x\\", CN=y;z";Chain="{CHAIN}"',
        f'Chain="{CHAIN}";',
    ],
)
def test_one_element_of_envoys_is_read(header: str) -> None:
    assert verified(SVID.chain, header=header)


@pytest.mark.parametrize(
    "header",
    [
        f'Chain="{CHAIN}",Chain="{CHAIN}"',
        f'Hash=a,Hash=b;Chain="{CHAIN}"',
        f'Chain="{CHAIN}";Chain="{CHAIN}"',
        f"Chain={CHAIN}",
        f"Cert={CHAIN};Hash=ab",
        f'chain="{CHAIN}"',
        f' Chain="{CHAIN}"',
        f'Chain="{CHAIN}";Extra=1',
        f'Chain="{CHAIN}"x',
        f'Chain="{CHAIN}',
        "Hash",
        "=",
        f'Chain="{encoded(PLAIN.leaf)}"',
        f'Chain="{encoded(SVID.chain[1], SVID.leaf)}"',
        f'Chain="{CHAIN}garbage"',
        'Chain="garbage"',
        'Chain="-----BEGIN%20CERTIFICATE-----%0AAAAA%0A-----END%20CERTIFICATE-----%0A"',
        'Chain="-----BEGIN%20CERTIFICATE-----%0A=A%0A-----END%20CERTIFICATE-----%0A"',
        f'Chain="{encoded(*[SVID.leaf] * (MAX_CHAIN_CERTIFICATES + 1))}"',
        f'URI=spiffe://prod.example/x";Chain="{CHAIN}"',
    ],
)
def test_anything_else_in_that_header_refuses_the_call(header: str) -> None:
    assert refusal(SVID.chain, header=header).reason is Reason.SVID_INVALID


def test_a_leaf_alone_needs_no_chain_and_two_headers_are_too_many() -> None:
    assert verified(PLAIN.chain, header="")
    assert verified(PLAIN.chain, header="Hash=ab")
    assert refusal(SVID.chain, header="Hash=ab").reason is Reason.SVID_INVALID
    spiffe_id = claimed_spiffe_id(encoded(PLAIN.leaf))
    assert spiffe_id is not None
    with pytest.raises(AuthenticationError):
        verify_x509_svid(encoded(PLAIN.leaf), [forwarded(PLAIN.chain)] * 2, spiffe_id, PROD, time.time())


def test_a_chain_of_another_certificate_is_refused_also_where_none_is_needed() -> None:
    other = CA.x509_svid("/workload")
    assert refusal(PLAIN.chain, header=f'Chain="{encoded(other.leaf)}"').reason is Reason.SVID_INVALID


def _padded() -> str:
    """A certificate whose base64 ends with padding."""
    return next(text for text in (_base64(CA.x509_svid(f"/{'x' * more}").leaf) for more in range(1, 9)) if text.endswith("="))


def _base64(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


@pytest.mark.parametrize("body", ["A", "AAAA", "====", _padded() + "AAAA"])
def test_a_chain_that_cannot_be_read_whole_is_refused_also_where_none_is_needed(body: str) -> None:
    broken = quote(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n", safe="")
    assert refusal(PLAIN.chain, header=f'Chain="{encoded(PLAIN.leaf)}{broken}"').reason is Reason.SVID_INVALID


@pytest.mark.parametrize(
    "certificate",
    ["garbage", "%", encoded(*SVID.chain), encoded(SVID.leaf) + "x", "-----BEGIN%20CERTIFICATE-----%0A%0A-----END%20CERTIFICATE-----%0A"],
)
def test_a_certificate_that_cannot_be_read_is_refused(certificate: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        claimed_spiffe_id(certificate)
    assert caught.value.reason is Reason.SVID_INVALID


# keys and signatures


def _signed(
    leaf_key: Any, *, by: X509Authority | None = None, algorithm: Any = None, uri: str = "spiffe://prod.example/workload"
) -> x509.Certificate:
    authority, now = by or CA.x509_authorities[0], datetime.now(UTC)
    usage = {name: name == "digital_signature" for name in _USAGES}
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "legation tests")]))
        .issuer_name(authority.certificate.subject)
        .public_key(leaf_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .add_extension(x509.KeyUsage(**usage), critical=True)
    )
    return builder.sign(authority.private_key, algorithm or hashes.SHA256())


_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())]
)
def test_sound_keys_are_taken(key: Any) -> None:
    assert verified([_signed(key)])


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),
        ec.generate_private_key(ec.SECP224R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_weak_and_odd_keys_are_refused(key: Any) -> None:
    assert refusal([_signed(key)]).reason is Reason.SVID_INVALID


def test_weak_keys_of_intermediates_are_refused() -> None:
    for key in (rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256K1())):
        weak = _authority(CA.x509_authorities[0], key=key)
        leaf = _signed(ec.generate_private_key(ec.SECP256R1()), by=weak)
        assert refusal([leaf, weak.certificate]).reason is Reason.SVID_INVALID


@pytest.mark.parametrize("fault", [{"sign": False}, {"ca": False}, {"expired": True}])
def test_who_may_not_sign_certificates_is_no_intermediate(fault: dict[str, bool]) -> None:
    good, bad = _authority(CA.x509_authorities[0]), _authority(CA.x509_authorities[0], **fault)
    key = ec.generate_private_key(ec.SECP256R1())
    assert verified([_signed(key, by=good), good.certificate])
    assert refusal([_signed(key, by=bad), bad.certificate]).reason is Reason.SVID_INVALID


def test_a_chain_that_costs_more_than_a_chain_is_refused_before_a_signature_is_verified() -> None:
    slow = _authority(CA.x509_authorities[0], key=key_of_a_huge_exponent())
    under_slow = _signed(ec.generate_private_key(ec.SECP256R1()), by=slow)
    assert "exponent" in refusal([under_slow, slow.certificate]).sentence
    assert "exponent" in refusal([_signed(key_of_a_huge_exponent())]).sentence

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "maze")])
    maze = [_authority(None, key=key, name=name) for _ in range(7)]
    lost = _signed(ec.generate_private_key(ec.SECP256R1()), by=maze[0])
    for size in (2, 7):
        assert "several certificates of one key" in refusal([lost, *[link.certificate for link in maze[:size]]]).sentence


def test_a_certificate_that_stands_in_the_chain_twice_does_no_harm() -> None:
    leaf, first = CA.x509_svid("/workload", intermediates=[None]).chain
    assert verified([leaf, first, first])


def test_an_authority_with_a_weak_key_is_no_trust_anchor() -> None:
    weak = _authority(None, key=rsa.generate_private_key(65537, 1024))
    leaf = _signed(ec.generate_private_key(ec.SECP256R1()), by=weak)
    assert refusal([leaf], trust_domain(CA, x509_authorities=(weak.der,))).reason is Reason.TRUST_DOMAIN_UNKNOWN


@pytest.mark.parametrize("digest", ["sha1", "sha224"])
def test_weak_signatures_are_refused(tmp_path: Path, digest: str) -> None:
    authority = CA.x509_authorities[0]
    (tmp_path / "ca.pem").write_text(authority.pem)
    key = authority.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "ca.key").write_bytes(key)
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -{digest} -days 1 -subj /O=x -CA ca.pem -CAkey ca.key"
    command += (
        " -keyout leaf.key -out leaf.pem -addext subjectAltName=URI:spiffe://prod.example/x -addext keyUsage=critical,digitalSignature"
    )
    command += " -addext basicConstraints=critical,CA:FALSE"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    leaf = x509.load_pem_x509_certificate((tmp_path / "leaf.pem").read_bytes())
    assert refusal([leaf]).reason is Reason.SVID_INVALID
    command = command.replace(f"-{digest}", "-sha256")
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    assert verified([x509.load_pem_x509_certificate((tmp_path / "leaf.pem").read_bytes())], now=time.time() + 1)


# against another implementation


def _authority(
    issuer: X509Authority | None,
    *,
    ca: bool = True,
    path_length: int | None = None,
    sign: bool = True,
    expired: bool = False,
    key: Any = None,
    name: x509.Name | None = None,
) -> X509Authority:
    key, now = key or ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = name or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {x509.random_serial_number()}")])
    ends = now - timedelta(minutes=1) if expired else now + timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), critical=True)
        .add_extension(x509.KeyUsage(**{n: n == ("key_cert_sign" if sign else "digital_signature") for n in _USAGES}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer:
        issued_by = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issued_by)
        builder = builder.add_extension(identifier, critical=False)
    signer = issuer.private_key if issuer else key
    return X509Authority(certificate=builder.sign(signer, hashes.SHA256()), private_key=key)


_LINK = st.fixed_dictionaries(
    {
        "ca": st.sampled_from([True, True, True, False]),
        "path_length": st.sampled_from([None, None, 0, 1]),
        "sign": st.sampled_from([True, True, True, False]),
        "expired": st.sampled_from([False, False, False, True]),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_LINK, max_size=3), st.sampled_from(["whole", "whole", "missing", "foreign root"]))
def test_a_path_is_good_when_openssl_says_so(tmp_path_factory: pytest.TempPathFactory, links: list[dict[str, Any]], fault: str) -> None:
    root = _authority(None)
    issuer = root
    between: list[x509.Certificate] = []
    for link in links:
        issuer = _authority(issuer, **link)
        between.insert(0, issuer.certificate)
    leaf = _signed(ec.generate_private_key(ec.SECP256R1()), by=issuer)
    if fault == "missing":
        between = between[:-1]
    anchor = root if fault != "foreign root" else _authority(None)
    domain = trust_domain(CA, x509_authorities=(anchor.der,))

    try:
        ours = verified([leaf, *between], domain) is not None
    except AuthenticationError:
        ours = False

    assert ours is _openssl_verifies(tmp_path_factory.mktemp("chain"), anchor, between, leaf)


def _openssl_verifies(directory: Path, anchor: X509Authority, between: Sequence[x509.Certificate], leaf: x509.Certificate) -> bool:
    def written(name: str, certificates: Sequence[x509.Certificate]) -> str:
        path = directory / name
        path.write_bytes(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates))
        return str(path)

    command = ["openssl", "verify", "-purpose", "sslclient", "-no-CApath", "-no-CAstore", "-CAfile", written("roots", [anchor.certificate])]
    command += ["-untrusted", written("between", between)] if between else []
    return subprocess.run([*command, written("leaf", [leaf])], capture_output=True, check=False).returncode == 0

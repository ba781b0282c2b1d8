"""A SPIFFE trust domain for tests: X.509-SVIDs, JWT-SVIDs and bundles, as they should be and as they should not.

ca = SpiffeCa("prod.example")
svid = ca.x509_svid("/agents/buyer")                      # chain and key; `svid.write(directory)` makes the two PEM files
token = ca.jwt_svid("/agents/buyer", audience=[url])
ca.bundle_document()                                      # what a bundle endpoint serves, or `spec.bundle` of a TrustDomain

Every argument after the path bends one rule. `refused_x509_svids(ca)` and `refused_jwt_svids(ca, audience)` are the tables of what
must be refused, each with the sentence that says why. Rotation is `prepare_x509()` (both authorities in the bundle, the old one
signs), `activate_x509()` (the new one signs), `retire_x509()` (only the new one is left); the same for `..._jwt`.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.issuer import SigningKey, unsigned

HOUR = 3600
BACKDATED_SECONDS = 10
"""How long before now a certificate starts to be valid, as SPIRE does it against clocks that differ."""
CLIENT_AND_SERVER = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
UNKNOWN_EXTENSION = ObjectIdentifier("1.3.6.1.4.1.59999.1")


@dataclass(kw_only=True, frozen=True, slots=True)
class X509Authority:
    """A certificate that signs others, and its key."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


@dataclass(kw_only=True, frozen=True, slots=True)
class IssuedX509Svid:
    """A leaf, its intermediates (leaf first) and the leaf's key. `spiffe_id` is what was asked for, not what a verifier may believe."""

    spiffe_id: str
    chain: tuple[x509.Certificate, ...]
    private_key: ec.EllipticCurvePrivateKey

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def chain_pem(self) -> str:
        return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in self.chain)

    @property
    def chain_der(self) -> bytes:
        """Concatenated, as the Workload API wants it."""
        return b"".join(certificate.public_bytes(serialization.Encoding.DER) for certificate in self.chain)

    @property
    def key_pem(self) -> str:
        return self._key(serialization.Encoding.PEM).decode()

    @property
    def key_der(self) -> bytes:
        return self._key(serialization.Encoding.DER)

    def _key(self, encoding: serialization.Encoding) -> bytes:
        return self.private_key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def write(self, directory: Path, name: str = "svid") -> tuple[Path, Path]:
        """Write `<name>.pem` and `<name>.key`; returns both paths."""
        chain, key = directory / f"{name}.pem", directory / f"{name}.key"
        chain.write_text(self.chain_pem)
        key.touch(mode=0o600)
        key.write_text(self.key_pem)
        return chain, key


class SpiffeCa:
    """One trust domain and its authorities."""

    def __init__(self, trust_domain: str = "prod.example", *, authority_ttl_seconds: float = 24 * HOUR) -> None:
        self.trust_domain = trust_domain
        self.authority_ttl_seconds = authority_ttl_seconds
        self.x509_authorities = [self._new_x509_authority()]
        self.jwt_authorities = [SigningKey(secrets.token_hex(8))]
        self.sequence = 1
        self._signs_x509 = self.x509_authorities[0]
        self._signs_jwt = self.jwt_authorities[0]

    @property
    def id(self) -> str:
        """The SPIFFE ID of the trust domain itself."""
        return f"spiffe://{self.trust_domain}"

    # -- rotation --

    def prepare_x509(self) -> X509Authority:
        """A new authority stands in the bundle; the old one still signs."""
        authority = self._new_x509_authority()
        self.x509_authorities.append(authority)
        self.sequence += 1
        return authority

    def activate_x509(self) -> None:
        """The newest authority signs from now on."""
        self._signs_x509 = self.x509_authorities[-1]

    def retire_x509(self) -> None:
        """All authorities but the newest leave the bundle: what they signed is no longer trusted."""
        self.activate_x509()
        self.x509_authorities = self.x509_authorities[-1:]
        self.sequence += 1

    def prepare_jwt(self) -> SigningKey:
        """A new JWT key stands in the bundle; the old one still signs."""
        key = SigningKey(secrets.token_hex(8))
        self.jwt_authorities.append(key)
        self.sequence += 1
        return key

    def activate_jwt(self) -> None:
        """The newest JWT key signs from now on."""
        self._signs_jwt = self.jwt_authorities[-1]

    def retire_jwt(self) -> None:
        """All JWT keys but the newest leave the bundle."""
        self.activate_jwt()
        self.jwt_authorities = self.jwt_authorities[-1:]
        self.sequence += 1

    # -- bundles --

    def bundle_der(self) -> bytes:
        """The X.509 bundle as the Workload API gives it: concatenated DER."""
        return b"".join(authority.der for authority in self.x509_authorities)

    def bundle_pem(self) -> str:
        """The X.509 bundle as a PEM file."""
        return "".join(authority.pem for authority in self.x509_authorities)

    def jwt_bundle(self) -> bytes:
        """The JWT bundle as the Workload API gives it: a JWKS (its keys say `use: jwt-svid`)."""
        return json.dumps({"keys": self._jwt_jwks()}).encode()

    def bundle_document(
        self,
        *,
        sequence: int | None = None,
        refresh_hint_seconds: int | None = 5,
        extra_keys: Iterable[Mapping[str, Any]] = (),
        **members: Any,
    ) -> str:
        """The SPIFFE bundle (Trust Domain and Bundle, section 4): JWKS of both kinds of keys. `members` replace what stands in it."""
        document: dict[str, Any] = {"keys": [*self._x509_jwks(), *self._jwt_jwks(), *extra_keys]}
        document["spiffe_sequence"] = self.sequence if sequence is None else sequence
        if refresh_hint_seconds is not None:
            document["spiffe_refresh_hint"] = refresh_hint_seconds
        return json.dumps({**document, **members})

    def _x509_jwks(self) -> list[dict[str, Any]]:
        return [x509_jwk(authority.certificate) for authority in self.x509_authorities]

    def _jwt_jwks(self) -> list[dict[str, Any]]:
        return [key.public_jwk(use="jwt-svid") for key in self.jwt_authorities]

    # -- X.509-SVIDs --

    def x509_svid(
        self,
        path: str = "/workload",
        *,
        ttl_seconds: float = HOUR,
        valid_from_seconds: float = -BACKDATED_SECONDS,
        uris: Sequence[str] | None = None,
        dns: Sequence[str] = (),
        subject: str = "",
        ca: bool | None = False,
        key_usage: Sequence[str] | None = ("digital_signature",),
        extended_key_usage: Sequence[ObjectIdentifier] = CLIENT_AND_SERVER,
        critical_extension: bool = False,
        intermediates: Sequence[str | None] = (),
        signed_by: X509Authority | None = None,
        private_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> IssuedX509Svid:
        """A leaf for `spiffe://<trust domain><path>`, valid from `valid_from_seconds` to `ttl_seconds` counted from now.

        `uris`: the URI SANs instead of that one; with an empty list and no `dns` there is no SAN extension. `ca=None`: no basic
        constraints. `key_usage=None`: no such extension. `critical_extension`: one that nobody knows. `intermediates`: the URI SAN
        (or None) of each certificate between the authority and the leaf, outermost first. `signed_by`: somebody else's authority.
        """
        spiffe_id = f"{self.id}{path}"
        issuer = signed_by or self._signs_x509
        between: list[x509.Certificate] = []
        for uri in intermediates:
            issuer = _authority(f"intermediate {len(between) + 1}", uri=uri, ttl_seconds=self.authority_ttl_seconds, issuer=issuer)
            between.insert(0, issuer.certificate)
        key = private_key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name("legation tests", subject), key, issuer, valid_from_seconds, ttl_seconds)
        names = [*([spiffe_id] if uris is None else uris)]
        sans: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in names] + [x509.DNSName(name) for name in dns]
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if key_usage is not None:
            builder = builder.add_extension(_key_usage(key_usage), critical=True)
        if extended_key_usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended_key_usage), critical=False)
        if critical_extension:
            builder = builder.add_extension(x509.UnrecognizedExtension(UNKNOWN_EXTENSION, b"\x05\x00"), critical=True)
        leaf = builder.sign(issuer.private_key, hashes.SHA256())
        return IssuedX509Svid(spiffe_id=spiffe_id, chain=(leaf, *between), private_key=key)

    # -- JWT-SVIDs --

    def jwt_svid(
        self,
        path: str = "/workload",
        *,
        audience: Sequence[str] | str,
        ttl_seconds: float = 300,
        headers: Mapping[str, Any] | None = None,
        signed_by: SigningKey | None = None,
        **claims: Any,
    ) -> str:
        """A JWT-SVID. A header or claim whose value is None is left out; every other one replaces what stands there."""
        now = int(time.time())
        payload = {"sub": f"{self.id}{path}", "aud": audience, "iat": now, "exp": int(now + ttl_seconds), **claims}
        key = signed_by or self._signs_jwt
        return key.sign({k: v for k, v in payload.items() if v is not None}, headers={"typ": "JWT", **(headers or {})})

    def _new_x509_authority(self) -> X509Authority:
        return _authority(f"authority of {self.trust_domain}", uri=self.id, ttl_seconds=self.authority_ttl_seconds)


def x509_jwk(certificate: x509.Certificate) -> dict[str, Any]:
    """One X.509 authority as it stands in a SPIFFE bundle: its key, and itself alone in `x5c`."""
    public_key = certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    numbers = public_key.public_numbers()
    coordinates = {
        name: base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()
        for name, value in (("x", numbers.x), ("y", numbers.y))
    }
    der = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    return {"kty": "EC", "crv": "P-256", **coordinates, "use": "x509-svid", "x5c": [der]}


def refused_x509_svids(ca: SpiffeCa) -> dict[str, IssuedX509Svid]:
    """X.509-SVIDs that nobody may accept who trusts `ca` alone (X509-SVID, sections 2 to 5), by what is wrong with them."""
    other = SpiffeCa("other.example")
    twin = SpiffeCa(ca.trust_domain)
    loose = ca.x509_svid("/intermediate").chain[0]
    return {
        "of another trust domain": other.x509_svid("/workload"),
        "of another authority that claims the same trust domain": twin.x509_svid("/workload"),
        "of a trusted authority for a name in another trust domain": ca.x509_svid(uris=["spiffe://other.example/workload"]),
        "of another trust domain's authority for a name in this one": ca.x509_svid(signed_by=other.x509_authorities[0]),
        "of a trust domain in upper case": ca.x509_svid(uris=[f"spiffe://{ca.trust_domain.upper()}/workload"]),
        "of a scheme in upper case": ca.x509_svid(uris=[f"SPIFFE://{ca.trust_domain}/workload"]),
        "of a trust domain that ours is a prefix of": ca.x509_svid(uris=[f"{ca.id}.evil.example/workload"]),
        "without a SAN": ca.x509_svid(uris=[]),
        "without a URI SAN": ca.x509_svid(uris=[], dns=["workload.prod.example"]),
        "with two SPIFFE IDs": ca.x509_svid(uris=[f"{ca.id}/workload", f"{ca.id}/admin"]),
        "with a SPIFFE ID and another URI": ca.x509_svid(uris=[f"{ca.id}/workload", "https://workload.example/"]),
        "with a URI that is no SPIFFE ID": ca.x509_svid(uris=[f"https://{ca.trust_domain}/workload"]),
        "with a NUL in the SPIFFE ID": ca.x509_svid(uris=[f"{ca.id}/workload\x00/admin"]),
        "with a port": ca.x509_svid(uris=[f"{ca.id}:443/workload"]),
        "with user information": ca.x509_svid(uris=[f"spiffe://admin@{ca.trust_domain}/workload"]),
        "with a query": ca.x509_svid(uris=[f"{ca.id}/workload?admin=1"]),
        "with a fragment": ca.x509_svid(uris=[f"{ca.id}/workload#admin"]),
        "with dot segments": ca.x509_svid(uris=[f"{ca.id}/workload/../admin"]),
        "with an empty segment": ca.x509_svid(uris=[f"{ca.id}//workload"]),
        "with a slash at the end": ca.x509_svid(uris=[f"{ca.id}/workload/"]),
        "with an escaped octet": ca.x509_svid(uris=[f"{ca.id}/work%6coad"]),
        "with the trust domain alone": ca.x509_svid(uris=[ca.id]),
        "longer than 2048 bytes": ca.x509_svid(uris=[f"{ca.id}/{'a' * 2048}"]),
        "that is a CA": ca.x509_svid(ca=True, key_usage=("digital_signature", "key_cert_sign")),
        "that may sign certificates": ca.x509_svid(key_usage=("digital_signature", "key_cert_sign")),
        "that may sign revocation lists": ca.x509_svid(key_usage=("digital_signature", "crl_sign")),
        "that may not sign": ca.x509_svid(key_usage=("key_encipherment",)),
        "that is for servers only": ca.x509_svid(extended_key_usage=[ExtendedKeyUsageOID.SERVER_AUTH]),
        "that is expired": ca.x509_svid(valid_from_seconds=-2 * HOUR, ttl_seconds=-HOUR),
        "that is not valid yet": ca.x509_svid(valid_from_seconds=HOUR, ttl_seconds=2 * HOUR),
        "with a critical extension that nobody knows": ca.x509_svid(critical_extension=True),
        "whose intermediate is missing": IssuedX509Svid(
            spiffe_id=f"{ca.id}/workload",
            chain=ca.x509_svid(intermediates=[None]).chain[:1],
            private_key=ec.generate_private_key(ec.SECP256R1()),
        ),
        "whose intermediate is no CA": IssuedX509Svid(
            spiffe_id=f"{ca.id}/workload", chain=(twin.x509_svid().leaf, loose), private_key=ec.generate_private_key(ec.SECP256R1())
        ),
    }


def refused_jwt_svids(ca: SpiffeCa, audience: str) -> dict[str, str]:
    """JWT-SVIDs that a verifier called `audience` must refuse who trusts `ca` alone (JWT-SVID, sections 2 to 4), by what is wrong."""
    now = int(time.time())
    other, kid = SpiffeCa("other.example"), ca.jwt_authorities[0].kid
    claims = {"sub": f"{ca.id}/workload", "aud": [audience], "iat": now, "exp": now + 300}
    twin, rsa = SigningKey(kid), SigningKey("rsa", "RS256")
    return {
        "of another trust domain": other.jwt_svid(audience=[audience]),
        "of another key under a known kid": ca.jwt_svid(audience=[audience], signed_by=twin),
        "of a key that is not in the bundle": ca.jwt_svid(audience=[audience], signed_by=rsa),
        "of a trusted key for a name in another trust domain": ca.jwt_svid(audience=[audience], sub="spiffe://other.example/workload"),
        "of a trust domain in upper case": ca.jwt_svid(audience=[audience], sub=f"spiffe://{ca.trust_domain.upper()}/workload"),
        "without kid": ca.jwt_svid(audience=[audience], headers={"kid": None}),
        "with typ at+jwt": ca.jwt_svid(audience=[audience], headers={"typ": "at+jwt"}),
        "with a critical header that nobody knows": ca.jwt_svid(audience=[audience], headers={"crit": ["x"], "x": 1}),
        "with alg none": unsigned({"alg": "none", "kid": kid, "typ": "JWT"}, claims),
        "with a symmetric algorithm": unsigned({"alg": "HS256", "kid": kid, "typ": "JWT"}, claims, b"0" * 32),
        "with an empty signature": unsigned({"alg": "ES256", "kid": kid, "typ": "JWT"}, claims),
        "without sub": ca.jwt_svid(audience=[audience], sub=None),
        "with a subject that is no SPIFFE ID": ca.jwt_svid(audience=[audience], sub="workload"),
        "with the trust domain alone": ca.jwt_svid(audience=[audience], sub=ca.id),
        "with a NUL in the SPIFFE ID": ca.jwt_svid(audience=[audience], sub=f"{ca.id}/workload\x00/admin"),
        "with dot segments": ca.jwt_svid(audience=[audience], sub=f"{ca.id}/workload/../admin"),
        "without aud": ca.jwt_svid(audience=[audience], aud=None),
        "with an empty audience": ca.jwt_svid(audience=[]),
        "for another audience": ca.jwt_svid(audience=["https://other.example/"]),
        "for an audience that ours is a prefix of": ca.jwt_svid(audience=[audience + "2"]),
        "without exp": ca.jwt_svid(audience=[audience], exp=None),
        "with exp as a text": ca.jwt_svid(audience=[audience], exp=str(now + 300)),
        "that is expired": ca.jwt_svid(audience=[audience], iat=now - 2 * HOUR, ttl_seconds=-HOUR),
        "that lives for years": ca.jwt_svid(audience=[audience], ttl_seconds=31 * 365 * 24 * HOUR),
        "that is not valid yet": ca.jwt_svid(audience=[audience], nbf=now + HOUR),
        "that was issued in the future": ca.jwt_svid(audience=[audience], iat=now + HOUR, ttl_seconds=2 * HOUR),
    }


def _authority(name: str, *, uri: str | None, ttl_seconds: float, issuer: X509Authority | None = None) -> X509Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(name, secrets.token_hex(4)), key, issuer, -BACKDATED_SECONDS, ttl_seconds)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(("key_cert_sign", "crl_sign")), critical=True)
    if uri is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    signer = key if issuer is None else issuer.private_key
    return X509Authority(certificate=builder.sign(signer, hashes.SHA256()), private_key=key)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: X509Authority | None, valid_from_seconds: float, ttl_seconds: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    signer = key.public_key() if issuer is None else issuer.private_key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(seconds=valid_from_seconds))
        .not_valid_after(now + timedelta(seconds=ttl_seconds))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _name(organization: str, common_name: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)]
    return x509.Name([*attributes, *([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])])


def _key_usage(names: Sequence[str]) -> x509.KeyUsage:
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: name in names for name in every.split()})

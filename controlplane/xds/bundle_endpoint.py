"""SPIFFE bundle endpoints: one bundle, fetched over TLS from whom the registry names (SPIFFE Federation section 5.2).

Profile https_web: the server's certificate is good for the host of the URL, by the system's authorities or the entry's own.
Profile https_spiffe: its X.509-SVID has exactly the SPIFFE ID of the entry, and an authority of that trust domain's last known
bundle has signed it; host names mean nothing. Either is decided in the handshake: nothing is sent to anybody else.

Addresses, redirects, size and time are the rules of `extauthz.outbound`.
"""

from __future__ import annotations

import ssl

from cryptography import x509

from controlplane.registry.trust_bundle import MAX_BUNDLE_BYTES, BundleError, TrustBundle, parse_bundle_document
from extauthz.address import AddressRules
from extauthz.errors import FetchError
from extauthz.identity.certificate import CertificateError, fault_of_leaf, reading_certificates, uris_of
from extauthz.outbound import OutboundHttp

FETCH_SECONDS = 10.0


async def fetch_bundle(url: str, *, trust_domain: str, rules: AddressRules, tls: ssl.SSLContext) -> TrustBundle:
    """The bundle document at `url`. Raises `AddressError`, `FetchError` or `BundleError`."""
    async with OutboundHttp(rules, timeout_seconds=FETCH_SECONDS, tls=tls) as outbound:
        try:
            response = await outbound.get(url, max_bytes=MAX_BUNDLE_BYTES)
        except FetchError as error:
            if reason := _refused_certificate(error):
                raise FetchError(f"{url} was not asked: its certificate is refused ({reason})") from error
            raise
    if response.status != 200:
        raise FetchError(f"{url} answered {response.status}")
    try:
        return parse_bundle_document(response.body, trust_domain)
    except BundleError as error:
        raise BundleError(f"{url} gave no bundle of {trust_domain}: {error}") from error


def make_web_tls(authorities: bytes = b"") -> ssl.SSLContext:
    """Who is believed by https_web: authorities in PEM, or the system's. Reads files of the system; call it in a thread."""
    tls = ssl.create_default_context(cadata=authorities.decode() if authorities else None)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    return tls


def make_spiffe_tls(bundle: TrustBundle, spiffe_id: str) -> ssl.SSLContext:
    """Who is believed by https_spiffe: the workload `spiffe_id`, by `bundle`, that of its trust domain. Raises `BundleError`."""
    if not bundle.x509_authorities:
        raise BundleError(f"the bundle of {bundle.trust_domain} has no X.509 authority, by which {spiffe_id} could be known")

    class Workload(ssl.SSLObject):
        """A handshake that is over only when the peer is who it should be."""

        def do_handshake(self) -> None:
            super().do_handshake()
            if reason := _why_not(self.getpeercert(binary_form=True), spiffe_id):
                refusal = ssl.SSLCertVerificationError(1, reason)
                refusal.verify_message = reason
                raise refusal

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.check_hostname = False  # the name is the SPIFFE ID
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority of a bundle need not be self-signed
    tls.load_verify_locations(cadata=b"".join(bundle.x509_authorities))
    tls.sslobject_class = Workload
    return tls


def _why_not(certificate: bytes | None, spiffe_id: str) -> str:
    """Why a certificate whose chain is good is not the X.509-SVID of `spiffe_id` (X509-SVID section 5.2); empty when it is."""
    try:
        with reading_certificates():
            peer = x509.load_der_x509_certificate(certificate or b"")
            fault, uris = fault_of_leaf(peer), uris_of(peer)
    except CertificateError:
        return "it is no X.509-SVID"
    if fault:
        return f"it {fault}"
    if uris != [spiffe_id]:
        return f"it is of {' and '.join(uri[:300] for uri in uris[:2]) or 'nobody'}, and not of {spiffe_id}"
    return ""


def _refused_certificate(error: BaseException) -> str:
    """What TLS has against the peer's certificate, if that is why."""
    found: BaseException | None = error
    while found is not None:
        certificate_error = getattr(found, "certificate_error", None)
        if isinstance(certificate_error, ssl.SSLCertVerificationError):
            return certificate_error.verify_message
        found = found.__cause__
    return ""

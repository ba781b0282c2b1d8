"""Rules about public listeners: one address each, names that mean one URL, certificates that can be used. Pure but for files.

The certificates that the gateway shows MCP servers are looked at here too.

Next to `registry.validation`, which knows nothing of files; called by `registry.service` for every change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from controlplane.registry.authority import ReadAuthority
from controlplane.registry.gateway_spec import CertificateSpec, GatewaySpec
from controlplane.registry.key_pair import KeyPair, day_of
from controlplane.registry.key_pair_reader import CertificateError, CertificatePlace, KeyPairReader, checked_pair
from controlplane.registry.manifest import DocumentError
from controlplane.registry.own_address import OwnAddresses, PublicAddress
from controlplane.registry.public_url import DEFAULT_GATEWAY
from controlplane.registry.spec import SYSTEM_NAMESPACE, McpServerSpec, TrustDomainSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.subjects import visible_trust_domains
from controlplane.registry.validation import Findings, WrittenEntry
from extauthz.errors import ConfigurationError

DEFAULT_NAME = DEFAULT_GATEWAY.partition("/")[2]
"""The Gateway that stands for the listener of the settings."""

CLIENT_CERTIFICATE = "spec.tls.clientCertificate"
"""Where an McpServer names what the gateway shows it."""

_Refuse = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayChecks:
    """What the rules need beside the registry."""

    public: PublicAddress
    pairs: KeyPairReader
    read_authority: ReadAuthority
    now: datetime


def check_gateways(written: Iterable[WrittenEntry], after: RegistryState, checks: GatewayChecks, findings: Findings) -> None:
    """Every fault of the Gateways of a change, and of the client certificates of its servers."""
    for item in written:

        def refuse(path: str, message: str, document: int = item.document) -> None:
            findings.errors.append(DocumentError(document=document, path=path, message=message))

        if isinstance(item.entry.spec, GatewaySpec):
            _check_gateway(item, item.entry.spec, after, checks, findings, refuse)
        elif isinstance(item.entry.spec, McpServerSpec):
            _check_server(item, item.entry.spec, after, checks, findings, refuse)


def listen_conflicts(state: RegistryState, public: PublicAddress) -> dict[str, str]:
    """By Gateway: who else listens where it would. The listener of the settings is `default` too."""
    places = {entry.name: entry.spec.listen or public.listen for entry in state.gateways.values()}
    places.setdefault(DEFAULT_NAME, public.listen)
    found: dict[str, str] = {}
    for name, listen in places.items():
        for other, taken in places.items():
            if name != other and listen and taken and _overlap(listen, taken):
                found[name] = f"the Gateway {other} listens on {taken}"
        for taken in public.others:
            if listen and _is_on_this_machine(taken, public) and _overlap(listen, taken):
                found[name] = f"another process of this deployment listens on {taken}"
    return found


def addresses_of(state: RegistryState) -> list[str]:
    """Every address by which the Gateways of a state are reached, as `OwnAddresses` takes them."""
    addresses: list[str] = []
    for entry in state.gateways.values():
        spec: GatewaySpec = entry.spec
        scheme = "https" if spec.tls is not None else "http"
        port = _port_of(spec.listen)
        addresses += [spec.url, spec.listen]
        for host in spec.hostnames:
            if not host.startswith("*."):
                addresses += [f"{scheme}://{host}", *([f"{scheme}://{host.partition(':')[0]}:{port}"] if port else [])]
    return [address for address in addresses if address]


def _check_gateway(
    item: WrittenEntry, spec: GatewaySpec, after: RegistryState, checks: GatewayChecks, findings: Findings, refuse: _Refuse
) -> None:
    entry: Entry[GatewaySpec] = item.entry
    if entry.namespace != SYSTEM_NAMESPACE:
        refuse("metadata.namespace", f"a Gateway serves everybody and is in the namespace {SYSTEM_NAMESPACE}")
        return
    missing = [field for field in ("url", "listen") if not getattr(spec, field) and entry.name != DEFAULT_NAME]
    for field in missing:
        refuse(f"spec.{field}", f"is missing: only the Gateway {DEFAULT_NAME} takes it from the settings")
    if missing:
        return
    if spec.tls is not None and not spec.url and checks.public.url.startswith("http:"):
        refuse("spec.url", f"is missing: tokens are for the gateway's URL, and that of the settings is {checks.public.url}")
    _check_listen(entry, spec, after, checks, refuse)
    _check_names(entry, spec, after, checks.public, refuse)
    _check_servers(spec, after, refuse)
    listen = spec.listen or checks.public.listen
    if spec.tls is None:
        if not _is_loopback(listen):
            findings.warn(item.document, f"spec.tls: without it tokens and answers cross the network to {listen} unprotected")
        return
    pairs = [read_for_apply(item, place, checks, findings, refuse) for place in certificate_places(entry)]
    read = [pair for pair in pairs if pair is not None]
    bare = [host for host in _hosts_of(spec, checks.public) if all(pair.uncovered([host]) for pair in read)]
    if bare and len(read) == len(pairs):
        findings.warn(item.document, f"spec.tls.certificates: none is good for {', '.join(bare)}: clients will refuse it there")
    if spec.tls.client_certificates.ca_file:
        try:
            checks.read_authority(entry.namespace, spec.tls.client_certificates.ca_file)
        except ConfigurationError as error:
            refuse("spec.tls.clientCertificates.caFile", str(error))


def certificate_places(entry: Entry[GatewaySpec] | Entry[McpServerSpec]) -> list[CertificatePlace]:
    """Where an entry names certificates that are presented: those of a listener by their names, and the gateway's own to a server."""
    spec = entry.spec
    named: dict[str, CertificateSpec] = {}
    if isinstance(spec, McpServerSpec) and spec.tls.client_certificate is not None:
        named[CLIENT_CERTIFICATE] = spec.tls.client_certificate
    elif isinstance(spec, GatewaySpec) and spec.tls is not None:
        named = {f"spec.tls.certificates.{name}": certificate for name, certificate in sorted(spec.tls.certificates.items())}
    return [CertificatePlace(uid=entry.uid, namespace=entry.namespace, path=path, spec=certificate) for path, certificate in named.items()]


def _check_server(
    item: WrittenEntry, spec: McpServerSpec, after: RegistryState, checks: GatewayChecks, findings: Findings, refuse: _Refuse
) -> None:
    """A server can be suspended whatever became of its certificate."""
    if spec.tls.spiffe_id and upstream_trust_domain(item.entry, after) is None:
        name = spec.tls.spiffe_id.removeprefix("spiffe://").partition("/")[0]
        message = f"no TrustDomain {name} is registered that namespace {item.entry.namespace} trusts"
        findings.reference_errors.append(DocumentError(document=item.document, path="spec.tls.spiffeId", message=message))
    certificate = spec.tls.client_certificate
    if certificate is not None and item.entry.namespace != SYSTEM_NAMESPACE and certificate.files is None and certificate.stored is None:
        source = "agent" if certificate.agent is not None else "workloadApi"
        message = f"is the gateway's own identity, which only servers of the namespace {SYSTEM_NAMESPACE} are shown; use files or stored"
        refuse(f"{CLIENT_CERTIFICATE}.{source}", message)

    def warn(path: str, message: str) -> None:
        findings.warn(item.document, f"{path}: {message}")

    for place in certificate_places(item.entry):
        read_for_apply(item, place, checks, findings, warn if spec.suspended else refuse)


def upstream_trust_domain(entry: Entry[McpServerSpec], state: RegistryState) -> Entry[TrustDomainSpec] | None:
    """By whose bundle the server's SPIFFE ID is believed; None while its namespace trusts none of that name."""
    name = entry.spec.tls.spiffe_id.removeprefix("spiffe://").partition("/")[0]
    visible = visible_trust_domains(state.trust_domains, entry.namespace).values()
    return next((domain for domain in visible if domain.spec.trust_domain == name), None)


def _check_listen(entry: Entry[GatewaySpec], spec: GatewaySpec, after: RegistryState, checks: GatewayChecks, refuse: _Refuse) -> None:
    if spec.listen:
        address = _parsed(spec.listen)
        if address is None or not _is_ip_literal(address.host):
            refuse("spec.listen", "must be an address and a port, as in 0.0.0.0:8443 or [::]:8443 (Envoy resolves no names here)")
            return
        if not address.port:
            refuse("spec.listen", "names no port")
            return
    conflict = listen_conflicts(after, checks.public).get(entry.name)
    if conflict is not None:
        refuse("spec.listen", f"is taken: {conflict}")


def _check_names(entry: Entry[GatewaySpec], spec: GatewaySpec, after: RegistryState, public: PublicAddress, refuse: _Refuse) -> None:
    """The URL of a Gateway is what tokens are for: it must be the URL of one. The one of the settings is `default`'s for ever."""
    if entry.name != DEFAULT_NAME and spec.url == public.url.rstrip("/").lower():
        refuse("spec.url", f"is the URL of the settings, by which {DEFAULT_NAME} is called; tokens for one would be good for the other")
    for other in after.gateways.values():
        if other.id != entry.id and spec.url and other.spec.url == spec.url:
            refuse("spec.url", f"is the URL of the Gateway {other.name}; tokens for one would be good for the other")
    seen: set[str] = set()
    for index, host in enumerate(spec.hostnames):
        if host in seen:
            refuse(f"spec.hostnames[{index}]", "is named twice")
        seen.add(host)


def _check_servers(spec: GatewaySpec, after: RegistryState, refuse: _Refuse) -> None:
    own = OwnAddresses(address for address in (spec.url, spec.listen) if address)
    for server in after.mcp_servers.values():
        if any(own.include(endpoint.url) for endpoint in server.spec.endpoints):
            refuse("spec.listen", f"is the address of the MCP server {server.id}: its calls would come back for ever")
            return


def read_for_apply(
    item: WrittenEntry, place: CertificatePlace, checks: GatewayChecks, findings: Findings, refuse: _Refuse
) -> KeyPair | None:
    """The pair as it will be used; None when it comes from elsewhere, or after its fault was told."""
    if place.spec.files is None and place.spec.stored is None:
        return None
    try:
        chain, key = checks.pairs.read(place)
        pair = checked_pair(place, chain, key, checks.now)
    except CertificateError as error:
        refuse(error.path, str(error))
        return None
    if pair.expires_soon(checks.now):
        findings.warn(item.document, f"{place.path}: the certificate expires on {day_of(pair.not_after)}")
    return pair


def _hosts_of(spec: GatewaySpec, public: PublicAddress) -> list[str]:
    """Names by which clients call, without ports; of a wildcard one that it stands for."""
    url = urlsplit(spec.url or public.url)
    return [url.hostname or "", *(f"any.{host[2:]}" if host.startswith("*.") else host.partition(":")[0] for host in spec.hostnames)]


def _overlap(one: str, other: str) -> bool:
    """Whether two listeners could not both be there: the same port, and one address among the other's."""
    first, second = _parsed(one), _parsed(other)
    if first is None or second is None or first.port != second.port:
        return False
    hosts = {_plain(first.host), _plain(second.host)}
    return len(hosts) == 1 or not hosts.isdisjoint({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


def _plain(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(host))
    except ValueError:
        return host


class _Address(NamedTuple):
    host: str
    port: int


def _parsed(listen: str) -> _Address | None:
    """`host:port` or `[::]:port`; None for anything else. (The parser of links brings gRPC with it.)"""
    if listen.startswith("unix:"):
        return None
    host, _, port = listen.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or (":" in bare) != host.startswith("[") or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        return None
    return _Address(bare, int(port))


def _is_ip_literal(host: str) -> bool:
    """Whether a host is an address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _port_of(listen: str) -> int:
    address = _parsed(listen) if listen else None
    return address.port if address is not None else 0


def _is_loopback(listen: str) -> bool:
    address = _parsed(listen)
    if address is None or address.host == "localhost":
        return True
    try:
        return ip_address(address.host).is_loopback
    except ValueError:
        return False


def _is_on_this_machine(listen: str, public: PublicAddress) -> bool:
    """Envoy's own inner listener, and what is bound to loopback; others may be on machines of their own."""
    return listen == public.egress_listen or _is_loopback(listen)

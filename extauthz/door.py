"""Step (0) of a decision: which server the path names, by what URL, and whether the request may come in at all.

The path alone chooses a server. Host and Origin are checked here, independently of each other, because the upstream no
longer sees them (DNS rebinding; MCP basic/transports "Security", reference: docs/security.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from extauthz.catalog.gateway import DEFAULT_GATEWAY, GatewayNames
from extauthz.errors import MessageError, Reason
from extauthz.identity.challenge import first_scopes, protected_resource_metadata, protected_resource_metadata_url, www_authenticate
from extauthz.identity.provider import IdentityProvider, TokenBinding
from extauthz.mcp.document import INVALID_REQUEST

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_MCP_PATH = re.compile(rf"/(servers|virtual)/({_LABEL})/({_LABEL})/mcp", re.ASCII)
_METADATA_PREFIX = "/.well-known/oauth-protected-resource"
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_MCP_METHODS = frozenset({"POST", "GET", "DELETE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The MCP server or virtual server that a path names (existing or not), and why the request may not come in, if it may not."""

    namespace: str
    name: str
    resource_url: str
    is_virtual: bool = False
    metadata: bool = False
    refused: Reason | None = None

    @property
    def id(self) -> str:
        """`namespace/name`. A virtual server may have the id of an MCP server, and is another one."""
        return f"{self.namespace}/{self.name}"

    @property
    def path(self) -> str:
        """The path, without anything else that the caller wrote."""
        return f"/{'virtual' if self.is_virtual else 'servers'}/{self.id}/mcp"


class _Entrance:
    """One base URL and the Host names that mean it."""

    def __init__(self, url: str, hostnames: Sequence[str]) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        names = [parts.netloc.lower(), *(host.lower() for host in hostnames)]
        self.hosts = frozenset(name for name in names if name and not name.startswith("*."))
        self._above = frozenset(name[2:] for name in names if name.startswith("*."))
        self._loopback = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        self._origin = f"{parts.scheme}://{parts.netloc}".lower()

    def covers(self, host: str) -> bool:
        """Whether a host that is not among `hosts` means it too: by a wildcard, or as another name of this machine."""
        label, _, above = host.partition(".")
        if above in self._above and re.fullmatch(_LABEL, label, re.ASCII):
            return True
        return self._loopback and _without_port(host) in _LOOPBACK_HOSTS

    def has_origin(self, origin: str) -> bool:
        """Whether pages of this web origin are its own."""
        scheme, _, host = origin.partition("://")
        on_loopback = self._loopback and scheme in {"http", "https"} and _without_port(host) in _LOOPBACK_HOSTS
        return origin == self._origin or on_loopback


class Door:
    """What this gateway is called and whom it lets in. Immutable.

    Every public listener has names of its own: what one of them is called is not served by another, which may ask less of its clients.
    """

    def __init__(
        self,
        *,
        gateway_url: str,
        extra_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        gateways: Sequence[GatewayNames] = (),
    ) -> None:
        self._gateway_url, self._extra_hosts = gateway_url, tuple(extra_hosts)
        self._allowed_origins = frozenset(origin.lower() for origin in allowed_origins)
        self._gateways = tuple(gateways)
        settings = _Entrance(gateway_url, extra_hosts)
        self._entrances: dict[str, tuple[_Entrance, ...]] = {DEFAULT_GATEWAY: (settings,)}
        for gateway in gateways:
            entrance = _Entrance(gateway.url or gateway_url, gateway.hostnames)
            self._entrances[gateway.name] = (entrance, settings) if gateway.name == DEFAULT_GATEWAY else (entrance,)
        self._newest = self

    def at(self, gateways: tuple[GatewayNames, ...]) -> Door:
        """The same door with the Gateways of a revision; made once for each."""
        if self._newest._gateways != gateways:  # noqa: SLF001 - another door's
            url, hosts, origins = self._gateway_url, self._extra_hosts, tuple(self._allowed_origins)
            self._newest = Door(gateway_url=url, extra_hosts=hosts, allowed_origins=origins, gateways=gateways)
        return self._newest

    def enter(
        self, listener: str, http_method: str, path: str, host: str, headers: Mapping[str, Sequence[str]], gateway: str = ""
    ) -> Place | None:
        """The place that the path names; None when it names none. Raises `MessageError` for a method that MCP does not use.

        `gateway`: by whose listener the request came; empty: that of `default`, or of the settings.
        """
        bare, _, query = path.partition("?")
        metadata = bare.startswith(_METADATA_PREFIX)
        found = _MCP_PATH.fullmatch(bare.removeprefix(_METADATA_PREFIX) if metadata else bare)
        if found is None:
            return None
        kind, namespace, name = found.groups()
        if not metadata and http_method not in _MCP_METHODS:
            raise MessageError(
                Reason.HTTP_METHOD_REFUSED, f"{http_method[:16]} is not a method of MCP over HTTP", status=405, code=INVALID_REQUEST
            )
        return Place(
            namespace=namespace,
            name=name,
            resource_url=f"{self.base_url(host, gateway)}/{kind}/{namespace}/{name}/mcp",
            is_virtual=kind == "virtual",
            metadata=metadata,
            refused=None if listener == "egress" else self._refusal(host, headers, query, gateway),
        )

    def base_url(self, host: str, gateway: str = "") -> str:
        """The base URL of the Gateway that this Host names; where it names none, the one of the listener."""
        entrance = self._entrance(host, gateway)
        return entrance.url if entrance is not None else self._known(gateway)[0].url

    def refuse_foreign(self, host: str, origins: Sequence[str], gateway: str = "") -> Reason | None:
        """Why a request with this Host and these Origins may not come in, if it may not. The API asks this too."""
        entrance = self._entrance(host, gateway)
        if entrance is None:
            return Reason.HOST_REFUSED
        if any(origin.lower() not in self._allowed_origins and not entrance.has_origin(origin.lower()) for origin in origins):
            return Reason.ORIGIN_REFUSED
        return None

    def _refusal(self, host: str, headers: Mapping[str, Sequence[str]], query: str, gateway: str) -> Reason | None:
        foreign = self.refuse_foreign(host, headers.get("origin", ()), gateway)
        if foreign is not None:
            return foreign
        if "access_token" in unquote(query).lower():
            return Reason.ACCESS_TOKEN_MISSING  # RFC 9700 section 4.3.2: tokens in a query are leaked by logs
        return None

    def _known(self, gateway: str) -> tuple[_Entrance, ...]:
        """The names that this listener answers to. One whose Gateway is not known (yet, or any more) answers to none."""
        return self._entrances.get(gateway or DEFAULT_GATEWAY, (_NOWHERE,))

    def _entrance(self, host: str, gateway: str) -> _Entrance | None:
        known, host = self._known(gateway), host.lower()
        exact = next((entrance for entrance in known if host in entrance.hosts), None)
        return exact or next((entrance for entrance in known if entrance.covers(host)), None)

    def refuse_partial(self, headers: Mapping[str, Sequence[str]]) -> None:
        """Refuse a body that Envoy says is cut off: a decision on a prefix is a decision on another message."""
        if headers.get("x-envoy-auth-partial-body", ("false",))[0] != "false":
            raise MessageError(Reason.BODY_INCOMPLETE, "the request body did not arrive whole", status=413, code=41300)

    def challenge(
        self,
        place: Place,
        reason: Reason | None,
        providers: Sequence[IdentityProvider] = (),
        scopes: Sequence[str] = (),
        *,
        uses_dpop: bool = False,
    ) -> str:
        """The WWW-Authenticate value of a 401 or of a step-up 403 (RFC 6750 section 3, RFC 9728 section 5.1).

        `scopes` are those of the call; without any, those that a client of the place's providers should ask for at first. The
        challenge is DPoP's when the client `uses_dpop`, or when the place's providers take nothing else.
        """
        trusted = self._trusted(place, providers)
        scopes = scopes or first_scopes(trusted)
        dpop = uses_dpop or (bool(trusted) and all(provider.token_binding is TokenBinding.DPOP for provider in trusted))
        return www_authenticate(protected_resource_metadata_url(place.resource_url), reason, scope=" ".join(scopes), dpop=dpop)

    def metadata_document(self, place: Place, providers: Sequence[IdentityProvider]) -> dict[str, object]:
        """Protected-resource metadata of a place (RFC 9728 section 2)."""
        return protected_resource_metadata(place.resource_url, self._trusted(place, providers))

    @staticmethod
    def _trusted(place: Place, providers: Sequence[IdentityProvider]) -> list[IdentityProvider]:
        return [p for p in providers if not p.operators_only and p.trusts(place.namespace)]


_NOWHERE = _Entrance("", ())


def _without_port(host: str) -> str:
    return re.sub(r":[0-9]{1,5}$", "", host)

"""Step (0) of a decision: which server the path names, and whether the request may come in at all.

The path alone chooses a server. Host and Origin are checked here, independently of each other, because the upstream no
longer sees them (DNS rebinding; MCP basic/transports "Security", reference: docs/security.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from extauthz.errors import MessageError, Reason
from extauthz.identity.challenge import first_scopes, protected_resource_metadata, protected_resource_metadata_url, www_authenticate
from extauthz.identity.provider import IdentityProvider, TokenBinding
from extauthz.mcp.document import INVALID_REQUEST

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SERVER_PATH = re.compile(rf"/servers/({_LABEL})/({_LABEL})/mcp", re.ASCII)
_METADATA_PREFIX = "/.well-known/oauth-protected-resource"
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_MCP_METHODS = frozenset({"POST", "GET", "DELETE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The server that a path names (existing or not), and the reason why the request may not come in, if any."""

    namespace: str
    name: str
    resource_url: str
    metadata: bool = False
    refused: Reason | None = None

    @property
    def mcp_server_id(self) -> str:
        return f"{self.namespace}/{self.name}"


class Door:
    """What this gateway is called and whom it lets in. Immutable."""

    def __init__(self, *, gateway_url: str, extra_hosts: Sequence[str] = (), allowed_origins: Sequence[str] = ()) -> None:
        parts = urlsplit(gateway_url)
        self._gateway_url = gateway_url.rstrip("/")
        self._hosts = frozenset({parts.netloc.lower(), *(host.lower() for host in extra_hosts)})
        self._loopback = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        self._origins = frozenset({f"{parts.scheme}://{parts.netloc}".lower(), *(origin.lower() for origin in allowed_origins)})

    def enter(self, listener: str, http_method: str, path: str, host: str, headers: Mapping[str, Sequence[str]]) -> Place | None:
        """The place that the path names; None when it names none. Raises `MessageError` for a method that MCP does not use."""
        bare, _, query = path.partition("?")
        metadata = bare.startswith(_METADATA_PREFIX)
        found = _SERVER_PATH.fullmatch(bare.removeprefix(_METADATA_PREFIX) if metadata else bare)
        if found is None:
            return None
        namespace, name = found.groups()
        if not metadata and http_method not in _MCP_METHODS:
            raise MessageError(
                Reason.HTTP_METHOD_REFUSED, f"{http_method[:16]} is not a method of MCP over HTTP", status=405, code=INVALID_REQUEST
            )
        return Place(
            namespace=namespace,
            name=name,
            resource_url=f"{self._gateway_url}/servers/{namespace}/{name}/mcp",
            metadata=metadata,
            refused=None if listener == "egress" else self._refusal(host, headers, query),
        )

    def refuse_foreign(self, host: str, origins: Sequence[str]) -> Reason | None:
        """Why a request with this Host and these Origins may not come in, if it may not. The API asks this too."""
        if not self._host_is_ours(host.lower()):
            return Reason.HOST_REFUSED
        if any(not self._origin_is_allowed(origin.lower()) for origin in origins):
            return Reason.ORIGIN_REFUSED
        return None

    def _refusal(self, host: str, headers: Mapping[str, Sequence[str]], query: str) -> Reason | None:
        foreign = self.refuse_foreign(host, headers.get("origin", ()))
        if foreign is not None:
            return foreign
        if "access_token" in unquote(query).lower():
            return Reason.ACCESS_TOKEN_MISSING  # RFC 9700 section 4.3.2: tokens in a query are leaked by logs
        return None

    def _host_is_ours(self, host: str) -> bool:
        return host in self._hosts or (self._loopback and _without_port(host) in _LOOPBACK_HOSTS)

    def _origin_is_allowed(self, origin: str) -> bool:
        if origin in self._origins:
            return True
        scheme, _, host = origin.partition("://")
        return self._loopback and scheme in {"http", "https"} and _without_port(host) in _LOOPBACK_HOSTS

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


def _without_port(host: str) -> str:
    return re.sub(r":[0-9]{1,5}$", "", host)

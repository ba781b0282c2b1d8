"""Protected-resource metadata of the API (RFC 9728): where an operator's client gets an access token. For everybody, as the 401 says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web

from controlplane.api.auth import OperatorAuthentication
from controlplane.api.base_url import resource_url_of
from controlplane.api.routes import Route, json_response
from extauthz.identity.authenticator import OPERATORS_API, is_admitted
from extauthz.identity.challenge import protected_resource_metadata
from extauthz.identity.provider import IdentityProvider, TokenBinding


class MetadataRoutes:
    """One document. Of the identity providers it names the issuers, which an operator's browser is sent to anyway."""

    def __init__(self, *, authentication: OperatorAuthentication) -> None:
        self._authentication = authentication

    def routes(self) -> list[Route]:
        """Where RFC 9728 section 3.1 puts the metadata of `/v1`."""
        return [
            Route(
                method="GET",
                path="/.well-known/oauth-protected-resource/v1",
                operation_id="readProtectedResourceMetadata",
                summary="Which authorization servers issue access tokens for this API (RFC 9728)",
                public_handler=self._metadata,
                answer="object",
            )
        ]

    async def _metadata(self, request: web.Request) -> web.Response:
        resource_url = resource_url_of(request, self._authentication.resource_url)
        return json_response(metadata_of_api(resource_url, self._authentication.providers()))


def metadata_of_api(resource_url: str, identity_providers: Sequence[IdentityProvider]) -> dict[str, object]:
    """The document. Tokens that are bound to certificates do not work here, so who issues nothing else is not named."""
    usable = [p for p in identity_providers if is_admitted(p, OPERATORS_API) and p.token_binding is not TokenBinding.MTLS]
    # what is for operators only is left out of the documents of MCP servers, and belongs into this one
    return protected_resource_metadata(resource_url, [replace(provider, operators_only=False) for provider in usable])

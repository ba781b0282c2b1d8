"""The public keys of clients that prove themselves by a signature: inline, or read by the key source of `extauthz.identity.jwks`."""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Collection
from types import TracebackType

from controlplane.authorization_server.clients.client import ClientRules, RegisteredClient
from controlplane.authorization_server.clients.rate import FetchRate
from controlplane.authorization_server.clients.refusal import ClientAuthenticationError
from controlplane.authorization_server.clients.trust import authority_of_url, is_named
from extauthz.address import AddressRules
from extauthz.errors import AddressError, AuthenticationError, ConfigurationError
from extauthz.identity.jwks import KeySet, KeySource, parse_key_set
from extauthz.identity.provider import IdentityProvider

MAX_LOCATIONS = 64
"""How many key sets of clients that no operator wrote down are kept fresh."""
WAIT_SECONDS = 5.0
PER_MINUTE, PER_MINUTE_AND_HOST = 60, 10


class ClientKeys:
    """Keys of the clients of one authorization server. Use as `async with ClientKeys(...)`.

    Key sets of hosts that only `*` trusts are read from public addresses only.
    """

    def __init__(self, address_rules: AddressRules, *, ca_file: str | None = None) -> None:
        tls = ssl.create_default_context(cafile=ca_file)  # reading the system's authorities costs 30 ms: once
        self._public = _Source(AddressRules(), tls)
        self._deployment = _Source(address_rules, tls)

    async def __aenter__(self) -> ClientKeys:
        await self._public.keys.__aenter__()
        await self._deployment.keys.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._deployment.keys.__aexit__(kind, error, trace)
        await self._public.keys.__aexit__(kind, error, trace)

    async def keys_of(self, client: RegisteredClient, kid: str | None, rules: ClientRules) -> KeySet:
        """The client's keys; they may lack `kid`. Raises `ClientAuthenticationError` where none can be had."""
        try:
            if client.jwks_json:
                return parse_key_set(client.jwks_json)
            written = client.source == "static" or is_named(client.jwks_uri, rules.documents.trusted_domains)
            source = self._deployment if written else self._public
            source.forget_static({known.client_id for known in rules.static_clients})
            return await source.keys_at(client, kid, insecure_http=rules.documents.insecure_loopback)
        except (AddressError, AuthenticationError, ConfigurationError) as error:
            raise ClientAuthenticationError("invalid_client", "the keys of this client cannot be read at the moment") from error


class _Source:
    """One key source and which locations it keeps fresh: all that operators wrote down, and the others that were used last."""

    def __init__(self, address_rules: AddressRules, tls: ssl.SSLContext) -> None:
        self.keys = KeySource(address_rules, tls=tls)
        self._static: dict[str, IdentityProvider] = {}
        self._others: OrderedDict[str, IdentityProvider] = OrderedDict()
        self._rate = FetchRate(per_minute=PER_MINUTE, per_minute_and_host=PER_MINUTE_AND_HOST)

    def forget_static(self, staying: Collection[str]) -> None:
        self._static = {client_id: provider for client_id, provider in self._static.items() if client_id in staying}

    async def keys_at(self, client: RegisteredClient, kid: str | None, *, insecure_http: bool) -> KeySet:
        loop = asyncio.get_running_loop()
        provider = IdentityProvider(
            id=client.client_id,
            namespace="",
            name="",
            issuer=client.client_id,
            jwks_url=client.jwks_uri,
            allow_insecure_http=insecure_http,
        )
        if client.source == "static":
            self._static[client.client_id] = provider
        else:
            self._keep(provider, loop.time())
        self.keys.watch([*self._static.values(), *self._others.values()])
        return await self.keys.keys_for(provider, kid, loop.time() + WAIT_SECONDS)

    def _keep(self, provider: IdentityProvider, now: float) -> None:
        if self._others.get(provider.id) != provider and not self._rate.take(authority_of_url(provider.jwks_url), now):
            raise ConfigurationError("too many key sets of clients are being read")
        self._others[provider.id] = provider
        self._others.move_to_end(provider.id)
        while len(self._others) > MAX_LOCATIONS:
            self._others.popitem(last=False)

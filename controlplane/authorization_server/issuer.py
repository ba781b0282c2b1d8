"""One authorization server at work: an `AuthorizationServer` entry, and the parts that were made for it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from controlplane.authorization_server.access_token import IssuedToken, TokenSigner
from controlplane.authorization_server.clients.authentication import ClientAuthenticator
from controlplane.authorization_server.clients.client import ClientRules, MetadataDocumentRules, RegisteredClient, RegistrationRules
from controlplane.authorization_server.clients.client_keys import ClientKeys
from controlplane.authorization_server.clients.directory import ClientDirectory, check_static_client
from controlplane.authorization_server.clients.secret import digest_of
from controlplane.authorization_server.clients.store import SqlClientStore
from controlplane.authorization_server.grant import Person, login_digest
from controlplane.authorization_server.login import Login, LoginCredential
from controlplane.authorization_server.protocol import Exchange, ProtocolRules
from controlplane.authorization_server.store import Books, GrantStore
from controlplane.authorization_server.throttle import FairThrottle, Rate, RefusalLog
from controlplane.registry.authorization_server_rules import CLIENT_SUBJECT_PREFIX
from controlplane.registry.encryption import LOGIN_KEY, LOGIN_SECRET, RegistryKey, open_secret
from controlplane.registry.public_url import issuer_of
from controlplane.registry.revocation import RevocationFollower
from controlplane.registry.signing_key import public_key_set
from controlplane.registry.spec import AuthorizationServerSpec, SecretReference
from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.subjects import provider_id
from extauthz.address import AddressRules
from extauthz.catalog.server import Secret
from extauthz.credentials import SecretReader
from extauthz.errors import ConfigurationError, CredentialError
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.outbound import is_insecure_http_allowed

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerParts:
    """What all authorization servers of this control plane share."""

    state: Callable[[], RegistryState]
    key: RegistryKey
    books: GrantStore
    clients: SqlClientStore
    address_rules: AddressRules
    secrets_dir: Path | None


class Issuer:
    """One authorization server, between `open` and `close`; made anew when its entry or the gateway's URL changes.

    Raises `ConfigurationError` when browsers would come to it without TLS from other machines.
    """

    def __init__(self, entry: Entry[AuthorizationServerSpec], base_urls: tuple[str, ...], parts: IssuerParts) -> None:
        spec = entry.spec
        self.entry = entry
        self.base_urls = base_urls
        self.name = entry.name
        self.uid = entry.uid
        self.url = issuer_of(base_urls[0], entry.name)
        if not self.is_https and not is_insecure_http_allowed(self.url, allow_insecure_http=True):
            raise ConfigurationError(f"an authorization server needs https, and the gateway is at {base_urls[0]}: set LEGATION_GATEWAY_URL")
        self.provider_id = provider_id(entry.namespace, entry.name)
        self.books = parts.books
        self.rules = ProtocolRules(
            issuer=self.url,
            base_urls=base_urls,
            login=login_digest(spec),
            trusted_namespaces=spec.trusted_namespaces,
            scopes=spec.scopes,
            code_seconds=spec.lifetimes.code_seconds,
            access_token_seconds=spec.lifetimes.access_token_seconds,
            refresh_token_days=spec.lifetimes.refresh_token_days,
        )
        self.refusals = RefusalLog()
        self.strangers = FairThrottle(each=Rate(per_second=20, burst=100), everybody=Rate(per_second=100, burst=400))
        """Authorization requests, answers of logins, consents."""
        self.programs = FairThrottle(each=Rate(per_second=50, burst=200), everybody=Rate(per_second=250, burst=1000))
        """Requests to the token endpoint and its like."""
        self._parts = parts
        self._secrets = SecretReader(parts.secrets_dir)
        self._signer = TokenSigner(issuer=self.url, server_uid=entry.uid, key=parts.key)
        self._revocations = RevocationFollower()
        self._following = threading.Lock()
        self.login = Login(
            spec,
            provider_id=self.provider_id,
            callback_url=f"{self.url}/callback",
            credential=self._login_credential,
            address_rules=parts.address_rules,
        )
        self.directory = ClientDirectory(self._client_rules(), store=parts.clients, address_rules=parts.address_rules)
        self._client_keys = ClientKeys(parts.address_rules)
        self.clients = ClientAuthenticator(directory=self.directory, keys=self._client_keys, memory=parts.clients)
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Before the first request."""
        for part in (self.login, self.directory, self._client_keys):
            await self._stack.enter_async_context(part)

    async def close(self) -> None:
        """After the last one."""
        await self._stack.aclose()

    @property
    def is_https(self) -> bool:
        """Whether browsers may be given cookies that need TLS."""
        return self.url.startswith("https://")

    def key_set(self) -> dict[str, object]:
        """The public keys, those of the future too."""
        return public_key_set(self._parts.state().signing_keys.get(self.uid, ()))

    def metadata(self) -> dict[str, object]:
        """RFC 8414 section 2, with RFC 9207 and client id metadata documents. Whoever asks for OpenID Connect's gets the same."""
        spec = self.entry.spec
        grant_types = {"authorization_code", "refresh_token", *(grant for client in spec.clients.values() for grant in client.grant_types)}
        methods = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
        found: dict[str, object] = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "revocation_endpoint": f"{self.url}/revoke",
            "jwks_uri": f"{self.url}/jwks.json",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": sorted(grant_types),
            "token_endpoint_auth_methods_supported": methods,
            "token_endpoint_auth_signing_alg_values_supported": ["ES256", "PS256", "RS256", "EdDSA"],
            "revocation_endpoint_auth_methods_supported": methods,
            "revocation_endpoint_auth_signing_alg_values_supported": ["ES256", "PS256", "RS256", "EdDSA"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            "client_id_metadata_document_supported": spec.registration.client_id_metadata.enabled,
        }
        if spec.scopes:
            found["scopes_supported"] = list(spec.scopes)
        if spec.registration.dynamic != "off":
            found["registration_endpoint"] = f"{self.url}/register"
        return found

    def checking(self, client: RegisteredClient) -> Exchange:
        """To look at an authorization request of this client; gives nothing."""
        return Exchange(self.rules, client)

    def exchange(self, client: RegisteredClient, books: Books) -> Exchange:
        """To give this client what it may have, in a transaction."""
        return Exchange(self.rules, client, books=books, sign=self._sign, is_revoked=self.is_revoked)

    def is_revoked(self, client_id: str, person: Person | None, since: datetime) -> bool:
        """Whether a Revocation of the registry names this client, or the subject, whose rights are as old as `since`."""
        subject = person.subject if person is not None else f"{CLIENT_SUBJECT_PREFIX}{client_id}"
        principal = Principal(
            kind=PrincipalKind.USER if person is not None else PrincipalKind.AGENT,
            id=f"{self.provider_id}/{subject}",
            provider=self.provider_id,
            subject=subject,
            oauth_client_id=client_id,
            issued_at_unix=since.timestamp(),
        )
        with self._following:  # requests are answered on several threads
            index = self._revocations.index(self._parts.state())
        return index.find(principal, datetime.now(UTC).timestamp()) is not None

    def _sign(self, **token: object) -> IssuedToken:
        keys = self._parts.state().signing_keys.get(self.uid, ())
        return self._signer.sign(keys, **token)  # type: ignore[arg-type]

    def _login_credential(self) -> LoginCredential:
        login = self.entry.spec.login
        if login.client_secret is not None:
            return LoginCredential(secret=self._opened(login.client_secret, LOGIN_SECRET).decode("utf-8", "replace"))
        assert login.private_key_jwt is not None  # noqa: S101 - the document says one of the two
        return LoginCredential(private_key=self._opened(login.private_key_jwt.key, LOGIN_KEY).decode("utf-8", "replace"))

    def _opened(self, reference: SecretReference, path: str) -> bytes:
        """A secret of the entry. Raises `CredentialError`."""
        if reference.file is not None:
            return self._secrets.read(Secret(file=f"{self.entry.namespace}/{reference.file}"))
        return open_secret(self._parts.key, uid=self.uid, path=path, sealed=reference.value or "")

    def _client_rules(self) -> ClientRules:
        spec = self.entry.spec
        registration = spec.registration
        tokens: tuple[str, ...] = ()
        mode = registration.dynamic
        if registration.initial_access_token is not None:
            try:
                token = self._opened(registration.initial_access_token, "spec.registration.initialAccessToken")
                tokens = (digest_of(token.decode("utf-8", "replace")),)
            except CredentialError as error:
                logger.error("initial access token cannot be opened: nobody can register", authorization_server=self.name, cause=str(error))
        return ClientRules(
            server_uid=self.uid,
            static_clients=tuple(client for name in spec.clients if (client := self._static_client(name)) is not None),
            scopes=spec.scopes,
            private_use_schemes=frozenset(registration.private_use_schemes),
            documents=MetadataDocumentRules(
                trusted_domains=registration.client_id_metadata.trusted_domains if registration.client_id_metadata.enabled else (),
                insecure_loopback=spec.login.allow_insecure_http,
            ),
            registration=RegistrationRules(mode=mode, initial_access_tokens=tokens, max_clients=registration.max_clients),
        )

    def _static_client(self, client_id: str) -> RegisteredClient | None:
        """One that cannot be used keeps the others from nothing: it is unknown, and the log says why."""
        spec = self.entry.spec.clients[client_id]
        try:
            secret = self._opened(spec.secret, f"spec.clients.{client_id}.secret") if spec.secret is not None else b""
            client = RegisteredClient(
                client_id=client_id,
                name=spec.name,
                redirect_uris=spec.redirect_uris,
                grant_types=frozenset(spec.grant_types),
                token_endpoint_auth_method=spec.token_endpoint_auth_method,
                scopes=spec.scopes,
                jwks_json=json.dumps(spec.jwks) if spec.jwks is not None else "",
                jwks_uri=spec.jwks_uri,
                secret_digest=digest_of(secret.decode("utf-8", "replace")) if secret else "",
                source="static",
            )
            check_static_client(client, self.entry.spec.registration.private_use_schemes)
        except (CredentialError, ConfigurationError) as error:
            logger.error("a registered client cannot be used", authorization_server=self.name, oauth_client_id=client_id, cause=str(error))
            return None
        return client

"""The SPIFFE Workload API, asked by the control plane: its own X.509-SVIDs, and the bundles of its own and of federated domains.

    agent's socket ══▶ library `spiffe` (threads) ──▶ WorkloadApi (event loop) ──▶ listeners' certificates, trust bundles, /readyz

Two streams, each supervised by itself, because an agent may serve X.509 alone. The library's own retry is off: it hides that the
agent is away. A stream that ends, or that says nothing within its time, is begun again with backoff, and what it said last stays in
force. Nothing is started, and nothing imported, before an entry of the registry needs it (`need`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from controlplane.registry.spec import TrustDomainSpec
from controlplane.registry.state import RegistryState
from controlplane.registry.trust_bundle import BundleError, TrustBundle, bundle_from_certificates, bundle_from_document
from extauthz.errors import ConfigurationError

if TYPE_CHECKING:
    from spiffe import JwtBundle, WorkloadApiClient, X509Svid
    from spiffe.workloadapi.workload_api_client import StreamCancelHandler
    from spiffe.workloadapi.x509_context import X509Context

FIRST_ANSWER_SECONDS = 10.0
"""How long an agent may take to say anything on a new stream."""
AWAY_SECONDS = 60.0
"""How long an agent may be away before this process is not ready any more: SPIRE's agents restart faster, and SVIDs live longer."""
FIRST_BACKOFF_SECONDS = 0.25
LAST_BACKOFF_SECONDS = 10.0

T = TypeVar("T")

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Material:
    """An X.509-SVID: its chain, leaf first, and its private key, in PEM (PKCS #8)."""

    spiffe_id: str
    chain_pem: str
    key_pem: str = field(repr=False)
    expires_at: datetime

    @property
    def trust_domain(self) -> str:
        """Whose workload it is."""
        return self.spiffe_id.removeprefix("spiffe://").partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadApiPace:
    """How long to wait for what."""

    first_answer_seconds: float = FIRST_ANSWER_SECONDS
    away_seconds: float = AWAY_SECONDS
    first_backoff_seconds: float = FIRST_BACKOFF_SECONDS
    last_backoff_seconds: float = LAST_BACKOFF_SECONDS


@dataclass(slots=True)
class _Stream:
    """One kind of answers: since when it is away (event loop time) and why, and whether it ever answered."""

    name: str
    away_since: float | None = None
    why: str = ""
    answered: bool = False
    failures: int = 0  # one after the other
    refused: dict[str, str] = field(default_factory=dict)  # trust domains whose bundle cannot be used, and why

    def usable(self, told: Mapping[str, Callable[[], T]], last: Mapping[str, T], own: Collection[str]) -> dict[str, T]:
        """The bundles of an answer. Of a federated trust domain one that cannot be used leaves its last good one, and all others new:
        what a partner publishes must not hold up our own SVIDs. Raises `BundleError` for one of our `own`.
        """
        found: dict[str, T] = {}
        refused: dict[str, str] = {}
        for name, read in told.items():
            try:
                found[name] = read()
            except Exception as error:
                if name in own:
                    raise
                reason = str(error) if isinstance(error, BundleError) else type(error).__name__
                refused[name] = f"what the Workload API says of it is not usable: {reason}"
                if name in last:
                    found[name] = last[name]
        self.refused = refused
        return found

    def answer(self) -> None:
        self.answered, self.away_since, self.why, self.failures = True, None, "", 0

    def fail(self, why: str, now: float) -> None:
        self.why = why
        self.failures += 1
        if self.away_since is None:
            self.away_since = now


class WorkloadApi:
    """What the Workload API at `address` (`unix:/path`) last said. `run` keeps it current while somebody needs it."""

    def __init__(self, address: str, *, pace: WorkloadApiPace = WorkloadApiPace(), clock: Callable[[], float] = time.time) -> None:
        self._address = address
        self._pace = pace
        self._clock = clock
        self._needed_by: tuple[str, ...] = ()
        self._x509, self._jwt = _Stream("X.509-SVIDs"), _Stream("JWT bundles")
        self._svids: tuple[X509Material, ...] = ()
        self._x509_bundles: Mapping[str, TrustBundle] = {}
        self._jwt_bundles: Mapping[str, str] = {}
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self.generation = 0

    @property
    def address(self) -> str:
        """Where it is asked; empty: nowhere."""
        return self._address

    @property
    def has_answered(self) -> bool:
        """Whether it has said anything since this process started."""
        return self._x509.answered

    def need(self, users: Sequence[str]) -> None:
        """Who needs it, as `Kind namespace/name`; nobody: its streams end."""
        if tuple(users) != self._needed_by:
            self._needed_by = tuple(users)
            self._wake.set()

    def x509_svid(self, spiffe_id: str = "") -> X509Material | None:
        """The X.509-SVID of this SPIFFE ID, or the default one (Workload API section 5.3). It may be over: see `expires_at`."""
        return next((svid for svid in self._svids if not spiffe_id or svid.spiffe_id == spiffe_id), None)

    def bundle(self, trust_domain: str, known: TrustBundle | None = None) -> TrustBundle | None:
        """The authorities of its own or a federated trust domain; None when it told none.

        While it has said nothing about JWT authorities since this process started, those of `known` count.
        """
        if not self._x509.answered:
            return None
        x509, keys = self._x509_bundles.get(trust_domain), self._jwt_bundles.get(trust_domain)
        if x509 is None and keys is None:
            return None
        if not self._jwt.answered and known is not None:
            keys = known.jwt_authorities_json
        authorities = x509.x509_authorities if x509 is not None else ()
        return TrustBundle(trust_domain=trust_domain, x509_authorities=authorities, jwt_authorities_json=keys or "")

    def why_away(self) -> str:
        """Why there is no answer of now to the question for X.509-SVIDs; empty when there is."""
        if not self._address:
            return "LEGATION_WORKLOAD_API is not set"
        return self._x509.why

    def why_refused(self, trust_domain: str) -> str:
        """Why the newest bundle that it tells of a federated trust domain is not used; empty when it is."""
        return self._x509.refused.get(trust_domain, "") or self._jwt.refused.get(trust_domain, "")

    def why_not_ready(self) -> str:
        """What keeps its users from doing their work, in a sentence that anybody may read; empty: nothing, or nobody needs it."""
        if not self._needed_by:
            return ""
        if not self._address:
            return "entries of the registry need the Workload API, and LEGATION_WORKLOAD_API is not set"
        now, away_since = asyncio.get_running_loop().time(), self._x509.away_since
        if away_since is not None and now - away_since > self._pace.away_seconds:
            return f"the Workload API, which entries of the registry need, has been away for {now - away_since:.0f} s"
        if any(svid.expires_at.timestamp() <= self._clock() for svid in self._svids):
            return "an X.509-SVID of this process has expired, and the Workload API has given no new one"
        return ""

    async def wait(self, after: int) -> int:
        """The generation, as soon as it is above `after`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.generation > after)
        return self.generation

    async def run(self) -> None:
        """Ask for as long as somebody needs it, until cancelled."""
        while True:
            self._wake.clear()
            if self._needed_by and self._address:
                async with asyncio.TaskGroup() as tasks:
                    asking = [
                        tasks.create_task(self._ask_always(self._x509, _stream_x509, self._take_x509)),
                        tasks.create_task(self._ask_always(self._jwt, _stream_jwt, self._take_jwt)),
                    ]
                    while self._needed_by:
                        await self._wake.wait()
                        self._wake.clear()
                    for task in asking:
                        task.cancel()
            else:
                await self._wake.wait()

    async def _ask_always(self, stream: _Stream, open_stream: _OpenStream, take: Callable[[Any], None]) -> None:
        if not stream.answered:
            stream.away_since = asyncio.get_running_loop().time()
        while True:
            why = await self._ask(stream, open_stream, take)
            if why != stream.why:
                logger.warning("the Workload API is away", address=self._address, what=stream.name, reason=why)
            stream.fail(why, asyncio.get_running_loop().time())
            await self._tell()
            backoff = self._pace.first_backoff_seconds * 2.0 ** min(stream.failures - 1, 12)
            await asyncio.sleep(min(backoff, self._pace.last_backoff_seconds) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _ask(self, stream: _Stream, open_stream: _OpenStream, take: Callable[[Any], None]) -> str:
        """One stream from its beginning to its end; why it ended."""
        answers: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def hand_over(answer: object) -> None:  # called in a thread of the library
            if not loop.is_closed():
                loop.call_soon_threadsafe(answers.put_nowait, answer)

        try:
            close = await asyncio.to_thread(open_stream, self._address, hand_over)
        except Exception as error:  # noqa: BLE001 - the library's errors have no common base that is documented
            return _words(error)
        try:
            time_limit: float | None = self._pace.first_answer_seconds
            while True:
                async with asyncio.timeout(time_limit):  # in 3.11 `wait_for` forgets a cancellation when there is an answer too
                    answer = await answers.get()
                if isinstance(answer, Exception):
                    return _words(answer)
                take(answer)
                stream.answer()
                time_limit = None
                await self._tell()
        except TimeoutError:
            return f"it said nothing within {self._pace.first_answer_seconds:g} s"
        except BundleError as error:
            return f"what it says is not usable: {error}"
        except Exception as error:  # whatever an answer does to a parser, it is asked again
            logger.exception("an answer of the Workload API could not be read")
            return f"what it says cannot be read ({type(error).__name__})"
        finally:
            await asyncio.to_thread(close)

    def _take_x509(self, context: X509Context) -> None:
        svids = tuple(map(_material, context.x509_svids))
        told = {bundle.trust_domain.name: bundle for bundle in context.x509_bundle_set.bundles}
        own = {svid.trust_domain for svid in svids}
        bundles = self._x509.usable(
            {name: partial(bundle_from_certificates, map(_der, bundle.x509_authorities), name) for name, bundle in told.items()},
            self._x509_bundles,
            own,
        )
        self._svids, self._x509_bundles = svids, bundles
        logger.info("X.509-SVIDs received", spiffe_ids=[svid.spiffe_id for svid in svids], bundles=sorted(bundles))

    def _take_jwt(self, bundles: Sequence[JwtBundle]) -> None:
        own = {svid.trust_domain for svid in self._svids}
        told = {bundle.trust_domain.name: partial(_jwt_authorities, bundle) for bundle in bundles}
        self._jwt_bundles = self._jwt.usable(told, self._jwt_bundles, own)

    async def _tell(self) -> None:
        async with self._changed:
            self.generation += 1
            self._changed.notify_all()


def workload_api_address(configured: str, environ: Mapping[str, str]) -> str:
    """Where the Workload API is: as configured, else by the variable of the specification (SPIFFE Workload Endpoint section 4)."""
    name = "LEGATION_WORKLOAD_API" if configured else "SPIFFE_ENDPOINT_SOCKET"
    address = configured or environ.get("SPIFFE_ENDPOINT_SOCKET", "")
    if address and not address.startswith("unix:/"):
        raise ConfigurationError(f"{name} must be a Unix socket, as in unix:/run/spire/agent.sock")
    return address


def users_of_workload_api(state: RegistryState) -> list[str]:
    """The entries that need it, as `Kind namespace/name`."""
    users = [f"TrustDomain {entry.id}" for entry in state.trust_domains.values() if _is_needed_by(entry.spec)]
    for entry in state.gateways.values():
        tls = entry.spec.tls
        if tls is not None and any(certificate.workload_api is not None for certificate in tls.certificates.values()):
            users.append(f"Gateway {entry.id}")
    for server in state.mcp_servers.values():
        shown = server.spec.tls.client_certificate
        if shown is not None and shown.workload_api is not None:
            users.append(f"McpServer {server.id}")
    return sorted(users)


def _is_needed_by(spec: TrustDomainSpec) -> bool:
    return spec.bundle.workload_api is not None


_OpenStream = Callable[[str, Callable[[object], None]], Callable[[], None]]
"""Begins a stream in threads of the library; its answers, or the error that ends it, are handed over. Returns what ends it."""


def _stream_x509(address: str, hand_over: Callable[[object], None]) -> Callable[[], None]:
    client = _open_client(address)
    handler = client.stream_x509_contexts(hand_over, hand_over, retry_connect=False)
    return partial(_close, handler, client)


def _stream_jwt(address: str, hand_over: Callable[[object], None]) -> Callable[[], None]:
    client = _open_client(address)
    handler = client.stream_jwt_bundles(lambda bundles: hand_over(tuple(bundles.bundles)), hand_over, retry_connect=False)
    return partial(_close, handler, client)


def _close(handler: StreamCancelHandler, client: WorkloadApiClient) -> None:
    handler.cancel()
    client.close()


def _open_client(address: str) -> WorkloadApiClient:
    from spiffe import WorkloadApiClient  # noqa: PLC0415 - brings a gRPC client with it; most deployments need none

    return WorkloadApiClient(address)


def _material(svid: X509Svid) -> X509Material:
    """The SVID in PEM; the library has checked that the leaf is one. Raises `BundleError` when key and leaf do not belong together."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    if svid.leaf.public_key() != svid.private_key.public_key():
        raise BundleError(f"the X.509-SVID {svid.spiffe_id} came with the key of another one")
    return X509Material(
        spiffe_id=str(svid.spiffe_id),
        chain_pem="".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in svid.cert_chain),
        key_pem=svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        expires_at=svid.leaf.not_valid_after_utc.astimezone(UTC),
    )


def _der(certificate: Any) -> bytes:  # noqa: ANN401 - x509.Certificate, which is not imported before it is needed
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return bytes(certificate.public_bytes(Encoding.DER))


def _jwt_authorities(bundle: JwtBundle) -> str:
    """The JWK set of a bundle, from the keys that the library parsed: it keeps no documents."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm  # noqa: PLC0415

    keys: list[dict[str, object]] = []
    for kid, key in bundle.jwt_authorities.items():
        if isinstance(key, RSAPublicKey):
            keys.append({**RSAAlgorithm.to_jwk(key, as_dict=True), "kid": kid, "use": "jwt-svid"})
        elif isinstance(key, EllipticCurvePublicKey):
            keys.append({**ECAlgorithm.to_jwk(key, as_dict=True), "kid": kid, "use": "jwt-svid"})
    return bundle_from_document({"keys": keys}, bundle.trust_domain.name).jwt_authorities_json


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:500]

"""Trust bundles, followed: the last good one of every TrustDomain entry, from wherever the entry says it comes.

    document, pem ─ parsed when the entry changes
    file ────────── looked at every second
    workloadApi ─── whenever the Workload API says something new
    endpoint ────── as often as its last document asks for             ─▶ `known`, and whoever waits for it is told

A source that fails leaves its last good bundle in force, over a restart too (`xds.bundle_store`), however old it gets; that is
reported (`status`). What a source *says*, it takes away as well: an authority that is gone from its bundle is revoked. Every replica
of the control plane follows by itself; the same bundle makes the same bytes everywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from controlplane.registry.spec import TrustDomainSpec
from controlplane.registry.state import Entry
from controlplane.registry.trust_bundle import BundleError, TrustBundle, bundle_from_document, parse_bundle, parse_bundle_pem
from controlplane.registry.trust_domain_spec import BundleEndpointSpec
from controlplane.xds.bundle_status import BundleStatus
from controlplane.xds.bundle_store import BundleStore, KeptBundle
from extauthz.address import AddressRules
from extauthz.errors import AddressError, ConfigurationError, FetchError

__all__ = ["NO_BUNDLES", "BundleFollower", "BundlePace", "TrustBundle", "TrustBundles"]

TrustBundles = Mapping[str, TrustBundle]
"""By the id of the TrustDomain entry (`namespace/name`). None known: not in it."""
NO_BUNDLES: TrustBundles = MappingProxyType({})

DEFAULT_REFRESH_SECONDS = 300.0
"""SPIFFE Federation section 4.1, for a document without a refresh hint."""
_INLINE = frozenset({"document", "pem"})

logger = structlog.get_logger(__name__)


class ReadsFiles(Protocol):
    """Files of the secrets folder: `registry.authority.AuthorityReader`."""

    def read(self, namespace: str, file: str) -> bytes:
        """The certificates as PEM; raises `ConfigurationError`."""

    def read_content(self, namespace: str, file: str) -> bytes:
        """The content as it is; raises `ConfigurationError`."""


class TellsBundles(Protocol):
    """The Workload API: `controlplane.workload_api.WorkloadApi`."""

    @property
    def generation(self) -> int:
        """Raised whenever anything that it says changes."""

    @property
    def has_answered(self) -> bool:
        """Whether it has said anything since this process started."""

    def bundle(self, trust_domain: str, known: TrustBundle | None = None) -> TrustBundle | None:
        """What it last said, None when that is nothing; of what it has not been heard about yet, `known` counts."""

    def why_away(self) -> str:
        """Why there is no answer of now; empty when there is."""

    def why_refused(self, trust_domain: str) -> str:
        """Why the newest of what it says about this trust domain is not used; empty when it is."""

    async def wait(self, after: int) -> int:
        """The generation, as soon as it is above `after`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePace:
    """How often sources are asked. A document's refresh hint counts between the least and the most seconds."""

    least_refresh_seconds: float = 10.0
    most_refresh_seconds: float = 3600.0
    first_retry_seconds: float = 1.0
    file_seconds: float = 1.0
    stale_seconds: float = 86_400.0


@dataclass(slots=True, kw_only=True)
class _Followed:
    """One entry, and what its source said last."""

    entry: Entry[TrustDomainSpec]
    source: str
    bundle: TrustBundle | None = None
    succeeded_at_unix: float = 0.0
    error: str = ""
    content: bytes = b""  # of a file, as it was read last
    task: asyncio.Task[None] | None = None

    @property
    def trust_domain(self) -> str:
        return self.entry.spec.trust_domain


class BundleFollower:
    """Keeps `known` current for the entries it was last told of (`learn`), while `run` runs."""

    def __init__(
        self,
        *,
        files: ReadsFiles,
        rules: AddressRules,
        store: BundleStore,
        workload_api: TellsBundles | None = None,
        pace: BundlePace = BundlePace(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._rules = rules
        self._store = store
        self._workload_api = workload_api
        self._pace = pace
        self._clock = clock
        self._entries: Mapping[str, Entry[TrustDomainSpec]] = MappingProxyType({})
        self._followed: dict[str, _Followed] = {}
        self._learning = asyncio.Lock()
        self._news = asyncio.Event()
        self._shown: TrustBundles = NO_BUNDLES

    @property
    def known(self) -> TrustBundles:
        """The last good bundles: the same object until one of them changes."""
        known = {name: followed.bundle for name, followed in self._followed.items() if followed.bundle is not None}
        if known != self._shown:
            self._shown = MappingProxyType(known)
        return self._shown

    async def wait(self, seen: TrustBundles) -> TrustBundles:
        """The bundles, as soon as they are others than `seen`."""
        while self.known is seen:
            self._news.clear()
            await self._news.wait()
        return self.known

    def status(self, entry_id: str) -> BundleStatus | None:
        """What is known of this entry's bundle; None when it is not followed (yet)."""
        followed = self._followed.get(entry_id)
        if followed is None:
            return None
        at, kind = followed.succeeded_at_unix, _kind_of_source(followed.entry.spec)
        return BundleStatus(
            source=kind,
            bundle=followed.bundle,
            succeeded_at=datetime.fromtimestamp(at, UTC) if at and kind not in _INLINE else None,
            error=followed.error,
            stale=kind not in _INLINE and bool(at) and self._clock() - at > self._pace.stale_seconds,
        )

    async def learn(self, entries: Mapping[str, Entry[TrustDomainSpec]]) -> None:
        """Follow exactly these. What needs no network is known when this returns; nothing is waited for that does."""
        async with self._learning:
            if entries is self._entries:
                return
            for gone in self._followed.keys() - entries.keys():
                self._forget(gone)
            for name, entry in entries.items():
                followed, source = self._followed.get(name), _source_of(entry)
                if followed is not None and followed.source == source:
                    followed.entry = entry
                else:
                    self._forget(name)
                    self._followed[name] = await self._begin(entry, source)
            self._entries = entries
            await asyncio.to_thread(self._store.keep_only, {entry.uid for entry in entries.values()})

    async def settle(self, seconds: float) -> None:
        """Wait until every source has answered or failed once, at most so long: a start must not take from authorizers what they know."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end and any(f.bundle is None and not f.error for f in self._followed.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_files())
                if self._workload_api is not None:
                    tasks.create_task(self._follow_workload_api(self._workload_api))
        finally:
            for followed in self._followed.values():
                if followed.task is not None:
                    followed.task.cancel()

    def _forget(self, name: str) -> None:
        followed = self._followed.pop(name, None)
        if followed is not None and followed.task is not None:
            followed.task.cancel()

    async def _begin(self, entry: Entry[TrustDomainSpec], source: str) -> _Followed:
        followed = _Followed(entry=entry, source=source)
        bundle = entry.spec.bundle
        if bundle.document is not None or bundle.pem is not None:
            await self._take(followed, _inline, keep=False)
            return followed
        kept = await asyncio.to_thread(self._store.read, entry.uid, source=source, trust_domain=entry.spec.trust_domain)
        if kept is not None:
            followed.bundle, followed.succeeded_at_unix = kept.bundle, kept.succeeded_at_unix
        if bundle.file is not None:
            await self._read_file(followed, bundle.file)
        elif bundle.endpoint is not None:
            if followed.bundle is None and bundle.endpoint.bootstrap is not None:
                await self._take(followed, _bootstrap, keep=False)
                followed.succeeded_at_unix = 0.0  # nobody was asked yet
            followed.task = asyncio.create_task(self._follow_endpoint(followed, bundle.endpoint), name=f"bundle of {entry.id}")
        elif self._workload_api is not None:
            await self._ask_workload_api(followed, self._workload_api)
        else:
            followed.error = "this control plane has no Workload API (LEGATION_WORKLOAD_API)"
        return followed

    # one source each

    async def _follow_files(self) -> None:
        while True:
            await asyncio.sleep(self._pace.file_seconds)
            for followed in list(self._followed.values()):
                if (file := followed.entry.spec.bundle.file) is not None:
                    await self._read_file(followed, file)

    async def _read_file(self, followed: _Followed, file: str) -> None:
        try:
            content = await asyncio.to_thread(self._files.read_content, followed.entry.namespace, file)
        except ConfigurationError as error:
            self._fail(followed, error)
            return
        if content == followed.content and not followed.error:
            followed.succeeded_at_unix = self._clock()
            return
        followed.content = content
        await self._take(followed, lambda f: parse_bundle(content, f.trust_domain))

    async def _follow_workload_api(self, workload_api: TellsBundles) -> None:
        generation = workload_api.generation
        while True:
            for followed in list(self._followed.values()):
                if followed.entry.spec.bundle.workload_api is not None:
                    await self._ask_workload_api(followed, workload_api)
            generation = await workload_api.wait(generation)

    async def _ask_workload_api(self, followed: _Followed, workload_api: TellsBundles) -> None:
        bundle, away = workload_api.bundle(followed.trust_domain, followed.bundle), workload_api.why_away()
        if refused := workload_api.why_refused(followed.trust_domain):
            self._fail(followed, BundleError(refused))
        elif bundle is not None and not away:
            await self._take(followed, lambda _: bundle)
        elif bundle is None and workload_api.has_answered:
            # it no longer federates with this trust domain: nobody of it is believed any more
            followed.bundle, followed.error = None, f"the Workload API knows no bundle of {followed.trust_domain}"
            self._news.set()
            self._store.forget(followed.entry.uid)  # not in a thread: no end of this process may come between, or it would be back
        else:
            followed.error = away

    async def _follow_endpoint(self, followed: _Followed, endpoint: BundleEndpointSpec) -> None:
        failures = 0
        while True:
            try:
                bundle = await self._fetch(followed, endpoint)
                await self._take(followed, lambda _, told=bundle: _not_older(told, followed.bundle))  # type: ignore[misc]
            except (AddressError, FetchError, ConfigurationError) as error:
                self._fail(followed, error)
            except Exception as error:
                logger.exception("a bundle endpoint could not be read", trust_domain=followed.trust_domain)
                followed.error = f"it could not be read ({type(error).__name__})"
            failures = failures + 1 if followed.error else 0
            await asyncio.sleep(self._pause(followed, failures))

    def _pause(self, followed: _Followed, failures: int) -> float:
        pace = self._pace
        hint = (followed.bundle.refresh_hint_seconds if followed.bundle is not None else 0) or DEFAULT_REFRESH_SECONDS
        refresh = min(max(float(hint), pace.least_refresh_seconds), pace.most_refresh_seconds)
        if not failures:
            return refresh * random.uniform(0.9, 1.0)  # noqa: S311 - jitter, not a secret
        return min(refresh, pace.first_retry_seconds * 2.0 ** min(failures - 1, 12)) * random.uniform(0.5, 1.0)  # noqa: S311

    async def _fetch(self, followed: _Followed, endpoint: BundleEndpointSpec) -> TrustBundle:
        from controlplane.xds.bundle_endpoint import fetch_bundle  # noqa: PLC0415 - only who has an endpoint needs it

        tls = await self._tls_of(followed, endpoint)
        return await fetch_bundle(endpoint.url, trust_domain=followed.trust_domain, rules=self._rules, tls=tls)

    async def _tls_of(self, followed: _Followed, endpoint: BundleEndpointSpec) -> ssl.SSLContext:
        from controlplane.xds.bundle_endpoint import make_spiffe_tls, make_web_tls  # noqa: PLC0415

        if endpoint.profile == "https_spiffe":
            trust_domain = urlsplit(endpoint.endpoint_spiffe_id).netloc
            bundle = followed.bundle if trust_domain == followed.trust_domain else self._bundle_of(trust_domain)
            if bundle is None:
                raise FetchError(f"{endpoint.url} cannot be asked: no bundle of {trust_domain} is known, by which it could be believed")
            return make_spiffe_tls(bundle, endpoint.endpoint_spiffe_id)
        authorities = b""
        if endpoint.ca_file:
            authorities = await asyncio.to_thread(self._files.read, followed.entry.namespace, endpoint.ca_file)
        return await asyncio.to_thread(make_web_tls, authorities)

    def _bundle_of(self, trust_domain: str) -> TrustBundle | None:
        return next((followed.bundle for followed in self._followed.values() if followed.trust_domain == trust_domain), None)

    # what became of it

    async def _take(self, followed: _Followed, make: Callable[[_Followed], TrustBundle], *, keep: bool = True) -> None:
        """What the source says now; what is no bundle leaves the last good one in force."""
        try:
            bundle = make(followed)
        except ConfigurationError as error:
            self._fail(followed, error)
            return
        except Exception:  # whatever one bundle does to a parser, the others are followed
            logger.exception("a trust bundle could not be read", trust_domain=followed.trust_domain)
            followed.error = "it could not be read; the log of the control plane says why"
            return
        if followed.error:
            logger.info("trust bundle read again", trust_domain=followed.trust_domain)
        followed.error, followed.succeeded_at_unix = "", self._clock()
        if bundle != followed.bundle:
            followed.bundle = bundle
            logger.info(
                "trust bundle changed",
                trust_domain=followed.trust_domain,
                sequence=bundle.sequence,
                x509_authorities=len(bundle.x509_authorities),
                jwt_authorities=bundle.jwt_authority_count,
            )
            self._news.set()
        if keep:
            kept = KeptBundle(bundle=bundle, succeeded_at_unix=followed.succeeded_at_unix)
            await asyncio.to_thread(self._store.write, followed.entry.uid, kept, source=followed.source)

    def _fail(self, followed: _Followed, error: Exception) -> None:
        if followed.error != str(error):
            kept = followed.bundle is not None
            logger.warning("trust bundle not usable", trust_domain=followed.trust_domain, reason=str(error), last_good_in_force=kept)
        followed.error = str(error)


def _inline(followed: _Followed) -> TrustBundle:
    bundle = followed.entry.spec.bundle
    if bundle.document is not None:
        return bundle_from_document(bundle.document, followed.trust_domain)
    return parse_bundle_pem((bundle.pem or "").encode(), followed.trust_domain)


def _bootstrap(followed: _Followed) -> TrustBundle:
    endpoint = followed.entry.spec.bundle.endpoint
    return bundle_from_document((endpoint.bootstrap if endpoint is not None else None) or {}, followed.trust_domain)


def _not_older(bundle: TrustBundle, known: TrustBundle | None) -> TrustBundle:
    """A document whose sequence went back is somebody's old one; without a sequence the newest answer counts (Federation 4.2)."""
    if known is not None and bundle.sequence and bundle.sequence < known.sequence:
        raise BundleError(f"its sequence went back from {known.sequence} to {bundle.sequence}: an old document is not taken")
    return bundle


def _source_of(entry: Entry[TrustDomainSpec]) -> str:
    """What tells one source of one entry from every other: nothing that another one said counts for it."""
    spec = entry.spec.bundle.model_dump(mode="json", by_alias=True, exclude_none=True)
    text = json.dumps([entry.uid, entry.spec.trust_domain, spec], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _kind_of_source(spec: TrustDomainSpec) -> str:
    """The member of `spec.bundle` that is given."""
    return next(iter(spec.bundle.model_dump(by_alias=True, exclude_none=True)), "")

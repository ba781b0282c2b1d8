"""Certificates with keys that Envoys present, followed: files looked at every second, stored ones opened, SVIDs as they come.

    registry state ─▶ `learn` ─▶ read ─▶ checked (`registry.key_pair`) ─▶ `known` ─▶ snapshot ─▶ SDS
                                  ▲ `refresh`, when a file or an SVID is another one

What cannot be used leaves the last good pair in place, with a line in the log and a condition in the Gateway's status. Pairs are in
memory only: no log, no status and no file on disk holds any of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Protocol

import structlog

from controlplane.registry.gateway_rules import CLIENT_CERTIFICATE, certificate_places
from controlplane.registry.key_pair import KeyPair, day_of
from controlplane.registry.key_pair_reader import CertificateError, CertificatePlace, checked_pair
from controlplane.registry.state import Entry

Certificates = Mapping[str, KeyPair]
"""Checked pairs by entry uid and path in its document (`source_key`)."""

NO_CERTIFICATES: Certificates = MappingProxyType({})

logger = structlog.get_logger(__name__)


class ReadsKeyPairs(Protocol):
    """What is needed of `registry.key_pair_reader.KeyPairReader`."""

    def read(self, place: CertificatePlace) -> tuple[bytes, bytes]:
        """Chain and key in PEM; raises `CertificateError`."""


class Svid(Protocol):
    """An X.509-SVID: chain and key in PEM."""

    @property
    def chain_pem(self) -> str:
        """Leaf first."""

    @property
    def key_pem(self) -> str:
        """The leaf's private key."""


class WorkloadIdentity(Protocol):
    """What is needed of `controlplane.workload_api.WorkloadApi`."""

    def x509_svid(self, spiffe_id: str = "") -> Svid | None:
        """The one of this SPIFFE ID (empty: the default one); None while there is none. Never blocks."""


@dataclass(slots=True, kw_only=True)
class _Followed:
    """One place, what was last read there and why that was refused, the last good pair, and what is wrong now."""

    place: CertificatePlace
    seen: tuple[bytes, bytes] | None = field(default=None, repr=False)
    refused: str = ""
    pair: KeyPair | None = None
    fault: str = ""
    warned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """How a certificate stands. `fault`: why the newest is not used (`refused`), or what is coming. `ready`: a good one is served."""

    path: str
    not_after: datetime | None
    fault: str
    refused: bool
    ready: bool


def source_key(place: CertificatePlace) -> str:
    """The key of a place in `Certificates`."""
    return f"{place.uid}:{place.path}"


def places_of(entry: Entry[Any]) -> list[CertificatePlace]:
    """Where an entry names certificates that come by way of us."""
    places = certificate_places(entry)
    return [place for place in places if place.spec.agent is None]


class CertificateSources:
    """Keeps `known` current for the entries it is told about."""

    def __init__(
        self,
        *,
        reader: ReadsKeyPairs,
        workload_identity: WorkloadIdentity | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._reader = reader
        self._workload_identity = workload_identity
        self._clock = clock
        self._followed: dict[str, _Followed] = {}
        self._shown: Certificates = NO_CERTIFICATES

    @property
    def known(self) -> Certificates:
        """The last good pairs: the same object until one of them changes."""
        now = {key: followed.pair for key, followed in self._followed.items() if followed.pair is not None}
        if self._shown != now:
            self._shown = MappingProxyType(now)
        return self._shown

    async def learn(self, entries: Iterable[Entry[Any]]) -> None:
        """Read what these entries name.

        A listener whose certificate is another source now keeps its last good pair until the new one is good. A server does not: as
        whom the gateway comes there is never left to what was before.
        """
        changed = []
        for place in (place for entry in entries for place in places_of(entry)):
            followed = self._followed.setdefault(source_key(place), _Followed(place=place))
            if followed.place != place or followed.seen is None:
                if place.path == CLIENT_CERTIFICATE and followed.place.spec != place.spec:
                    followed.pair = None
                followed.place, followed.seen = place, None
                changed.append(followed)
        if changed:
            await self._look(changed)

    def keep_only(self, entries: Iterable[Entry[Any]]) -> None:
        """Forget what no entry names any more."""
        named = {source_key(place) for entry in entries for place in places_of(entry)}
        for gone in self._followed.keys() - named:
            del self._followed[gone]

    async def refresh(self) -> bool:
        """Look at everything again; whether another pair is to be used."""
        before = self.known
        if self._followed:
            await self._look(list(self._followed.values()))
        return self.known is not before

    def status(self, uid: str) -> list[CertificateStatus]:
        """How the certificates of an entry stand, by path."""
        found = sorted((f for f in self._followed.values() if f.place.uid == uid), key=lambda followed: followed.place.path)
        return [self._status(followed) for followed in found]

    def _status(self, followed: _Followed) -> CertificateStatus:
        pair, fault = followed.pair, followed.fault
        if pair is not None and not fault:
            fault = _late(pair, self._clock())
        return CertificateStatus(
            path=followed.place.path,
            not_after=pair.not_after if pair is not None else None,
            fault=fault,
            refused=bool(followed.fault),
            ready=pair is not None and not pair.expired(self._clock()),
        )

    async def _look(self, places: list[_Followed]) -> None:
        asked = [followed.place for followed in places]
        found = await asyncio.to_thread(self._read_all, asked)
        now = self._clock()
        for followed, place, (read, unread) in zip(places, asked, found, strict=True):
            if followed.place is not place:
                continue  # its document changed meanwhile: this is what another source held
            if read is not None and read != followed.seen:
                self._judge(followed, read, now)
            self._tell(followed, unread if read is None else followed.refused, now)

    def _read_all(self, places: list[CertificatePlace]) -> list[tuple[tuple[bytes, bytes] | None, str]]:
        return [self._read_one(place) for place in places]

    def _read_one(self, place: CertificatePlace) -> tuple[tuple[bytes, bytes] | None, str]:
        if place.spec.workload_api is not None:
            identity = self._workload_identity
            svid = identity.x509_svid(place.spec.workload_api.spiffe_id) if identity is not None else None
            if svid is None:
                return None, "the Workload API has not given this identity (yet)"
            return (svid.chain_pem.encode(), svid.key_pem.encode()), ""
        try:
            return self._reader.read(place), ""
        except CertificateError as error:
            return None, f"{error.path}: {error}"

    @staticmethod
    def _judge(followed: _Followed, read: tuple[bytes, bytes], now: datetime) -> None:
        followed.seen, followed.refused = read, ""
        try:
            followed.pair = checked_pair(followed.place, *read, now)
            followed.warned = False
        except CertificateError as error:
            followed.refused = f"{error.path}: {error}"

    def _tell(self, followed: _Followed, fault: str, now: datetime) -> None:
        """Say once what is wrong, and once when it is good again."""
        if fault and fault != followed.fault:
            logger.error("certificate not usable", entry=followed.place.uid, path=followed.place.path, reason=fault, kept=_kept(followed))
        elif followed.fault and not fault:
            logger.info("certificate is usable again", entry=followed.place.uid, path=followed.place.path)
        followed.fault = fault
        if followed.pair is not None and not fault and not followed.warned and (late := _late(followed.pair, now)):
            followed.warned = True
            logger.warning("certificate expires", entry=followed.place.uid, path=followed.place.path, reason=late)


def _late(pair: KeyPair, now: datetime) -> str:
    if pair.expired(now):
        return f"expired on {day_of(pair.not_after)}"
    return f"expires on {day_of(pair.not_after)}" if pair.expires_soon(now) else ""


def _kept(followed: _Followed) -> str:
    return f"the one until {day_of(followed.pair.not_after)}" if followed.pair is not None else "none"


def status_json(certificates: Sequence[CertificateStatus]) -> dict[str, Any] | None:
    """`status` of an entry with these certificates: whether all can be used, and until when; None without any of ours."""
    if not certificates:
        return None
    faults = [each.fault if each.fault.startswith(each.path) else f"{each.path}: {each.fault}" for each in certificates if each.fault]
    ready = all(each.ready and not each.refused for each in certificates)
    good = min((each.not_after for each in certificates if each.not_after is not None), default=None)
    message = "; ".join(faults) or (f"good until {day_of(good)}" if good is not None else "")
    condition = {"type": "CertificatesUsable", "status": "True" if ready else "False", "message": message}
    ends = {each.path.rpartition(".")[2]: each.not_after.isoformat() for each in certificates if each.not_after is not None}
    return {"conditions": [condition], "certificatesUntil": ends}

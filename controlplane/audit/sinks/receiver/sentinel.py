"""Microsoft Sentinel by the Logs Ingestion API: a token of Entra ID, then JSON arrays of at most 1 MB, gzipped.

The API answers 204 when it has taken a request; it knows no ids, so that a lost answer leaves a copy with the same `RecordId`.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from controlplane.audit.sinks.form.http_json import sentinel_row
from controlplane.audit.sinks.receiver.http import ReceiverHttp, check_status, json_answer, said
from controlplane.audit.sinks.receiver.receiver import DeliveryError, Receipt, RefusedError, front_within
from controlplane.audit.sinks.sent_record import SentRecord
from controlplane.registry.audit_sink_spec import SentinelSinkSpec

MAX_REQUEST_BYTES = 1_000_000
"""Of the array before it is compressed: the limit of the API, 1 MB, is for both."""
API_VERSION = "2023-01-01"
SCOPE = "https://monitor.azure.com/.default"
_EXPIRY_MARGIN_SECONDS = 120.0
_UNAUTHORIZED = 401


class SentinelReceiver:
    """One stream of one data collection rule."""

    most_requests = 1

    def __init__(self, spec: SentinelSinkSpec, *, client_secret: str, http: ReceiverHttp, record_format: str) -> None:
        self._spec = spec
        self._client_secret = client_secret
        self._http = http
        self._record_format = record_format
        self._access_token = ""
        self._good_until = 0.0
        path = f"/dataCollectionRules/{quote(spec.rule_id)}/streams/{quote(spec.stream)}?api-version={API_VERSION}"
        self._url = spec.endpoint.rstrip("/") + path

    async def send(self, records: Sequence[SentRecord]) -> Receipt:
        """See `Receiver`."""
        rows = await asyncio.to_thread(lambda: [sentinel_row(record, record_format=self._record_format) for record in records])
        taken = front_within([len(row) + 1 for row in rows], MAX_REQUEST_BYTES - 2)
        body = await asyncio.to_thread(gzip.compress, b"[" + b",".join(rows[:taken]) + b"]", 6)
        headers = {
            "Authorization": f"Bearer {await self._token()}",
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
        }
        answer = await self._http.post(self._url, body=body, headers=headers)
        if answer.status == _UNAUTHORIZED:
            self._access_token = ""
        check_status(answer, taken=taken, detail=_detail(json_answer(answer).get("error")))
        return Receipt(taken=taken)

    async def close(self) -> None:
        """See `Receiver`."""
        await self._http.close()

    async def _token(self) -> str:
        """The access token, a new one shortly before the old one ends."""
        if self._access_token and time.monotonic() < self._good_until:
            return self._access_token
        form = {
            "grant_type": "client_credentials",
            "client_id": self._spec.client_id,
            "client_secret": self._client_secret,
            "scope": SCOPE,
        }
        url = f"{self._spec.authority.rstrip('/')}/{self._spec.tenant_id}/oauth2/v2.0/token"
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        answer = await self._http.request("POST", url, body=urlencode(form).encode(), headers=headers, own_name=False)
        document = json_answer(answer)
        try:
            check_status(answer, taken=1, detail=said(document.get("error")))
        except RefusedError as error:
            raise DeliveryError(f"{self._spec.authority} gave no access token: {error}") from error
        access_token, lifetime = document.get("access_token"), document.get("expires_in")
        if not isinstance(access_token, str) or not access_token.isascii() or not access_token.isprintable():
            raise DeliveryError(f"{self._spec.authority} gave no access token")
        seconds = float(lifetime) if isinstance(lifetime, int | float) else 600.0
        self._access_token, self._good_until = access_token, time.monotonic() + max(seconds - _EXPIRY_MARGIN_SECONDS, 30.0)
        return access_token


def _detail(error: object) -> str:
    if not isinstance(error, dict):
        return said(error)
    return ": ".join(part for part in (said(error.get("code")), said(error.get("message"))) if part)

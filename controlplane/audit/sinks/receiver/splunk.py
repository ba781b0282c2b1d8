"""Splunk's HTTP Event Collector. With `ack` an event counts as received when Splunk says that it is indexed, not before.

    events ─▶ 200 {"ackId"} ─▶ ask /ack until it is true; where it does not become true in time, everything of the request is sent again

An acknowledgement that was lost, or that came too late, leaves a copy with the same `legation_id`: the protocol cannot avoid that.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from controlplane.audit.sinks.form.http_json import splunk_event
from controlplane.audit.sinks.receiver.http import ReceiverHttp, check_status, json_answer, said
from controlplane.audit.sinks.receiver.receiver import DeliveryError, Receipt, RefusedError, front_within
from controlplane.audit.sinks.sent_record import SentRecord
from controlplane.registry.audit_sink_spec import SplunkHecSinkSpec
from extauthz.outbound import OutboundResponse

MAX_REQUEST_BYTES = 512 * 1024
_INCORRECT_INDEX, _INVALID_FORMAT, _NO_EVENT, _BLANK_EVENT, _ACK_DISABLED = 7, 6, 12, 13, 14
_RECORDS_ARE_GUILTY = frozenset({_INVALID_FORMAT, _NO_EVENT, _BLANK_EVENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class AckPatience:
    """How often acknowledgements are asked for, and how long one is waited for."""

    poll_seconds: float = 1.0
    wait_seconds: float = 120.0


@dataclass(slots=True, kw_only=True)
class _Channel:
    """Acknowledgements are numbered by channel; a restarted Splunk numbers from the start, so each request's channel is kept with it."""

    id: str = field(default_factory=lambda: str(uuid.UUID(bytes=secrets.token_bytes(16), version=4)))


class SplunkReceiver:
    """One HTTP Event Collector."""

    most_requests = 4

    def __init__(
        self, spec: SplunkHecSinkSpec, *, token: str, http: ReceiverHttp, record_format: str, patience: AckPatience | None = None
    ) -> None:
        self._spec = spec
        self._http = http
        self._record_format = record_format
        self._patience = patience or AckPatience()
        self._channel = _Channel()
        self._headers = {"Authorization": f"Splunk {token}", "Content-Type": "application/json"}
        self._base = spec.url.rstrip("/").removesuffix("/services/collector/event").removesuffix("/services/collector")

    async def send(self, records: Sequence[SentRecord]) -> Receipt:
        """See `Receiver`."""
        events = await asyncio.to_thread(lambda: [self._event(record) for record in records])
        taken = front_within([len(event) + 1 for event in events], MAX_REQUEST_BYTES)
        channel = self._channel
        headers = {**self._headers, "X-Splunk-Request-Channel": channel.id}
        answer = await self._http.post(f"{self._base}/services/collector/event", body=b"\n".join(events[:taken]), headers=headers)
        document = json_answer(answer)
        _check(answer, document, taken=taken)
        if self._spec.ack:
            number = document.get("ackId")
            if not isinstance(number, int) or isinstance(number, bool):
                raise DeliveryError("gave no ackId: turn indexer acknowledgement on for the token, or 'ack' off in the sink")
            await self._acknowledged(channel, number)
        return Receipt(taken=taken)

    async def close(self) -> None:
        """See `Receiver`."""
        await self._http.close()

    def _event(self, record: SentRecord) -> bytes:
        spec = self._spec
        return splunk_event(record, index=spec.index, source=spec.source, sourcetype=spec.sourcetype, record_format=self._record_format)

    async def _acknowledged(self, channel: _Channel, number: int) -> None:
        """Return when the request is indexed. Where that is not said in time: a new channel, and the records again."""
        give_up_at = time.monotonic() + self._patience.wait_seconds
        url, body = f"{self._base}/services/collector/ack?channel={channel.id}", json.dumps({"acks": [number]}).encode()
        headers = {**self._headers, "X-Splunk-Request-Channel": channel.id}
        fault = "did not say in time that the events are indexed"
        while time.monotonic() < give_up_at:
            try:
                answer = await self._http.post(url, body=body, headers=headers)
                check_status(answer, taken=1, detail=said(json_answer(answer).get("text")))
            except (DeliveryError, RefusedError) as error:
                fault = f"{error}, when it was asked for an acknowledgement"
            else:
                acks = json_answer(answer).get("acks")
                if isinstance(acks, dict) and acks.get(str(number)) is True:
                    return
            await asyncio.sleep(self._patience.poll_seconds)
        if self._channel is channel:
            self._channel = _Channel()
        raise DeliveryError(fault)


def _check(answer: OutboundResponse, document: dict[str, object], *, taken: int) -> None:
    code, text = document.get("code"), said(document.get("text"))
    if answer.status == 400 and code not in _RECORDS_ARE_GUILTY:
        raise DeliveryError(f"answered 400: {text or 'no reason'} (code {code})")
    check_status(answer, taken=taken, detail=text)

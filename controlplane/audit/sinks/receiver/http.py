"""Requests to receivers that speak HTTP: checked addresses, verified certificates, and what their statuses mean for records.

| status | means |
| 2xx | the receiver's own rules say |
| 400, 413, 422 | these records cannot be taken together: divided, the guilty one is found |
| 401, 403, 404, 405, 407, 410 | the sink is not set up as its receiver is: nothing is lost, the fault is shown |
| 408, 429, 5xx, no answer | later |
"""

from __future__ import annotations

import json
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlplane.audit.sinks.form.plain_text import clipped, visible
from controlplane.audit.sinks.receiver.receiver import DeliveryError, RefusedError, retry_after_seconds
from controlplane.audit.sinks.settings import TlsMaterial
from extauthz.address import AddressRules
from extauthz.errors import AddressError, ConfigurationError, FetchError
from extauthz.outbound import OutboundHttp, OutboundResponse, is_insecure_http_allowed

TIMEOUT_SECONDS = 60.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
_REFUSES_THESE = frozenset({400, 413, 422})


class ReceiverHttp:
    """HTTP to one receiver. Opened by the first request; `close` at the end."""

    def __init__(self, *, rules: AddressRules, tls: TlsMaterial, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._outbound = OutboundHttp(rules, timeout_seconds=timeout_seconds, tls=tls_context(tls))
        self._server_name = tls.server_name
        self._open = False

    async def close(self) -> None:
        """Close connections."""
        await self._outbound.__aexit__(None, None, None)
        self._open = False

    async def post(self, url: str, *, body: bytes, headers: Mapping[str, str]) -> OutboundResponse:
        """Any answer at all; `DeliveryError` where there is none."""
        return await self.request("POST", url, body=body, headers=headers)

    async def request(self, method: str, url: str, *, body: bytes, headers: Mapping[str, str], own_name: bool = True) -> OutboundResponse:
        """The same by another method. `own_name=False`: a host that the sink's `serverName` is not about."""
        if not self._open:
            await self._outbound.__aenter__()
            self._open = True
        try:
            return await self._outbound.send(
                method,
                url,
                body=body,
                headers=headers,
                max_bytes=MAX_ANSWER_BYTES,
                insecure_http=is_insecure_http_allowed(url, allow_insecure_http=True),
                server_name=self._server_name if own_name and url.startswith("https:") else "",
            )
        except (FetchError, AddressError) as error:
            raise DeliveryError(str(error)) from error


def check_status(answer: OutboundResponse, *, taken: int, detail: str = "") -> None:
    """Return for a success; raise what any other status means for the `taken` records that were sent."""
    if 200 <= answer.status < 300:
        return
    fault = f"answered {answer.status}: {detail}" if detail else f"answered {answer.status}"
    if answer.status in _REFUSES_THESE:
        raise RefusedError(fault, taken=taken)
    raise DeliveryError(fault, retry_after_seconds=retry_after_seconds(answer.retry_after))


def json_answer(answer: OutboundResponse) -> dict[str, Any]:
    """The JSON object of an answer; empty where it is none."""
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def said(value: object) -> str:
    """A text of an answer, short and harmless, for faults."""
    return clipped(visible(value), 200) if isinstance(value, str) else ""


def tls_context(tls: TlsMaterial) -> ssl.SSLContext:
    """A context that verifies; raises `ConfigurationError` for certificates that cannot be used."""
    try:
        context = ssl.create_default_context(cadata=tls.authorities.decode("ascii") or None)
        if tls.chain:
            _load_chain(context, tls)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(f"the certificates of the sink's TLS cannot be used ({type(error).__name__})") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load_chain(context: ssl.SSLContext, tls: TlsMaterial) -> None:
    """OpenSSL's Python takes chains from files only: one that nobody else may read, for a moment."""
    handle, name = tempfile.mkstemp(prefix="legation-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(tls.chain + b"\n" + tls.key)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink(missing_ok=True)

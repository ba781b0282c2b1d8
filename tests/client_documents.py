"""A web site that publishes OAuth client metadata documents and key sets, over TLS with a certificate made for the test."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

from aiohttp import web

from controlplane.certificates import write_certificates


def server_tls(directory: Path, *hosts: str) -> ssl.SSLContext:
    """TLS for `localhost`, or `hosts`; the authority is `ca.crt` in the directory."""
    write_certificates(directory, ["site"], hosts=list(hosts) or ["localhost"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(directory / "site.crt", directory / "site.key")
    return tls


class ClientSite:
    """Answers are set by path; every request is recorded. Without TLS it speaks plain http."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, host: str = "localhost", listen: str = "127.0.0.1") -> None:
        self.tls = tls
        self.host = host
        self.listen = listen
        self.asked: list[str] = []
        self.arrived = asyncio.Event()
        self.gate: asyncio.Event | None = None  # answers wait for it
        self._answers: dict[str, dict[str, Any]] = {}

    async def __aenter__(self) -> ClientSite:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.listen, 0, ssl_context=self.tls).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    def url(self, path: str = "/client.json") -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{path}"

    def document(self, path: str = "/client.json", **changes: Any) -> dict[str, Any]:
        """The metadata document of the client at this path; `...` leaves a member out."""
        document = {
            "client_id": self.url(path),
            "client_name": "Example IDE",
            "redirect_uris": ["http://127.0.0.1/callback"],
            "token_endpoint_auth_method": "none",
        }
        return {name: value for name, value in (document | changes).items() if value is not ...}

    def publish(self, path: str = "/client.json", document: Any = None, **answer: Any) -> str:
        """Answer `path` with a document, or with the `body`, `status`, `content_type` and `headers` that are given; gives the URL."""
        body = json.dumps(document if document is not None else self.document(path)).encode()
        self._answers[path] = {"body": body, "content_type": "application/json"} | answer
        return self.url(path)

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        self.arrived.set()
        if self.gate is not None:
            await self.gate.wait()
        answer = self._answers.get(request.path)
        return web.Response(status=404) if answer is None else web.Response(**answer)

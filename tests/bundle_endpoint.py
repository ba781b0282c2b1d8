"""A SPIFFE bundle endpoint on the loopback, over TLS: of either profile, and as wrong as a test wants it. Runs in threads of its own.

with BundleEndpoint(certificate) as endpoint:             # an IssuedX509Svid: `web_certificate(ca)`, or an SVID of the endpoint
    endpoint.serve(ca.bundle_document())                  # what it answers from now on
    endpoint.url                                          # https://localhost:<port>/bundle.json
"""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.spiffe_ca import IssuedX509Svid, SpiffeCa

ALLOWED = ("127.0.0.0/8", "::1/128")
"""Networks that address rules must allow for it."""
CONNECTION_SECONDS = 1.0
"""How long one connection may say nothing; a loop that waits for the end of this server cannot speak meanwhile."""


def web_certificate(ca: SpiffeCa, host: str = "localhost") -> IssuedX509Svid:
    """A certificate for a host, without any SPIFFE ID: the Web PKI's."""
    return ca.x509_svid(uris=[], dns=[host])


class BundleEndpoint:
    """One endpoint. `connections` counts whoever connected, `asked` whoever sent a request after the handshake."""

    def __init__(self, certificate: IssuedX509Svid) -> None:
        self._certificate = certificate
        self._port = 0
        self._http: _Http | None = None
        self._thread: threading.Thread | None = None
        self.connections = 0
        self.asked = 0
        self.serve("", status=404)

    @property
    def url(self) -> str:
        return f"https://localhost:{self._port}/bundle.json"

    def serve(self, body: str, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer this from now on."""
        self.answer = (status, {"Content-Type": "application/json", **(headers or {})}, body.encode())

    def __enter__(self) -> BundleEndpoint:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; on the same port as before."""
        self._http = _Http(self, self._port, self._tls())
        self._port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Take it off the network."""
        if self._http is not None and self._thread is not None:
            self._http.shutdown()
            self._http.server_close()
            self._thread.join()
            self._http = None

    def replace_certificate(self, certificate: IssuedX509Svid) -> None:
        """Come back with another certificate."""
        self.stop()
        self._certificate = certificate
        self.start()

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as directory:
            context.load_cert_chain(*self._certificate.write(Path(directory)))
        return context


class _Http(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, endpoint: BundleEndpoint, port: int, tls: ssl.SSLContext) -> None:
        self.endpoint = endpoint
        self.tls = tls
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, *_: object) -> None:
        """A client that does not like the certificate leaves."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http

    def setup(self) -> None:
        self.server.endpoint.connections += 1
        connection: socket.socket = self.request
        connection.settimeout(CONNECTION_SECONDS)
        self.request = self.server.tls.wrap_socket(connection, server_side=True)
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.request.close()

    def do_GET(self) -> None:
        self.server.endpoint.asked += 1
        status, headers, body = self.server.endpoint.answer
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""

"""An HTTP server that gives written answers, for what the real API is never made to say: faults, hostile text, broken streams."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(kw_only=True)
class ScriptedApi:
    """`answers` by "METHOD path"; a list gives one answer after the other and repeats the last. `seen` holds the requests.

    An answer that is a function is called with the request's JSON.
    """

    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, key: str, body: Any, *, status: int = 200, content_type: str = "application/json") -> None:
        self.answers.setdefault(key, []).append((status, content_type, body))

    def problem(self, key: str, *, status: int, code: str, detail: str, errors: list[dict[str, Any]] | None = None) -> None:
        body = {"type": "about:blank", "status": status, "title": "Problem", "code": code, "detail": detail, "errors": errors or []}
        self.answer(key, body, status=status, content_type="application/problem+json")

    def take(self, key: str) -> tuple[int, str, Any]:
        scripted = self.answers.get(key)
        if not scripted:
            return (
                404,
                "application/problem+json",
                {"status": 404, "code": "not_found", "title": "Not found", "detail": f"nothing at {key}"},
            )
        return scripted[0] if len(scripted) == 1 else scripted.pop(0)

    def bodies(self, key: str) -> list[str]:
        return [request["body"] for request in self.seen if request["key"] == key]


@contextmanager
def scripted_api() -> Iterator[ScriptedApi]:
    script = ScriptedApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            path, _, query = self.path.partition("?")
            key = f"{self.command} {path}"
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            script.seen.append({"key": key, "query": query, "headers": dict(self.headers), "body": body, "client": self.client_address})
            status, content_type, content = script.take(key)
            if callable(content):
                content = content(json.loads(body))
            encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - names of http.server

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""Login in a browser: authorization code with PKCE, answered to a port of this machine (RFC 6749, RFC 7636, RFC 8252).

The answer must carry the `state` of this login, and be from the issuer that was asked (`iss`, RFC 9207). Others may knock at the
port too, a page in any browser for example: what has another `state` is refused, and the login goes on waiting.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from urllib.parse import parse_qs, urlencode, urlsplit

from controlplane.cli.issuer import IssuerMetadata
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import note, warn
from controlplane.cli.token_endpoint import refusal_of

PATIENCE_SECONDS = 300.0
_PATH = "/callback"
_PARAMETERS = ("code", "state", "iss", "error", "error_description")
_CLOSE = "You can close this page and go back to the terminal."
_FOREIGN = "This is not the answer to the login that waits here."


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeGrant:
    """What the token endpoint wants to see for the code."""

    code: str
    code_verifier: str
    redirect_uri: str


class Waiting:
    """A login that was sent off with `state`, and its one answer: a code, or why there is none."""

    def __init__(self, metadata: IssuerMetadata, state: str) -> None:
        self._metadata = metadata
        self._state = state
        self._answers: queue.Queue[str | CommandError] = queue.Queue()
        self._answered = threading.Lock()
        self.foreign = threading.Event()

    def take(self, query: str) -> tuple[int, str]:
        """Judge what came to the port: the HTTP status and the sentence for whoever sent it."""
        try:
            given = parse_qs(query, keep_blank_values=True, max_num_fields=50)
        except ValueError:
            return 400, _FOREIGN
        if any(len(given.get(name, ())) > 1 for name in _PARAMETERS):
            return 400, _FOREIGN
        said = {name: values[0] for name, values in given.items()}
        if not hmac.compare_digest(said.get("state", "").encode(), self._state.encode()):
            self.foreign.set()
            return 400, _FOREIGN
        if not self._answered.acquire(blocking=False):
            return 400, "This login has been answered already."
        answer = self._judged(said)
        self._answers.put(answer)
        return (200, f"Done. {_CLOSE}") if isinstance(answer, str) else (400, f"Not logged in: {answer}. {_CLOSE}")

    def _judged(self, said: dict[str, str]) -> str | CommandError:
        issuer = self._metadata.issuer
        if "iss" in said and said["iss"] != issuer:
            return CommandError(f"the login at {issuer} was answered by {said['iss']}; it is refused", outcome=Outcome.REFUSED)
        if "iss" not in said and self._metadata.names_itself:
            return CommandError(
                f"the answer to the login does not say that it is from {issuer}, as {issuer} promises; it is refused",
                outcome=Outcome.REFUSED,
            )
        if "error" in said:
            return refusal_of(issuer, said, 400)
        return said.get("code") or CommandError(f"{issuer} answered the login without a code", outcome=Outcome.REFUSED)

    def code(self, patience_seconds: float) -> str:
        """The code, as soon as it is there."""
        try:
            answer = self._answers.get(timeout=patience_seconds)
        except queue.Empty:
            answer = CommandError(
                f"nobody logged in within {patience_seconds / 60:.0f} minutes",
                remedy="repeat it; `legation login --device` works with a browser on another machine",
                outcome=Outcome.NO,
            )
        if self.foreign.is_set():
            warn("something else than the answer of the login came to its port, and was refused")
        if isinstance(answer, CommandError):
            raise answer
        return answer


def log_in_with_browser(
    metadata: IssuerMetadata,
    parameters: dict[str, str],
    *,
    port: int,
    open_page: Callable[[str], bool],
    patience_seconds: float = PATIENCE_SECONDS,
) -> CodeGrant:
    """Send a browser to the issuer and wait for its answer. `parameters` say who asks for what; `port` 0 is any free one."""
    if not metadata.authorization_endpoint:
        raise CommandError(f"{metadata.issuer} offers no login in a browser", remedy="try --device", outcome=Outcome.REFUSED)
    if metadata.challenge_methods is not None and "S256" not in metadata.challenge_methods:
        # a server that does not say at all may well check it (Entra ID does); one that says it does not, does not
        raise CommandError(f"{metadata.issuer} does not offer PKCE with S256, without which codes can be stolen", outcome=Outcome.REFUSED)
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(32)
    waiting = Waiting(metadata, state)
    with _listening(waiting, port) as redirect_uri:
        asked = {"response_type": "code", **parameters, "redirect_uri": redirect_uri, "state": state}
        asked |= {"code_challenge": _challenge_of(verifier), "code_challenge_method": "S256"}
        separator = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
        url = metadata.authorization_endpoint + separator + urlencode({name: value for name, value in asked.items() if value})
        note(f"log in at {metadata.issuer} in your browser; if it does not open, go to\n  {url}")
        open_page(url)
        code = waiting.code(patience_seconds)
    return CodeGrant(code=code, code_verifier=verifier, redirect_uri=redirect_uri)


def _challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


@contextmanager
def _listening(waiting: Waiting, port: int) -> Iterator[str]:
    """A server on 127.0.0.1 for the answer; gives its redirect URI."""

    class Page(http.server.BaseHTTPRequestHandler):
        timeout = 10.0  # browsers open connections that they may never use

        def do_GET(self) -> None:
            """The answer, or 404."""
            path, _, query = self.path.partition("?")
            ours = path == _PATH and self.headers.get("Host") == authority
            status, sentence = waiting.take(query) if ours else (404, "There is nothing here.")
            body = f"<!doctype html><meta charset=utf-8><title>Legation</title><p>{escape(sentence)}".encode()
            self.send_response(status)
            headers = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(body)), "Cache-Control": "no-store"}
            headers |= {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Referrer-Policy": "no-referrer"}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            """Not the interpreter's version."""
            return "legation"

        def log_message(self, *_: object) -> None:
            """Nothing: the request line holds the code."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False  # see `Page.timeout`

        def handle_error(self, *_: object) -> None:
            """A browser that hung up is no news."""

    try:
        server = Server(("127.0.0.1", port), Page)
    except OSError as error:
        raise CommandError(
            f"cannot listen on 127.0.0.1:{port} for the answer of the login: {error.strerror}", remedy="choose another with --port"
        ) from error
    authority = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{authority}{_PATH}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

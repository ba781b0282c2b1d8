"""One HTTP request as it is sent: what the fuzzer makes, the corpus keeps and every reader gets."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
LISTENING = (("host", "127.0.0.1"), ("accept", "application/json, text/event-stream"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request to the path of an MCP server; `headers` without Host and Accept, which are always the same."""

    headers: tuple[tuple[str, str], ...]
    body: bytes
    method: str = "POST"

    def header_map(self) -> dict[str, list[str]]:
        """The headers as the authorizer gets them from Envoy."""
        found: dict[str, list[str]] = {}
        for name, value in (*LISTENING, *self.headers):
            found.setdefault(name.lower(), []).append(value)
        return found

    def to_json(self) -> str:
        """For the corpus: text where the body is text, so that a difference can be read."""
        try:
            body = {"text": self.body.decode("utf-8", "strict")}
        except UnicodeDecodeError:
            body = {"base64": base64.b64encode(self.body).decode()}
        return json.dumps({"method": self.method, "headers": self.headers, "body": body}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Sent:
        """What `to_json` wrote."""
        given = json.loads(text)
        body = given["body"]
        data = body["text"].encode() if "text" in body else base64.b64decode(body["base64"])
        return cls(method=given["method"], headers=tuple((n, v) for n, v in given["headers"]), body=data)


def corpus() -> Iterator[tuple[str, Sent]]:
    """Every case that was ever found, by name."""
    for file in sorted(CORPUS.glob("*.json")):
        yield file.stem, Sent.from_json(file.read_text())


def keep(sent: Sent, why: str) -> Path:
    """Write a case down; the name says what disagreed."""
    text = sent.to_json()
    file = CORPUS / f"{why}-{hashlib.sha256(text.encode()).hexdigest()[:10]}.json"
    file.write_text(text)
    return file

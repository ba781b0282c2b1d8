"""Receivers of records that keep their vendors' rules of the wire, and fail at random: for tests of sinks.

Each takes what the vendor would take, refuses what it would refuse, with its statuses and words, and remembers what it keeps.
`Chaos` is what goes wrong on the way: connections that break before or after the work, errors, throttling, slowness.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import random
import re
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from socket import SO_LINGER, SOL_SOCKET
from urllib.parse import parse_qs, quote, unquote

from aiohttp import web
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from tests.ports import free_port

Handler = Callable[[web.Request], Awaitable[web.Response]]
POISON = "poison"
"""A tool of this name is what these receivers refuse for good, as a vendor would a record that does not fit its schema."""


@dataclass
class Chaos:
    """How much goes wrong. Each number is a probability of one request."""

    seed: int = 1
    cut_before: float = 0.06
    cut_after: float = 0.06
    error: float = 0.06
    throttled: float = 0.06
    slow: float = 0.05
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    async def serve(self, request: web.Request, handle: Handler) -> web.StreamResponse:
        roll = self.random.random()
        for what in ("cut_before", "error", "throttled", "slow", "cut_after"):
            roll -= getattr(self, what)
            if roll < 0:
                self.happened[what] += 1
                return await self._go_wrong(what, request, handle)
        return await handle(request)

    async def _go_wrong(self, what: str, request: web.Request, handle: Handler) -> web.StreamResponse:
        if what == "error":
            return web.Response(status=self.random.choice((500, 502, 503)), text="not now")
        if what == "throttled":
            return web.Response(status=429, headers={"Retry-After": "0"}, text="slower")
        if what == "slow":
            await asyncio.sleep(0.05)
            return await handle(request)
        if what == "cut_after":
            await handle(request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response(status=500)


CALM = {"cut_before": 0.0, "cut_after": 0.0, "error": 0.0, "throttled": 0.0, "slow": 0.0}


class HttpReceiver:
    """A receiver that listens. `url` is its base; `kept` counts by record id what it has kept."""

    prefix = "/"

    def __init__(self, chaos: Chaos | None = None) -> None:
        self.chaos = chaos or Chaos(**CALM)
        self.kept: Counter[str] = Counter()
        self.documents: dict[str, object] = {}
        self.faults: list[str] = []
        self.requests = 0
        self.is_away = False
        self.url = ""

    @contextlib.asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[HttpReceiver]:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        if self.is_away:
            return web.Response(status=503)
        await request.read()
        return await self.chaos.serve(request, self.handle)

    async def handle(self, request: web.Request) -> web.Response:
        raise NotImplementedError

    def keep(self, record_id: str, document: object) -> None:
        self.kept[record_id] += 1
        self.documents[record_id] = document

    def broke_a_rule(self, sentence: str) -> None:
        """Something that a well-made client never does; tests look here."""
        self.faults.append(sentence)


class SplunkCollector(HttpReceiver):
    """Splunk's HTTP Event Collector with acknowledgement: numbers by channel, each told once; events are lost before they are indexed."""

    TOKEN = "0f3c9a5e-1111-4222-8333-444455556666"

    def __init__(self, chaos: Chaos | None = None, *, loses: float = 0.0) -> None:
        super().__init__(chaos)
        self.loses = loses
        self.channels: dict[str, dict[int, list[dict[str, object]] | None]] = {}
        self.numbers: Counter[str] = Counter()

    async def handle(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Splunk {self.TOKEN}":
            return web.json_response({"text": "Invalid token", "code": 4}, status=403)
        channel = request.headers.get("X-Splunk-Request-Channel", "") or request.query.get("channel", "")
        if not channel:
            return web.json_response({"text": "Data channel is missing", "code": 10}, status=400)
        if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", channel):
            return web.json_response({"text": "Invalid data channel", "code": 11}, status=400)
        if request.path == "/services/collector/ack":
            return self._acks(channel, json.loads(await request.read()))
        assert request.path == "/services/collector/event"
        return self._events(channel, (await request.read()).decode())

    def _events(self, channel: str, text: str) -> web.Response:  # noqa: PLR0911 - one for each rule
        events, at = [], 0
        if len(text.encode()) > 1024 * 1024:
            return web.json_response({"text": "Content-Length too large", "code": 27}, status=413)
        while at < len(text):
            try:
                event, at = json.JSONDecoder().raw_decode(text, at)
            except ValueError:
                return web.json_response({"text": "Invalid data format", "code": 6, "invalid-event-number": len(events)}, status=400)
            at += len(text[at:]) - len(text[at:].lstrip())
            if not isinstance(event, dict) or not event.get("event"):
                return web.json_response({"text": "Event field is required", "code": 12, "invalid-event-number": len(events)}, status=400)
            if event.get("index") not in (None, "legation"):
                return web.json_response({"text": "Incorrect index", "code": 7, "invalid-event-number": len(events)}, status=400)
            if isinstance(event["event"], dict) and event["event"].get("tool") == POISON:
                return web.json_response({"text": "Invalid data format", "code": 6, "invalid-event-number": len(events)}, status=400)
            float(event["time"])
            if any(not isinstance(value, str | list) for value in event.get("fields", {}).values()):
                self.broke_a_rule("an indexed field is neither a text nor a list")
            events.append(event)
        if not events:
            return web.json_response({"text": "No data", "code": 5}, status=400)
        number = self.numbers[channel]
        self.numbers[channel] += 1
        lost = self.chaos.random.random() < self.loses
        self.channels.setdefault(channel, {})[number] = None if lost else events
        return web.json_response({"text": "Success", "code": 0, "ackId": number})

    def _acks(self, channel: str, question: dict[str, list[int]]) -> web.Response:
        answer = {}
        for number in question["acks"]:
            waiting = self.channels.get(channel, {})
            events = waiting.get(number)
            indexed = events is not None and self.chaos.random.random() < 0.6
            if indexed and events is not None:
                for event in events:
                    self.keep(str(event["fields"]["legation_id"]), event)  # type: ignore[index]
                del waiting[number]  # told once
            answer[str(number)] = indexed
        return web.json_response({"acks": answer})


class ElasticCluster(HttpReceiver):
    """The bulk API: an answer for each item, conflicts for ids that are there, items that are throttled alone."""

    API_KEY = "bGVnYXRpb246c2VjcmV0"

    def __init__(self, chaos: Chaos | None = None, *, throttles_items: float = 0.0, max_bytes: int = 100 * 1024 * 1024) -> None:
        super().__init__(chaos)
        self.throttles_items = throttles_items
        self.max_bytes = max_bytes
        self.conflicts = 0
        self.missing_index = False

    async def handle(self, request: web.Request) -> web.Response:  # noqa: PLR0911 - one for each rule
        if request.headers.get("Authorization") != f"ApiKey {self.API_KEY}":
            return _elastic_error(401, "security_exception", "unable to authenticate")
        body = await request.read()
        if request.path != "/_bulk" or request.method != "POST":
            return _elastic_error(405, "illegal_argument_exception", "no such path")
        if request.content_type not in ("application/x-ndjson", "application/json"):
            return _elastic_error(406, "media_type_header_exception", "wrong content type")
        if len(body) > self.max_bytes:
            return web.Response(status=413)
        if not body.endswith(b"\n"):
            return _elastic_error(400, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
        lines = body.split(b"\n")[:-1]
        if len(lines) % 2:
            return _elastic_error(400, "illegal_argument_exception", "Malformed action/metadata line")
        items = [self._item(json.loads(action), document) for action, document in zip(lines[::2], lines[1::2], strict=True)]
        return web.json_response({"errors": any("error" in item["create"] for item in items), "items": items})

    def _item(self, action: dict[str, dict[str, str]], line: bytes) -> dict[str, dict[str, object]]:
        (operation, where), document = next(iter(action.items())), json.loads(line)
        if operation != "create":
            self.broke_a_rule(f"a data stream takes 'create' only, not {operation!r}")
        datetime.fromisoformat(document["@timestamp"])
        if len(where["_id"].encode()) > 512:
            return _refused(400, "illegal_argument_exception", "id is too long, must be no longer than 512 bytes")
        if self.missing_index:
            return _refused(404, "index_not_found_exception", f"no such index [{where['_index']}]")
        if self.chaos.random.random() < self.throttles_items:
            return _refused(429, "es_rejected_execution_exception", "rejected execution of primary operation")
        if where["_id"] in self.kept:
            self.conflicts += 1
            return _refused(409, "version_conflict_engine_exception", "document already exists")
        if document.get("legation", {}).get("tool") == POISON:
            return _refused(400, "document_parsing_exception", "failed to parse field [legation.tool]")
        self.keep(where["_id"], document)
        return {"create": {"status": 201}}


def _elastic_error(status: int, kind: str, reason: str) -> web.Response:
    return web.json_response({"error": {"type": kind, "reason": reason}, "status": status}, status=status)


def _refused(status: int, kind: str, reason: str) -> dict[str, dict[str, object]]:
    return {"create": {"status": status, "error": {"type": kind, "reason": reason}}}


class SentinelEndpoint(HttpReceiver):
    """The Logs Ingestion API, and the token endpoint of Entra ID before it. A poisoned array is refused whole."""

    TENANT, CLIENT, SECRET = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000", "sent~inel secret"
    RULE, STREAM = "dcr-" + "0a" * 16, "Custom-Legation_CL"

    def __init__(self, chaos: Chaos | None = None) -> None:
        super().__init__(chaos)
        self.tokens: dict[str, int] = {}
        self.most_bytes = 0

    async def handle(self, request: web.Request) -> web.Response:
        if request.path.endswith("/oauth2/v2.0/token"):
            return self._token(request.path, parse_qs((await request.read()).decode()))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens.get(token, 0) <= 0:
            return _azure_error(401, "InvalidToken", "the token has expired")
        self.tokens[token] -= 1
        if request.path != f"/dataCollectionRules/{self.RULE}/streams/{self.STREAM}" or request.query.get("api-version") != "2023-01-01":
            return _azure_error(404, "NotFound", "Data collection rule was not found")
        if request.headers.get("Content-Encoding") != "gzip":  # aiohttp has decompressed it
            self.broke_a_rule("not compressed")
        body = await request.read()
        self.most_bytes = max(self.most_bytes, len(body))
        if len(body) > 1024 * 1024:
            return _azure_error(413, "ContentLengthLimitExceeded", "Maximum allowed content length: 1048576 bytes")
        rows = json.loads(body)
        if any(row["Tool"] == POISON for row in rows):
            return _azure_error(400, "InvalidPayload", "the payload does not fit the stream")
        for row in rows:
            if any(isinstance(value, str) and len(value.encode()) > 64 * 1024 for value in row.values()):
                self.broke_a_rule("a column is longer than 64 KiB and would be cut")
            datetime.fromisoformat(row["TimeGenerated"])
            self.keep(row["RecordId"], row)
        return web.Response(status=204)

    def _token(self, path: str, form: dict[str, list[str]]) -> web.Response:
        wanted = {
            "grant_type": ["client_credentials"],
            "client_id": [self.CLIENT],
            "client_secret": [self.SECRET],
            "scope": ["https://monitor.azure.com/.default"],
        }
        if path != f"/{self.TENANT}/oauth2/v2.0/token" or form != wanted:
            return web.json_response({"error": "invalid_client"}, status=401)
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = 20  # requests; then it counts as expired
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": 3600})


def _azure_error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)


class OtlpCollector(HttpReceiver):
    """OTLP/HTTP logs: a partial success says how many were rejected, and not which."""

    async def handle(self, request: web.Request) -> web.Response:
        if request.path != "/v1/logs" or request.content_type != "application/x-protobuf":
            return web.Response(status=415)
        if request.headers.get("x-api-key") != "otlp-secret":
            return web.Response(status=401)
        message = ExportLogsServiceRequest.FromString(await request.read())
        rejected = 0
        for resource in message.resource_logs:
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    attributes = {item.key: item.value.string_value for item in record.attributes}
                    if attributes.get("gen_ai.tool.name") == POISON:
                        rejected += 1
                    else:
                        self.keep(attributes["log.record.uid"], record)
        answer = ExportLogsServiceResponse()
        if rejected:
            answer.partial_success.rejected_log_records = rejected
            answer.partial_success.error_message = "log records are not valid"
        return web.Response(body=answer.SerializeToString(), content_type="application/x-protobuf")


class S3Bucket(HttpReceiver):
    """An S3-compatible store that checks each signature (AWS Signature Version 4) by the rules, from the request as it came."""

    ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

    def __init__(self, chaos: Chaos | None = None) -> None:
        super().__init__(chaos)
        self.objects: dict[str, bytes] = {}

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        if not self._is_signed(request, body):
            return web.Response(status=403, text="SignatureDoesNotMatch")
        bucket, _, key = unquote(request.rel_url.raw_path).lstrip("/").partition("/")
        if request.method != "PUT" or bucket != "records":
            return web.Response(status=404, text="NoSuchBucket")
        self.objects[key] = body
        return web.Response(status=200)

    def _is_signed(self, request: web.Request, body: bytes) -> bool:
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
            request.headers.get("Authorization", ""),
        )
        if found is None or found[1] != self.ACCESS_KEY:
            return False
        day, region, names = found[2], found[3], found[4].split(";")
        path = quote(unquote(request.rel_url.raw_path), safe="/-_.~")
        headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names)
        digest = request.headers["x-amz-content-sha256"]
        canonical = f"{request.method}\n{path}\n\n{headers}\n{found[4]}\n{digest}"
        scope = f"{day}/{region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = b"AWS4" + self.SECRET_KEY.encode()
        for part in (day, region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        wanted = hmac.digest(key, text.encode(), "sha256").hex()
        return {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names) and (found[5], digest) == (
            wanted,
            hashlib.sha256(body).hexdigest(),
        )


class CuttingProxy:
    """Stands between a sink and a server of TCP, and breaks connections at random: resets, and (where `ends`) orderly ends of its own."""

    def __init__(self, port: int, *, seed: int = 1, cuts: float = 0.3, ends: bool = False) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._cuts = cuts
        self._ends = ends
        self.port = free_port()
        self.cut: Counter[str] = Counter()
        self.connections = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[CuttingProxy]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        async with server:
            yield self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        doomed = self._random.random() < self._cuts
        budget = self._random.randrange(1, 120_000) if doomed else None
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._port)
        both = (
            asyncio.create_task(self._carry(reader, upstream_writer, budget)),
            asyncio.create_task(self._carry(upstream_reader, writer, None)),
        )
        try:
            if await both[0]:
                self._break(writer, upstream_writer)
            else:
                await both[1]
        except (ConnectionError, OSError):
            pass
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for side in (writer, upstream_writer):
                with contextlib.suppress(ConnectionError, OSError):
                    side.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> bool:
        """Whether the budget of bytes was used up."""
        while content := await reader.read(16384):
            if budget is not None:
                if len(content) >= budget:
                    writer.write(content[:budget])
                    return True
                budget -= len(content)
            writer.write(content)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        return False

    def _break(self, *writers: asyncio.StreamWriter) -> None:
        orderly = self._ends and self._random.random() < 0.5
        self.cut["ended" if orderly else "reset"] += 1
        for writer in writers:
            if not orderly:
                writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()

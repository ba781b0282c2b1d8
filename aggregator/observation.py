"""What the aggregator tells telemetry: one span per request that Envoy brings, one per call of a member, and how long each took.

    handle ──▶ `observing` (server span) ──▶ `described` (what is asked) ──▶ `answered_with` (an error, or that a tool says it failed)
    Upstream.call ──▶ `observed` (client span; its context goes on through the egress listener)

Telemetry that is off costs a look at a variable. Callers are told of by their kind only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from aggregator.asked import Asked
from aggregator.call import Call, Json, RpcError
from extauthz.catalog.virtual import DefinitionKind
from extauthz.mcp.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, MessageClass
from extauthz.telemetry import metric_name
from extauthz.telemetry import semantic_convention as names
from extauthz.telemetry.process import Telemetry
from extauthz.telemetry.span import Span, SpanKind, current
from extauthz.telemetry.trace_context import HEADER, parse_traceparent
from extauthz.virtual_request import CALL_TOOL, FIND_TOOL

_NOT_OURS = frozenset({-32700, -32600, METHOD_NOT_FOUND, INVALID_PARAMS, -32002, *range(40100, 40500)})
"""Errors that are the caller's, and so none of a server (semantic conventions of MCP), and denials."""
_CANCELLED = "cancelled"
_NAMED = {"tools/call": DefinitionKind.TOOL, "prompts/get": DefinitionKind.PROMPT}
_OURS = frozenset({FIND_TOOL, CALL_TOOL})
_LONGEST_ID = 64


class Operation:
    """A request, or a call of a member, under way. `span` is None when its trace is not kept."""

    __slots__ = ("error_type", "method", "span", "started")

    def __init__(self, span: Span | None, method: str = "") -> None:
        self.span = span
        self.method = method
        self.error_type = ""
        self.started = time.perf_counter()


_operation: ContextVar[Operation | None] = ContextVar("operation", default=None)


class Observation:
    """`telemetry` with anything on."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._tracer = telemetry.tracer
        metrics = telemetry.metrics
        self._served = metrics.histogram(metric_name.SERVER_DURATION) if metrics is not None else None
        self._called = metrics.histogram(metric_name.CLIENT_DURATION) if metrics is not None else None
        self._failed = metrics.counter(metric_name.UPSTREAM_FAILURES) if metrics is not None else None

    @web.middleware
    async def observing(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Around each request, but for those that ask how we are."""
        if request.path.startswith(("/healthz", "/readyz")):
            return await handler(request)
        before = current.get()
        span = None
        if self._tracer is not None:
            parent = parse_traceparent(request.headers.get(HEADER, ""))
            span = self._tracer.begin(request.method, SpanKind.SERVER, parent)
        operation = Operation(span)
        token = _operation.set(operation)
        try:
            response = await handler(request)
        except BaseException as error:
            operation.error_type = operation.error_type or _kind_of(error)
            raise
        else:
            if response.status >= 500 and not operation.error_type:
                _fail(operation, str(response.status))
            return response
        finally:
            _operation.reset(token)
            current.set(before)
            self._served_one(operation)

    def _served_one(self, operation: Operation) -> None:
        if self._served is not None and operation.method:
            self._served.record(time.perf_counter() - operation.started, (operation.method, operation.error_type))
        self._end(operation)

    async def observed(self, call: Call, work: Coroutine[Any, Any, Json]) -> Json:
        """`work`, which is the call of a member."""
        with self.calling(call):
            return await work

    @contextlib.contextmanager
    def calling(self, call: Call) -> Iterator[None]:
        """Around each call of a member."""
        before = current.get()
        operation = Operation(self._begin_call(call), call.method)
        try:
            yield
        except RpcError as error:
            _fail(operation, str(error.code), str(error.code))
            raise
        except BaseException as error:
            _fail(operation, _kind_of(error))
            raise
        finally:
            current.set(before)
            self._called_one(call, operation)

    def _begin_call(self, call: Call) -> Span | None:
        if self._tracer is None or current.get() is None:
            return None
        span = self._tracer.begin(call.method, SpanKind.CLIENT, current.get())
        if span is not None:
            target = _target(call.method, call.params)
            _describe_target(span, call.method, target if call.tool is not None or target in call.member.prompts else "")
            span.attributes[names.LEGATION_NAMESPACE] = call.member.namespace
            span.attributes[names.LEGATION_SERVER] = call.member.name
        return span

    def _called_one(self, call: Call, operation: Operation) -> None:
        place = (call.member.namespace, call.member.name)
        if self._called is not None:
            self._called.record(time.perf_counter() - operation.started, (call.method, *place, operation.error_type))
        if self._failed is not None and operation.error_type:
            self._failed.add((*place, operation.error_type))
        self._end(operation)

    def _end(self, operation: Operation) -> None:
        if operation.span is not None and self._tracer is not None:
            operation.span.attributes[names.ERROR_TYPE] = operation.error_type
            self._tracer.end(operation.span)


def described(asked: Asked) -> None:
    """It is known what is asked."""
    operation = _operation.get()
    if operation is None:
        return
    mcp, front, context = asked.mcp, asked.front, asked.context
    operation.method = mcp.method or (mcp.message_class.value if mcp.message_class is not None else "")
    span = operation.span
    if span is None:
        return
    attributes = span.attributes
    if operation.method:
        _describe_target(span, operation.method, _known_target(asked))
    namespace, _, name = front.id.partition("/")
    attributes[names.MCP_PROTOCOL_VERSION] = mcp.protocol_version
    if mcp.message_class is MessageClass.REQUEST:
        text = mcp.id_json.strip('"')
        attributes[names.JSONRPC_REQUEST_ID] = text if len(text) <= _LONGEST_ID and "eyJ" not in text else ""
    attributes[names.LEGATION_ERA] = mcp.era.value
    attributes[names.LEGATION_NAMESPACE] = namespace
    attributes[names.LEGATION_VIRTUAL_SERVER if front.is_virtual else names.LEGATION_SERVER] = front.id if front.is_virtual else name
    attributes[names.LEGATION_DECISION_ID] = context.decision_id
    attributes[names.LEGATION_REVISION] = context.revision
    attributes[names.LEGATION_PRINCIPAL_KIND] = context.principal.kind.value
    span.link(mcp.traceparent)


def answered_with(outcome: RpcError | Json) -> None:
    """The answer is an error, or a result that may say `isError`."""
    operation = _operation.get()
    if operation is None:
        return
    if isinstance(outcome, RpcError):
        if outcome.code in _NOT_OURS:
            if operation.span is not None:
                operation.span.attributes[names.RPC_RESPONSE_STATUS_CODE] = str(outcome.code)
        else:
            _fail(operation, str(outcome.code), str(outcome.code))
    elif outcome.get("isError") is True:
        _fail(operation, names.TOOL_ERROR)


def _fail(operation: Operation, error_type: str, status_code: str = "") -> None:
    operation.error_type = error_type
    if operation.span is not None:
        operation.span.error = error_type
        operation.span.attributes[names.RPC_RESPONSE_STATUS_CODE] = status_code


def _kind_of(error: BaseException) -> str:
    return _CANCELLED if isinstance(error, asyncio.CancelledError) else type(error).__name__


def _target(method: str, params: Mapping[str, object]) -> str:
    """The tool or prompt that is asked for."""
    name = params.get("name") if method in _NAMED else ""
    return name if isinstance(name, str) else ""


def _known_target(asked: Asked) -> str:
    """The same, where it is the name of something that is offered here; what callers make up is not told."""
    method = asked.mcp.method
    name = _target(method, asked.params)
    offered = name in asked.front.virtual_server.items[_NAMED[method]] if name else False
    return name if offered or name in _OURS else ""


def _describe_target(span: Span, method: str, target: str) -> None:
    span.name = f"{method} {target}".rstrip()
    span.attributes[names.MCP_METHOD_NAME] = method
    if method == "tools/call":
        span.attributes[names.GEN_AI_OPERATION_NAME] = names.EXECUTE_TOOL
        span.attributes[names.GEN_AI_TOOL_NAME] = target
    elif method == "prompts/get":
        span.attributes[names.GEN_AI_PROMPT_NAME] = target

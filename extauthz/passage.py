"""How an allowed request goes on: step (4) of a decision, after the credential is known. Envoy obeys it through `check`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from extauthz.catalog.server import Effect, McpServer, Tool
from extauthz.check_input import EGRESS_CONTEXT_HEADER, CheckInput
from extauthz.mcp.era import Era
from extauthz.mcp.request import McpRequest
from extauthz.session import SESSION_HEADER

LANE_DIRECT = "direct"
LANE_STREAM = "stream"
LANE_INSPECT = "inspect"
"""Like `direct`, but `process` sees the headers of the answer."""

LANE_AGGREGATE = "aggregate"
"""To an aggregator, which is told who asks by the signed context."""
AGGREGATOR_CLUSTER = "legation-aggregator"
AFFINITY_HEADER = "x-legation-affinity"
"""A digest of the caller, which leads to one aggregator as long as that lives."""

MAX_STREAM_SECONDS = 86_400
"""No lane keeps a stream open for longer (`LEGATION_MAX_STREAM_SECONDS`)."""

_RETRIES = (("x-envoy-retry-on", "connect-failure,refused-stream"), ("x-envoy-max-retries", "2"))
_RETRIES_AFTER_RESET = (("x-envoy-retry-on", "connect-failure,refused-stream,reset"), ("x-envoy-max-retries", "2"))
_SHORTEST_TOKEN = 16
_NOT_FOR_US = (":", "proxy-", "x-forwarded-")
_OF_THE_CONNECTION = frozenset({"connection", "content-length", "host", "keep-alive", "te", "transfer-encoding", "upgrade"})
"""Envoy lets no authorizer touch these (`xds.resources.listener`); none of them goes upstream as the client sent it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """How an allowed request goes on: the one cluster, the registered path, and the headers that the upstream gets."""

    cluster: str
    lane: str
    path: str
    set_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    remove_headers: tuple[str, ...] = ()
    session_binding: str = ""
    of_one: bool = False  # good for one session or one stream; others repeat themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a request has to do with a legacy session: one that it belongs to (`envelope`), one that its answer may open (`binding`)."""

    envelope: str = field(default="", repr=False)
    binding: str = ""


NO_SESSION = Session()


def make_passage(
    check: CheckInput,
    mcp_server: McpServer,
    tool: Tool | None,
    request: McpRequest,
    credential_headers: Sequence[tuple[str, str]],
    session: Session = NO_SESSION,
    *,
    stream_ms: int = 0,
) -> Passage:
    """The registered address and credential; the caller's own credentials stay here. A stream ends after `stream_ms`, if it says so."""
    remove = _not_passed_on(check, request, {name for name, _ in credential_headers})
    session_headers: tuple[tuple[str, str], ...] = ()
    if session.envelope:
        session_headers = ((SESSION_HEADER, session.envelope),)
    elif SESSION_HEADER in check.headers:
        remove.append(SESSION_HEADER)
    return Passage(
        cluster=mcp_server.cluster,
        lane=_lane(request, session),
        path=mcp_server.path,
        set_headers=(*credential_headers, *session_headers, *_resilience(mcp_server, tool, request, session, stream_ms)),
        remove_headers=tuple(remove),
        session_binding=session.binding,
        of_one=session is not NO_SESSION or bool(stream_ms),
    )


def make_aggregate_passage(
    check: CheckInput,
    path: str,
    request: McpRequest,
    context_header: str,
    affinity: str,
    *,
    timeout_ms: int = 0,
    repeatable: bool = False,
    keep_session: bool = True,
) -> Passage:
    """To an aggregator, at the address where the client asked, with the signed context instead of the caller's credentials.

    Sessions are the aggregator's own and pass as they are, unless they are not (`keep_session`). `timeout_ms` is of the whole answer;
    `repeatable`: another aggregator may be asked when the first one is gone.
    """
    set_headers = [(EGRESS_CONTEXT_HEADER, context_header), (AFFINITY_HEADER, affinity)]
    remove = _not_passed_on(check, request, {name for name, _ in set_headers})
    if not keep_session and SESSION_HEADER in check.headers:
        remove.append(SESSION_HEADER)
    if timeout_ms:
        set_headers.append(("x-envoy-upstream-rq-timeout-ms", str(timeout_ms)))
    set_headers += _RETRIES_AFTER_RESET if repeatable else _RETRIES
    return Passage(
        cluster=AGGREGATOR_CLUSTER,
        lane=LANE_AGGREGATE,
        path=path,
        set_headers=tuple(set_headers),
        remove_headers=tuple(remove),
        of_one=True,
    )


def _not_passed_on(check: CheckInput, request: McpRequest, set_names: Collection[str]) -> list[str]:
    """Headers of the client that go no further: its credentials, and copies of the message that nobody compared with it."""
    remove = [name for name in ("authorization", EGRESS_CONTEXT_HEADER) if name not in set_names and name in check.headers]
    if request.era is Era.LEGACY:
        # Legacy servers do not read these; a lying copy must not reach anything that does.
        remove += [name for name in check.headers if name in {"mcp-method", "mcp-name"} or name.startswith("mcp-param-")]
    return remove + _copies_of_the_token(check, set_names)


def _copies_of_the_token(check: CheckInput, set_names: Collection[str]) -> list[str]:
    """Headers into which the client put its access token once more: it stops here, wherever it stands."""
    access_token = check.headers.get("authorization", ("",))[0].rpartition(" ")[2]
    size = len(access_token)
    if size < _SHORTEST_TOKEN:
        return []
    copies = []
    for name, values in check.headers.items():
        for value in values:
            # the lengths settle nearly every header without a search
            if len(value) >= size and access_token in value and name != "authorization" and name not in set_names:
                if not name.startswith(_NOT_FOR_US) and name not in _OF_THE_CONNECTION:
                    copies.append(name)
                break
    return copies


def _lane(request: McpRequest, session: Session) -> str:
    if session.binding:
        return LANE_INSPECT
    return LANE_STREAM if request.streaming else LANE_DIRECT


def stream_limit_ms(expires_at_unix: float, now_unix: float) -> int:
    """How long a stream may go on whose caller's credential ends at `expires_at_unix`; 0 = its lane ends it before, or it has no end.

    Never 0 for what ends soon, since that would mean for ever.
    """
    remaining = expires_at_unix - now_unix
    if not expires_at_unix or remaining >= MAX_STREAM_SECONDS:
        return 0
    return max(1, int(remaining * 1000))


def _resilience(mcp_server: McpServer, tool: Tool | None, request: McpRequest, session: Session, stream_ms: int) -> list[tuple[str, str]]:
    """Timeouts and retries, as headers that only we can set. A connection that was never made is always safe to try again.

    The timeout is of the whole answer, all tries together. (`x-envoy-upstream-stream-duration-ms` begins anew with each try.)
    """
    headers: list[tuple[str, str]] = []
    timeout_ms = stream_ms if request.streaming else mcp_server.timeout_ms
    if timeout_ms:
        headers.append(("x-envoy-upstream-rq-timeout-ms", str(timeout_ms)))
    if session.envelope:
        return headers  # Envoy tries again elsewhere, and a session lives at one endpoint only
    return [*headers, *(_RETRIES_AFTER_RESET if is_repeatable(tool) else _RETRIES)]


def is_repeatable(tool: Tool | None) -> bool:
    """Whether a call of the tool may be made twice, by its accepted annotations."""
    return tool is not None and (tool.idempotent or tool.effect is Effect.READ)

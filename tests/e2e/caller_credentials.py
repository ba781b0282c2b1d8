"""Every kind of credential that a caller can hold, and what may happen to it on its way: for the search for leaks.

A new kind of credential is a function and a line in `GOOD` or `USELESS`; a new thing that may happen is a line in `FATES`. The function
gives what one request shows (`Shown`), and tells `world.remember` of everything about it that nobody but its owner may see. What
`world.http` sends and gets is remembered already.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mcp.client.auth.extensions.client_credentials import SignedJWTParameters
from mcp.shared.auth import OAuthToken

from tests.e2e.login_world import BOUND_CLIENT, CRM, GONE, KEY_CLIENT, OTHER, SECRET_CLIENT, WORKLOAD, LoginWorld, Tokens
from tests.e2e.stack import Answer, modern_headers, modern_request

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SEARCH = modern_request("tools/call", {"name": "search_contacts", "arguments": {"text": "nordvik"}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What one request shows of its caller: headers; with a client certificate also which listener, and how to connect to it."""

    headers: Mapping[str, str] = field(default_factory=dict)
    gateway_url: str = ""
    tls: ssl.SSLContext | None = None

    @property
    def credential(self) -> str:
        """What stands in the header, if there is one."""
        return self.headers.get("authorization", "").rpartition(" ")[2]


Show = Callable[[LoginWorld, str], Awaitable[Shown]]
"""What to show to a server (`namespace/name`), anew for each request."""


def bearer(credential: str) -> Shown:
    """Something, shown as an access token."""
    return Shown(headers={"authorization": f"Bearer {credential}"})


# (1) what callers can hold


async def token_of_a_person(world: LoginWorld, server: str) -> Shown:
    """Of a login in a browser, by the official SDK."""
    return bearer((await _logged_in(world, server)).access_token)


async def renewed_token(world: LoginWorld, server: str) -> Shown:
    """Bought with a refresh token."""
    if ("renewed", server) not in world.kept:
        tokens = await _logged_in(world, server)
        renewed = await world.grant(basic=world.kept["client", server], grant_type="refresh_token", refresh_token=str(tokens.refresh_token))
        world.kept["renewed", server] = renewed["access_token"]
    return bearer(world.kept["renewed", server])


async def token_for_a_secret(world: LoginWorld, server: str) -> Shown:
    """Of a client with a secret."""
    return bearer(await _granted(world, server, basic=(SECRET_CLIENT, world.client_secret)))


async def token_for_an_assertion(world: LoginWorld, server: str) -> Shown:
    """Of a client that signs."""
    proven = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": await _assertion(world)}
    return bearer(await _granted(world, server, client_id=KEY_CLIENT, **proven))


async def bound_token_with_its_proof(world: LoginWorld, server: str) -> Shown:
    """DPoP: a token that is good with a proof only, and a new proof for each request."""
    key = world.proof_key
    if ("bound", server) not in world.kept:
        proof = key.proof("", url=f"{world.issuer}/token", ath=...)
        world.kept["bound", server] = await _granted(world, server, basic=(BOUND_CLIENT, world.client_secret), proof=proof)
    token = world.kept["bound", server]
    proof = key.proof(token, url=world.stack.endpoint(server))
    world.remember("DPoP proof", proof)
    return Shown(headers={"authorization": f"DPoP {token}", "dpop": proof})


async def token_of_the_development_issuer(world: LoginWorld, server: str) -> Shown:
    """For trials on one machine."""
    token = world.stack.token("ann", server=server, groups=("sales",), scope="crm:use")
    world.remember("development token", token)
    return bearer(token)


async def jwt_svid(world: LoginWorld, server: str) -> Shown:
    """Of a workload, as a token."""
    svid = world.workloads.jwt_svid(WORKLOAD, audience=world.stack.endpoint(server))
    world.remember("JWT-SVID", svid)
    return bearer(svid)


GOOD: Mapping[str, Show] = {
    "token of a person": token_of_a_person,
    "renewed token": renewed_token,
    "token for a secret": token_for_a_secret,
    "token for an assertion": token_for_an_assertion,
    "bound token with its proof": bound_token_with_its_proof,
    "token of the development issuer": token_of_the_development_issuer,
    "JWT-SVID": jwt_svid,
}
"""Good for `demo/crm`, when they are shown there."""


async def x509_svid(world: LoginWorld, server: str) -> Shown:
    """Of a workload, on the connection: only its key is secret."""
    svid = world.workloads.x509_svid(WORKLOAD)
    world.remember("key of an X.509-SVID", svid.key_pem)
    return Shown(gateway_url=f"https://127.0.0.1:{world.tls_port}", tls=world.shows_certificate(svid))


async def jwt_svid_beside_x509_svid(world: LoginWorld, server: str) -> Shown:
    """One workload that shows both."""
    shown = await x509_svid(world, server)
    svid = world.workloads.jwt_svid(WORKLOAD, audience=f"{shown.gateway_url}/servers/{server}/mcp")
    world.remember("JWT-SVID", svid)
    return replace(shown, headers=bearer(svid).headers)


BY_CERTIFICATE: Mapping[str, Show] = {"X.509-SVID": x509_svid, "JWT-SVID beside X.509-SVID": jwt_svid_beside_x509_svid}
"""Good for every server that the workload may use; what is shown in no header cannot be forged there or shown elsewhere."""


async def refresh_token(world: LoginWorld, server: str) -> Shown:
    """It buys tokens and is none."""
    return bearer(str((await _logged_in(world, server)).refresh_token))


async def client_secret(world: LoginWorld, server: str) -> Shown:
    """As a token."""
    return bearer(world.client_secret)


async def client_secret_as_password(world: LoginWorld, server: str) -> Shown:
    """As some clients show it to the provider."""
    encoded = base64.b64encode(f"{SECRET_CLIENT}:{world.client_secret}".encode()).decode()
    return Shown(headers={"authorization": f"Basic {encoded}"})


async def client_assertion(world: LoginWorld, server: str) -> Shown:
    """A signed JWT, for somebody else."""
    return bearer(await _assertion(world))


async def stolen_bound_token(world: LoginWorld, server: str) -> Shown:
    """Without its proof."""
    shown = await bound_token_with_its_proof(world, server)
    return bearer(shown.credential)


async def administrators_token(world: LoginWorld, server: str) -> Shown:
    """Good for the API and for no MCP server."""
    return Shown(headers=world.stack.admin_headers())


USELESS: Mapping[str, Show] = {
    "refresh token": refresh_token,
    "client secret": client_secret,
    "client secret as password": client_secret_as_password,
    "client assertion": client_assertion,
    "stolen bound token": stolen_bound_token,
    "administrator's token": administrators_token,
}
"""Secrets that are no good for a call, and that a confused client shows nevertheless."""


async def _logged_in(world: LoginWorld, server: str) -> OAuthToken:
    if ("login", server) not in world.kept:
        tokens = Tokens()
        async with world.browser("ann") as browser, world.http(world.login(server, browser, tokens)) as http:
            await http.post(world.stack.endpoint(server), json=SEARCH, headers=modern_headers("tools/call", "search_contacts"))
        assert tokens.current is not None
        assert tokens.client is not None
        world.kept["login", server] = tokens.current
        world.kept["client", server] = (tokens.client.client_id, str(tokens.client.client_secret))
    current: OAuthToken = world.kept["login", server]
    return current


async def _granted(world: LoginWorld, server: str, **form: Any) -> str:
    asked = {"grant_type": "client_credentials", "scope": "crm:use", "resource": world.stack.endpoint(server), **form}
    return str((await world.grant(**asked))["access_token"])


async def _assertion(world: LoginWorld) -> str:
    signed = SignedJWTParameters(issuer=KEY_CLIENT, subject=KEY_CLIENT, signing_key=world.client_key_pem, signing_algorithm="ES256")
    assertion = await signed.create_assertion_provider()(world.issuer)
    world.remember("client assertion", assertion)
    return assertion


# (2) what may happen to them

Send = Callable[[LoginWorld, Show], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """One way of a request: what a good credential gets, and how to send it."""

    status: int
    send: Send


def call(
    status: int,
    tool: str = "search_contacts",
    *,
    server: str = CRM,
    shown_for: str = "",
    path: str = "/servers/{server}/mcp",
    method: str = "POST",
    data: str = "",
    headers: Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    request_id: str = "1",
    change: Callable[[Shown], Shown] = lambda shown: shown,
) -> Fate:
    """A call of a modern client. `{credential}` in any text is what the caller shows; `shown_for` is another server than `server`."""

    async def send(world: LoginWorld, show: Show) -> Answer:
        held = await show(world, shown_for or server)
        shown = change(held)
        said = {"server": server, "credential": held.credential}
        body = modern_request("tools/call", {"name": tool.format(**said), "arguments": arguments or {"text": "nordvik"}})
        body["id"] = request_id.format(**said)
        more = {name: value.format(**said) for name, value in (headers or {}).items()}
        given = modern_headers("tools/call", tool.format(**said)) | more | dict(shown.headers)
        url = (shown.gateway_url or world.stack.gateway_url) + path.format(**said)
        options: dict[str, Any] = {"ssl": shown.tls} if shown.tls else {}
        options |= {"data": data.format(**said)} if data else {"json": body}
        async with world.stack.session.request(method, url, headers=given, **options) as response:
            return Answer(status=response.status, headers=response.headers, text=await response.text())

    return Fate(status=status, send=send)


def _forged(shown: Shown) -> Shown:
    """One character is another."""
    at = len(shown.headers["authorization"]) - 20
    before = shown.headers["authorization"]
    other = "A" if before[at] != "A" else "B"
    return replace(shown, headers={**shown.headers, "authorization": before[:at] + other + before[at + 1 :]})


_EVERYWHERE = {
    "cookie": "session={credential}",
    "proxy-authorization": "Bearer {credential}",
    "referer": "http://page.example/?t={credential}",
    "x-access-token": "{credential}",
    "baggage": "token={credential}",
}

FATES_OF_CERTIFICATES = (
    *("allowed", "denied", "lacking a scope", "to a server that is gone", "with a broken body", "with a body that is too long"),
    "by another method",
)

FATES: Mapping[str, Fate] = {
    "allowed": call(200),
    "denied": call(403, "delete_contact", arguments={"contact_id": "c-1001"}),
    "lacking a scope": call(403, "update_contact", arguments={"contact_id": "c-1001"}),
    "to a server that is gone": call(502, "echo", server=GONE),
    "to another server": call(401, server=OTHER, shown_for=CRM),
    "to no server": call(401, server="demo/nobody", shown_for=CRM),
    "forged": call(401, change=_forged),
    "with a broken body": call(
        400, data='{{"jsonrpc": "2.0", "id": 1, "method": "{credential}', headers={"content-type": "application/json"}
    ),
    "with a body that is too long": call(413, arguments={"text": "x" * 500_000}),
    "by another method": call(405, method="PUT"),
    "and shown everywhere": call(200, headers=_EVERYWHERE, path="/servers/{server}/mcp?hint={credential}"),
    "as the name of a client": call(200, headers={"user-agent": "client/{credential}"}),
    "as the name of a tool": call(403, "{credential}"),
    "as the id of a request": call(400, request_id="{credential}"),
    "as a path": call(404, path="/servers/demo/{credential}/mcp"),
    "in the query alone": call(
        401, path="/servers/{server}/mcp?access_token={credential}", change=lambda shown: replace(shown, headers={})
    ),
}

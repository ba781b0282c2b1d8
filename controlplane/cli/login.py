"""`login` and `logout`: from a gateway's address to a session in the file of contexts, and back.

gateway ─▶ issuer ─▶ browser, device code or client credentials ─▶ the gateway takes the token ─▶ the context is written
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from controlplane.cli.context_file import NAME, Context, Contexts, Session
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import note, printable, say, say_document, warn

if TYPE_CHECKING:
    from controlplane.cli.issuer import IssuerMetadata, ProtectedApi
    from controlplane.cli.token_endpoint import TokenEndpoint

_LONG_LIVED_SCOPES = ("openid", "offline_access")
_CREDENTIALS = "client-credentials"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options of `login`; what was not said comes from the context, where there is one already."""

    client_id: str | None
    issuer: str | None
    grant: str | None
    scopes: tuple[str, ...]
    audience: str | None
    resource: bool | None
    client_secret_file: Path | None


@click.command(cls=Command)
@click.option("--client-id", envvar="LEGATION_CLIENT_ID", metavar="ID", help="The OAuth client that the provider knows this program as.")
@click.option("--issuer", metavar="URL", help="The provider, where the gateway trusts several (default: the only one).")
@click.option("--browser", "grant", flag_value="browser", help="Log in with the browser of this machine (default).")
@click.option("--device", "grant", flag_value="device", help="Log in with a browser elsewhere, by a code.")
@click.option(
    "--client-credentials", "grant", flag_value=_CREDENTIALS, help="Log in as the client itself, with LEGATION_CLIENT_SECRET. For CI."
)
@click.option(
    "--client-secret-file", type=click.Path(path_type=Path, dir_okay=False), help="A file with the client's secret; its path is remembered."
)
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Ask for this scope (default: those that the gateway names).")
@click.option("--audience", metavar="TEXT", help="Send `audience`, for providers that want it (Auth0).")
@click.option("--resource/--no-resource", default=None, help="Whether to say that the token is for this gateway (default: yes).")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port of this machine that the browser comes back to.")
@click.option("--no-browser", is_flag=True, help="Only print where to go.")
@pass_invocation
def login(invocation: Invocation, /, *, port: int, no_browser: bool, **options: object) -> int:
    """Log in to the deployment at --gateway-url, or again to that of a context, which becomes the current one."""
    wishes = Wishes(**options)  # type: ignore[arg-type] # click has checked them
    name, context = wanted_context(invocation, wishes, invocation.context_file().read())
    context, metadata = _prepared(context, wishes)
    session = _session(context, metadata, port=port, no_browser=no_browser)
    _try(context, session)
    context = replace(context, session=session)
    invocation.context_file().change(lambda contexts: contexts.with_entry(name, context, current=True))
    _say(invocation, name, context)
    if not session.refresh_token and context.grant != _CREDENTIALS:
        note(f"{context.issuer} gave no refresh token: log in again when the access token is over", "faint")
    if invocation.deployment.state_file.exists() and not invocation.context:
        note(f"a deployment runs in this folder and comes first here: say --context {name}", "faint")
    return Outcome.DONE


@click.command(cls=Command)
@pass_invocation
def logout(invocation: Invocation) -> int:
    """Revoke the login of the current context, or of --context, at the provider, and forget it here."""
    file = invocation.context_file()
    name = invocation.context or file.read().current
    if not name:
        raise CommandError("there is no current context", remedy="name one with --context; `legation context list` shows them")
    file.read().get(name)
    return forget(invocation, name, lambda contexts: contexts.with_entry(name, replace(contexts.get(name), session=None)))


def forget(invocation: Invocation, name: str, edit: Callable[[Contexts], Contexts]) -> int:
    """Revoke what the context holds and then `edit` it away; it goes whether the provider answers or not."""
    from controlplane.cli.issuer import read_issuer_metadata  # noqa: PLC0415 - http.client and ssl cost 40 ms
    from controlplane.cli.operator_session import endpoint_of  # noqa: PLC0415

    file = invocation.context_file()
    revoked, fault = False, ""
    with file.locked(f"renewal-{name}"):  # a renewal under way would bring a token that nobody revokes
        context = file.read().get(name)
        if context.session is not None:
            try:
                metadata = read_issuer_metadata(context.issuer, gateway_url=context.gateway_url)
                revoked = endpoint_of(context, metadata).revoke(context.session)
            except CommandError as error:
                fault = error.what
        file.change(edit)
    if invocation.for_machines:
        say_document({"context": name, "revoked": revoked}, invocation.output)
    elif context.session is None:
        say(f"nobody was logged in with the context {name}")
    else:
        say(f"logged out of the context {name}")
    if fault:
        warn(f"forgotten here, but not revoked at the provider: {fault}")
        return Outcome.NO
    if context.session is not None and not revoked:
        note(f"{context.issuer} revokes no token of this login: each ends by itself", "faint")
    return Outcome.DONE


def wanted_context(invocation: Invocation, wishes: Wishes, contexts: Contexts) -> tuple[str, Context]:
    """The context that a login is about, and its name: a known one as changed by what was said, or a new one."""
    gateway_url = invocation.gateway_url.rstrip("/")
    name = invocation.context or _name_of(gateway_url, contexts) or contexts.current
    known = contexts.entries.get(name)
    if known is not None and gateway_url and known.gateway_url != gateway_url:
        raise CommandError(f"the context {name} is for {known.gateway_url}", remedy="choose another name with --context")
    if not NAME.fullmatch(name or "x"):
        raise CommandError(f"{name!r} is no name for a context: letters, digits, `-`, `.` and `_`, at most 63")
    gateway_url = gateway_url or (known.gateway_url if known is not None else "")
    if not gateway_url:
        raise CommandError("say where to log in", remedy="legation login --gateway-url https://gateway.example.com --client-id ID")
    invocation.protected(gateway_url)
    known = known or Context(gateway_url=gateway_url, issuer="", client_id="")
    return name, _changed(known, wishes)


def _name_of(gateway_url: str, contexts: Contexts) -> str:
    """The name of the context for this gateway; a new one is called after the host."""
    if not gateway_url:
        return ""
    found = [name for name, context in contexts.entries.items() if context.gateway_url == gateway_url]
    return found[0] if len(found) == 1 else re.sub(r"[^A-Za-z0-9._]+", "-", urlsplit(gateway_url).netloc).strip("-._")[:63]


def _changed(known: Context, wishes: Wishes) -> Context:
    grant = wishes.grant or known.grant
    client_id = wishes.client_id or known.client_id
    if not client_id:
        raise CommandError(
            "say which OAuth client this program is at the provider",
            remedy='--client-id ID; docs/identity.md, "Operators", says how to make one',
        )
    secret_file = str(wishes.client_secret_file.absolute()) if wishes.client_secret_file else known.client_secret_file
    return replace(
        known,
        client_id=client_id,
        grant=grant,
        scopes=wishes.scopes or (known.scopes if grant == known.grant else ()),
        audience=known.audience if wishes.audience is None else wishes.audience,
        resource=known.resource if wishes.resource is None else wishes.resource,
        client_secret_file=secret_file,
    )


def _prepared(context: Context, wishes: Wishes) -> tuple[Context, IssuerMetadata]:
    """The context with its issuer and scopes, which gateway and issuer were asked for."""
    from controlplane.cli.issuer import chosen_issuer, read_issuer_metadata, read_protected_api  # noqa: PLC0415 - see `forget`
    from controlplane.cli.token_endpoint import SECRET_VARIABLE, client_secret_of  # noqa: PLC0415

    secret = client_secret_of(context)
    if context.grant == _CREDENTIALS and not secret:
        raise CommandError("there is no client secret", remedy=f"set {SECRET_VARIABLE}, or name a file with --client-secret-file")
    if secret and not (wishes.issuer or context.issuer):
        raise CommandError(
            "say whose client secret it is: it is sent to no issuer that only the gateway names", remedy="name the provider with --issuer"
        )
    api = read_protected_api(context.gateway_url)
    issuer = chosen_issuer(api, wishes.issuer or context.issuer)
    metadata = read_issuer_metadata(issuer, gateway_url=context.gateway_url)
    return replace(context, issuer=issuer, scopes=context.scopes or _first_scopes(context, api, metadata)), metadata


def _first_scopes(context: Context, api: ProtectedApi, metadata: IssuerMetadata) -> tuple[str, ...]:
    """What the gateway names, and what makes a login last, where the provider knows it."""
    lasting = () if context.grant == _CREDENTIALS else tuple(scope for scope in _LONG_LIVED_SCOPES if scope in metadata.scopes)
    return tuple(dict.fromkeys((*lasting, *api.scopes)))


def _session(context: Context, metadata: IssuerMetadata, *, port: int, no_browser: bool) -> Session:
    from controlplane.cli.operator_session import endpoint_of, target_of  # noqa: PLC0415 - see `forget`

    endpoint, target = endpoint_of(context, metadata), target_of(context)
    asked = {"scope": " ".join(context.scopes), **target}
    if "offline_access" in context.scopes:
        asked["prompt"] = "consent"  # OpenID Connect Core section 11: otherwise the scope may be ignored
    if context.grant == _CREDENTIALS:
        return endpoint.tokens("client_credentials", {name: value for name, value in asked.items() if name != "prompt"})
    if context.grant == "device":
        from controlplane.cli.device_login import log_in_with_device  # noqa: PLC0415 - one of three ways

        return log_in_with_device(endpoint, asked, {name: value for name, value in target.items() if name == "resource"})
    return _with_browser(endpoint, asked, target, port=port, no_browser=no_browser)


def _with_browser(endpoint: TokenEndpoint, asked: Mapping[str, str], target: Mapping[str, str], *, port: int, no_browser: bool) -> Session:
    import webbrowser  # noqa: PLC0415 - one of three ways

    from controlplane.cli.browser_login import log_in_with_browser  # noqa: PLC0415 - http.server costs 20 ms

    parameters = {"client_id": endpoint.client_id, **asked}
    open_page = (lambda _: False) if no_browser else webbrowser.open
    grant = log_in_with_browser(endpoint.metadata, parameters, port=port, open_page=open_page)
    further = {"resource": target["resource"]} if "resource" in target else {}
    return endpoint.tokens(
        "authorization_code",
        {"code": grant.code, "redirect_uri": grant.redirect_uri, "code_verifier": grant.code_verifier, **further},
    )


def _try(context: Context, session: Session) -> None:
    """Whether the gateway takes the token: better said now than by the next command."""
    from controlplane.client import ApiClient, ApiError  # noqa: PLC0415 - see `forget`

    with ApiClient(context.gateway_url, lambda: session.access_token) as api:
        try:
            api.get("/v1/status")
        except ApiError as error:
            if error.status == 403:
                warn("the gateway knows you, but no RoleBinding gives you a legation: role yet")
            elif error.status == 401:
                raise CommandError(
                    f"{context.issuer} issued a token, but the gateway refuses it: {error.detail} ({error.code})",
                    remedy=f"the token's audience must be {context.gateway_url}/v1, or one of spec.audiences; nothing was kept",
                    outcome=Outcome.REFUSED,
                ) from error
            else:
                raise


def _say(invocation: Invocation, name: str, context: Context) -> None:
    session = context.session
    if session is None:
        return
    if invocation.for_machines:
        say_document(
            {
                "context": name,
                "gateway_url": context.gateway_url,
                "issuer": context.issuer,
                "subject": session.subject,
                "expires_at": datetime.fromtimestamp(session.expires_at, UTC).isoformat(timespec="seconds"),
                "renewable": bool(session.refresh_token),
            },
            invocation.output,
        )
        return
    whom = f" as {session.subject}" if session.subject else ""
    say(printable(f"logged in to {context.gateway_url}{whom}; the current context is {name}"), "good")

"""What every command knows: which deployment, as whom, and how to print. Made from the global options.

The options may stand before or after the command (`legation --data-dir D get …`, `legation get … --data-dir D`).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import warn
from extauthz.runtime import Deployment, deployment_of

if TYPE_CHECKING:
    from controlplane.cli.context_file import Context, ContextFile
    from controlplane.client import ApiClient

START_HINT = "start a deployment with `legation up`, or log in to one: legation login --gateway-url URL --client-id ID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """The global options of one run. `chosen` are the names of those that were given, on the command line or in the environment."""

    chosen: frozenset[str] = frozenset()
    context: str = ""
    data_dir: Path = Path(".legation")
    gateway_url: str = ""
    token_file: Path | None = None
    output: str = "table"
    no_color: bool = False
    insecure_http: bool = False

    @property
    def deployment(self) -> Deployment:
        """The paths of the data directory."""
        return deployment_of(self.data_dir)

    @property
    def for_machines(self) -> bool:
        """Whether standard output must hold nothing but JSON or YAML."""
        return self.output != "table"

    def reachable_gateway_url(self) -> str:
        """The gateway's public URL: as given, else that of the context, else as the running deployment of the data directory says."""
        name = self.context_in_use()
        if name:
            return self.protected(self._entry(name).gateway_url)
        return self.protected(self.gateway_url.rstrip("/") or self._running_gateway_url())

    def protected(self, gateway_url: str) -> str:
        """`gateway_url`, unless tokens would cross the network in clear on the way there."""
        if urlsplit(gateway_url).scheme == "http" and not is_loopback(gateway_url) and not self.insecure_http:
            raise CommandError(
                f"{gateway_url} is neither https nor this machine: the access token would cross the network in clear",
                remedy="use an https:// address, or --insecure-http for a trial",
            )
        return gateway_url

    def context_in_use(self) -> str:
        """The name of the context that this run is about; empty when it is about a gateway or a data directory.

        What was named counts. Else the deployment that runs in this folder does, and only then the current context: a command that
        was meant for a trial here must not reach another deployment.
        """
        elsewhere = self.chosen & {"gateway_url", "data_dir"}
        if self.context:
            gateway_url = self._entry(self.context).gateway_url
            if "data_dir" in elsewhere or self.gateway_url.rstrip("/") not in ("", gateway_url):
                options = " and ".join(_OPTION[name] for name in sorted(elsewhere))
                raise CommandError(
                    f"the context {self.context} and {options} name two deployments",
                    remedy="leave one of them out; LEGATION_CONTEXT, LEGATION_GATEWAY_URL and LEGATION_DATA_DIR count too",
                )
            return self.context
        if elsewhere or self.deployment.state_file.exists():
            return ""
        return self.context_file().read().current

    @staticmethod
    def context_file() -> ContextFile:
        """The contexts of this user."""
        from controlplane.cli.context_file import context_file  # noqa: PLC0415 - most runs need none

        return context_file()

    def _entry(self, name: str) -> Context:
        return self.context_file().read().get(name)

    def _running_gateway_url(self) -> str:
        state_file = self.deployment.state_file
        try:
            state = json.loads(state_file.read_text())
            return str(state["gateway_url"]).rstrip("/")
        except FileNotFoundError as error:
            raise CommandError(f"no deployment is running in {self.data_dir}", remedy=START_HINT, outcome=Outcome.UNREACHABLE) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CommandError(f"{state_file} cannot be read: {error}", remedy=START_HINT, outcome=Outcome.UNREACHABLE) from error

    def api(self) -> ApiClient:
        """The API of this deployment, as the operator whose credential is at hand."""
        from controlplane.client import ApiClient  # noqa: PLC0415 - http.client and ssl cost 40 ms

        gateway_url = self.reachable_gateway_url()
        return ApiClient(gateway_url, self._operator_token(gateway_url))

    def _operator_token(self, gateway_url: str) -> Callable[[], str]:
        token_file = self.token_file
        if token_file is not None:
            return lambda: read_token_file(token_file)
        name = self.context_in_use()
        if name:
            from controlplane.cli.operator_session import access_token_of  # noqa: PLC0415 - contexts only

            return lambda: access_token_of(self.context_file(), name, gateway_url)
        credential_file = self.deployment.admin_credential_file
        if not credential_file.exists():
            raise CommandError(
                f"there is no credential: {credential_file} does not exist",
                remedy="log in with `legation login`, or name the data directory (--data-dir) or a token file (--token-file)",
            )

        def mint() -> str:
            from controlplane.development_issuer import mint_token  # noqa: PLC0415 - cryptography costs 100 ms

            return mint_token(credential_file, subject="", audience=f"{gateway_url}/v1", ttl_seconds=300)

        return mint


def is_loopback(gateway_url: str) -> bool:
    """Whether `gateway_url` is an address of this machine only."""
    host = urlsplit(gateway_url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token_file(token_file: Path) -> str:
    """The access token in `token_file`."""
    try:
        warn_if_others_can_read(token_file)
        return token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the token file {token_file} cannot be read: {error}") from error


def warn_if_others_can_read(file: Path) -> None:
    """Say it when a secret file is open to other users."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return
    if mode & 0o077:
        warn(f"{file} can be read by other users (mode {mode:04o}); run: chmod 600 {file}")


_OPTION = {"data_dir": "--data-dir", "gateway_url": "--gateway-url"}
pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


class Command(click.Command):
    """A command that also takes the global options, and whose return value is the exit code."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - click's own signature
        options.setdefault("epilog", "Global options (legation --help) may also stand here.")
        super().__init__(*args, **options)
        self.params.extend(global_options(after_command=True))


def global_options(*, after_command: bool) -> list[click.Parameter]:
    """The options every command takes; environment variables count before the command only, so that the nearer one wins."""

    def option(*names: str, envvar: str = "", **details: Any) -> click.Option:  # noqa: ANN401 - click's own signature
        hidden = after_command and "--output" not in names
        return click.Option(
            names, envvar=None if after_command or not envvar else envvar, expose_value=False, callback=_remember, hidden=hidden, **details
        )

    return [
        option(
            "--context", envvar="LEGATION_CONTEXT", metavar="NAME", help="A deployment that you logged in to (`legation context list`)."
        ),
        option(
            "--data-dir",
            envvar="LEGATION_DATA_DIR",
            type=click.Path(path_type=Path, file_okay=False),
            help="The deployment's directory (default ./.legation).",
        ),
        option(
            "--gateway-url", envvar="LEGATION_GATEWAY_URL", metavar="URL", help="A deployment elsewhere, e.g. https://gateway.example.com."
        ),
        option(
            "--token-file",
            envvar="LEGATION_TOKEN_FILE",
            type=click.Path(path_type=Path, dir_okay=False),
            help="A file that holds the operator's access token (default: the data directory's administrator).",
        ),
        option("-o", "--output", type=click.Choice(["table", "yaml", "json"]), help="table (default), yaml or json."),
        option("--no-color", is_flag=True, default=None, help="No colours (NO_COLOR does the same)."),
        option("--insecure-http", is_flag=True, default=None, help="Send the access token to another machine without TLS."),
    ]


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is None or parameter.name is None or context.resilient_parsing:
        return
    known = context.find_object(Invocation) or Invocation()
    changed: dict[str, Any] = {parameter.name: value, "chosen": known.chosen | {parameter.name}}
    context.obj = dataclasses.replace(known, **changed)
    if parameter.name == "no_color" and value:
        context.color = False

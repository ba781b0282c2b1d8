"""Real SPIRE on this host: servers, agents, registration entries, federation, rotation of authorities.

with SpireServer(programs(), "prod.example") as server, server.agent() as agent:
    server.register("/agents/buyer", "unix:path:/usr/bin/buyer")     # whoever runs that program is spiffe://prod.example/agents/buyer
    agent.address                                                    # Workload API and SDS v3 on one socket

Everything is done by SPIRE's own command line. Directories are short, since a Unix socket's path has 107 characters, and private.
The processes die with the test process (see `controlplane.launch`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from controlplane.launch import launched
from tests.ports import free_port

START_SECONDS = 60.0
PATIENCE_SECONDS = 60.0
COMMAND_SECONDS = 60
STOP_SECONDS = 20.0
HOST = "/host"
"""The path of every agent's alias: entries have it as their parent, so that they survive a new agent."""
SYNC_INTERVAL = "500ms"
"""How often an agent asks its server for what changed (SPIRE's own value is 5 s)."""

Profile = Literal["https_spiffe", "https_web"]

SERVER_CONFIG = """
server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{directory}/server.sock"
    trust_domain = "{trust_domain}"
    data_dir = "{directory}"
    log_level = "INFO"
    ca_key_type = "ec-p256"
    ca_ttl = "{ca_ttl}"
    default_x509_svid_ttl = "{x509_svid_ttl}"
    default_jwt_svid_ttl = "{jwt_svid_ttl}"
    federation {{
        bundle_endpoint {{
            address = "127.0.0.1"
            port = {bundle_port}
            refresh_hint = "1m"
            profile "{profile}" {{ {serving} }}
        }}
    }}
}}
plugins {{
    DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{directory}/datastore.sqlite3" }} }}
    KeyManager "memory" {{ plugin_data {{}} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""

AGENT_CONFIG = """
agent {{
    data_dir = "{directory}"
    log_level = "INFO"
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = "{directory}/agent.sock"
    trust_bundle_path = "{directory}/bootstrap.pem"
    trust_domain = "{trust_domain}"
    join_token = "{join_token}"
    experimental {{ sync_interval = "{sync_interval}" }}
}}
plugins {{
    KeyManager "memory" {{ plugin_data {{}} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"""


class SpireError(Exception):
    """SPIRE did not do what it was told; the text is its own."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Programs:
    """Where the two programs are."""

    server: Path
    agent: Path


@dataclass(kw_only=True, frozen=True, slots=True)
class LocalAuthorities:
    """The ids of a server's X.509 authorities; "" where there is none."""

    active: str
    prepared: str
    old: str


class _Running:
    """One process with its directory and log, stopped whatever happens."""

    def __init__(self, name: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"spire-{name}-"))
        self.log_file = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self, command: Sequence[str | Path], healthy: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> None:
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                launched(tuple(str(part) for part in command)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(environ or {})},
                start_new_session=True,
            )  # fmt: skip
        try:
            eventually(lambda: self._healthy(healthy), seconds=START_SECONDS, what="health")
        except BaseException as error:
            log_text = self.log_file.read_text()[-3000:]
            self._stop()
            self._remove()
            raise SpireError(f"{command[0]} did not start: {log_text}") from error

    def _healthy(self, command: Sequence[str | Path]) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise SpireError(f"ended with {self._process.returncode}")
        return subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS, check=False).returncode == 0

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class SpireServer(_Running):
    """A SPIRE server: one trust domain, with a bundle endpoint.

    Lifetimes are SPIRE's own texts ("60s"). `https_web` needs `serving`, the files of a chain and of a key that browsers would trust;
    `trusted_roots` is a PEM file of whom the server itself trusts as a client of such endpoints.
    """

    def __init__(
        self,
        programs: Programs,
        trust_domain: str = "prod.example",
        *,
        profile: Profile = "https_spiffe",
        serving: tuple[Path, Path] | None = None,
        trusted_roots: Path | None = None,
        ca_ttl: str = "24h",
        x509_svid_ttl: str = "1h",
        jwt_svid_ttl: str = "5m",
    ) -> None:
        super().__init__("server")
        self.programs = programs
        self.trust_domain = trust_domain
        self.profile = profile
        self.port, self._bundle_port = free_port(), free_port()
        self._environ = {} if trusted_roots is None else {"SSL_CERT_FILE": str(trusted_roots)}
        config = SERVER_CONFIG.format(
            directory=self.directory,
            port=self.port,
            bundle_port=self._bundle_port,
            trust_domain=trust_domain,
            profile=profile,
            serving="" if serving is None else _serving_certificate(*serving),
            ca_ttl=ca_ttl,
            x509_svid_ttl=x509_svid_ttl,
            jwt_svid_ttl=jwt_svid_ttl,
        )
        (self.directory / "server.conf").write_text(config)

    @property
    def id(self) -> str:
        """The SPIFFE ID of the trust domain."""
        return f"spiffe://{self.trust_domain}"

    @property
    def bundle_endpoint_url(self) -> str:
        return f"https://localhost:{self._bundle_port}"

    @property
    def endpoint_spiffe_id(self) -> str:
        """Whose certificate the bundle endpoint shows with the profile https_spiffe."""
        return f"{self.id}/spire/server"

    def __enter__(self) -> SpireServer:
        self._start(
            [self.programs.server, "run", "-config", self.directory / "server.conf"],
            [self.programs.server, "healthcheck", "-socketPath", self.directory / "server.sock"],
            self._environ,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._remove()

    def command(self, *words: str | Path) -> str:
        """One command of `spire-server` (`entry create`, ...), to this server; returns what it printed."""
        return _run(self.programs.server, *words, socket_path=self.directory / "server.sock")

    def shell(self, line: str, **environ: str) -> str:
        """One line as an operator types it, with `spire-server` on the PATH and `$SPIRE_DIR`."""
        path = f"{self.programs.server.parent}:{os.environ['PATH']}"
        known = {**os.environ, **environ, "PATH": path, "SPIRE_DIR": str(self.directory)}
        finished = subprocess.run(["sh", "-c", line], env=known, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
        if finished.returncode != 0:
            raise SpireError(f"{line}: {finished.stderr.strip() or finished.stdout.strip()}")
        return finished.stdout

    def agent(self) -> SpireAgent:
        """An agent of this server, to be entered."""
        return SpireAgent(self)

    def join_token(self) -> str:
        """A token with which one agent may join, once."""
        printed = self.command("token", "generate", "-spiffeID", self.id + HOST)
        return re.search(r"Token: (\S+)", printed)[1]  # type: ignore[index]

    def register(
        self,
        path: str,
        *selectors: str,
        x509_svid_ttl_seconds: int = 0,
        jwt_svid_ttl_seconds: int = 0,
        federates_with: Sequence[SpireServer] = (),
        dns: Sequence[str] = (),
    ) -> str:
        """Register a workload: whoever has all of the selectors gets this identity. Returns the entry's id."""
        words = ["-parentID", self.id + HOST, "-spiffeID", self.id + path]
        words += ["-x509SVIDTTL", str(x509_svid_ttl_seconds), "-jwtSVIDTTL", str(jwt_svid_ttl_seconds)]
        words += [word for selector in selectors for word in ("-selector", selector)]
        words += [word for other in federates_with for word in ("-federatesWith", other.id)]
        words += [word for name in dns for word in ("-dns", name)]
        printed = self.command("entry", "create", *words)
        return re.search(r"Entry ID\s*: (\S+)", printed)[1]  # type: ignore[index]

    def unregister(self, entry_id: str) -> None:
        """Take an entry away: the identity is not renewed."""
        self.command("entry", "delete", "-entryID", entry_id)

    # -- bundles --

    def bundle_pem(self) -> str:
        """The X.509 authorities of this trust domain."""
        return self.command("bundle", "show", "-format", "pem")

    def bundle_document(self) -> dict[str, Any]:
        """The SPIFFE bundle document of this trust domain."""
        document: dict[str, Any] = json.loads(self.command("bundle", "show", "-format", "spiffe"))
        return document

    def federate(self, other: SpireServer) -> None:
        """Trust `other` from now on: its bundle as it is, and its bundle endpoint for whatever changes."""
        bootstrap = self.directory / f"{other.trust_domain}.json"
        bootstrap.write_text(json.dumps(other.bundle_document()))
        words: list[str | Path] = ["-trustDomain", other.trust_domain, "-bundleEndpointURL", other.bundle_endpoint_url]
        words += ["-bundleEndpointProfile", other.profile]
        if other.profile == "https_spiffe":
            words += ["-endpointSpiffeID", other.endpoint_spiffe_id]
        words += ["-trustDomainBundlePath", bootstrap, "-trustDomainBundleFormat", "spiffe"]
        self.command("federation", "create", *words)

    def refresh(self, other: SpireServer) -> None:
        """Ask the bundle endpoint of `other` now."""
        self.command("federation", "refresh", "-id", other.trust_domain)

    # -- rotation of X.509 authorities --

    def authorities(self) -> LocalAuthorities:
        """Which authority signs, which one will, which one did."""
        shown = json.loads(self.command("localauthority", "x509", "show", "-output", "json"))
        active, prepared, old = ((shown.get(state) or {}).get("authority_id", "") for state in ("active", "prepared", "old"))
        return LocalAuthorities(active=active, prepared=prepared, old=old)

    def prepare(self) -> str:
        """A new authority stands in the bundle; the old one still signs. Returns its id."""
        self.command("localauthority", "x509", "prepare")
        return self.authorities().prepared

    def activate(self) -> str:
        """The prepared authority signs from now on. Returns the id of the one that did before."""
        self.command("localauthority", "x509", "activate", "-authorityID", self.authorities().prepared)
        return self.authorities().old

    def taint(self, authority_id: str) -> None:
        """Agents have everything renewed that the old authority signed."""
        self.command("localauthority", "x509", "taint", "-authorityID", authority_id)

    def revoke(self, authority_id: str) -> None:
        """A tainted authority leaves the bundle: what it signed is no longer trusted."""
        self.command("localauthority", "x509", "revoke", "-authorityID", authority_id)


class SpireAgent(_Running):
    """A SPIRE agent: attests whoever opens its socket by the kernel's word, and gives it its identities."""

    def __init__(self, server: SpireServer) -> None:
        super().__init__("agent")
        self._server = server

    @property
    def socket_path(self) -> Path:
        """Workload API and SDS v3."""
        return self.directory / "agent.sock"

    @property
    def address(self) -> str:
        """What SPIFFE_ENDPOINT_SOCKET would say."""
        return f"unix:{self.socket_path}"

    def __enter__(self) -> SpireAgent:
        server = self._server
        (self.directory / "bootstrap.pem").write_text(server.bundle_pem())
        config = AGENT_CONFIG.format(
            directory=self.directory,
            port=server.port,
            trust_domain=server.trust_domain,
            join_token=server.join_token(),
            sync_interval=SYNC_INTERVAL,
        )
        (self.directory / "agent.conf").write_text(config)
        self._start(
            [server.programs.agent, "run", "-config", self.directory / "agent.conf"],
            [server.programs.agent, "healthcheck", "-socketPath", self.socket_path],
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._remove()

    def command(self, *words: str | Path) -> str:
        """One command of `spire-agent` (`api fetch x509`, ...): as this test process, which is attested like any other."""
        return _run(self._server.programs.agent, *words, socket_path=self.socket_path)


def eventually(probe: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS, interval: float = 0.1, what: str = "") -> Any:
    """Wait until `probe` returns something true; its last answer is in the failure. Blocks: for use outside of an event loop."""
    deadline = time.monotonic() + seconds
    answer: Any = None
    while time.monotonic() < deadline:
        answer = probe()
        if answer:
            return answer
        time.sleep(interval)
    raise AssertionError(f"{what or probe} did not hold within {seconds} s; last answer: {answer!r}")


def _serving_certificate(chain: Path, key: Path) -> str:
    return f'serving_cert_file {{ cert_file_path = "{chain}", key_file_path = "{key}", file_sync_interval = "1m" }}'


def _run(program: Path, *words: str | Path, socket_path: Path) -> str:
    arguments = [str(word) for word in words]
    at = next((index for index, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    command = [str(program), *arguments[:at], "-socketPath", str(socket_path), *arguments[at:]]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    if finished.returncode != 0:
        raise SpireError(f"{' '.join(command)}: {finished.stderr.strip() or finished.stdout.strip()}")
    return finished.stdout

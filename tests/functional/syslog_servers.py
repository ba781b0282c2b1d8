"""Real syslog servers for tests: rsyslog (with each of its TLS drivers) and syslog-ng, from packages of Debian that are only unpacked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import toolchain
from tests.pki import TestAuthority
from tests.ports import free_port

RSYSLOG = ("rsyslog", "rsyslog-gnutls", "rsyslog-openssl", "libestr0", "libfastjson4", "liblognorm5")
SYSLOG_NG = ("syslog-ng-core", "libivykis0", "libnet1", "libjson-c5", "libpcre3", "libwrap0")
KINDS = ("rsyslog-gtls", "rsyslog-ossl", "syslog-ng")
_START_SECONDS = 60.0

RSYSLOG_CONFIGURATION = """
global(workDirectory="{directory}" maxMessageSize="64k" defaultNetstreamDriver="{driver}" defaultNetstreamDriverCAFile="{directory}/ca.pem"
       defaultNetstreamDriverCertFile="{directory}/server.crt" defaultNetstreamDriverKeyFile="{directory}/server.key")
module(load="{modules}/imtcp" streamDriver.name="{driver}" streamDriver.mode="1" streamDriver.authMode="anon")
input(type="imtcp" port="{port}" ruleset="legation")
template(name="line" type="list") {{
  property(name="msg" format="jsonf" outname="message") constant(value=", ")
  property(name="structured-data" format="jsonf" outname="data") constant(value=", ")
  property(name="app-name" format="jsonf" outname="program") constant(value=", ")
  property(name="hostname" format="jsonf" outname="host") constant(value=", ")
  property(name="syslogfacility-text" format="jsonf" outname="facility") constant(value=", ")
  property(name="msgid" format="jsonf" outname="msgid") constant(value="\\n")
}}
ruleset(name="legation") {{ action(type="omfile" file="{directory}/received" template="line") }}
"""

SYSLOG_NG_CONFIGURATION = """@version: 3.38
options {{ log-msg-size(65536); }};
source legation {{ syslog(ip("127.0.0.1") port({port}) transport("tls") tls(key-file("{directory}/server.key")
    cert-file("{directory}/server.crt") ca-file("{directory}/ca.pem") peer-verify(optional-untrusted))); }};
destination file {{ file("{directory}/received" template("$(format-json message=$MESSAGE data=$SDATA program=$PROGRAM host=$HOST
    facility=$FACILITY msgid=$MSGID)\\n")); }};
log {{ source(legation); destination(file); }};
"""


@dataclass(frozen=True, kw_only=True)
class SyslogServer:
    """One that listens with TLS, for 127.0.0.1, by the authority's certificate."""

    kind: str
    port: int
    directory: Path
    authority: TestAuthority

    def received(self) -> list[dict[str, Any]]:
        """Every message, as the server has parsed it: `message`, `data` (structured data), `program`, `host`, `facility`, `msgid`."""
        file = self.directory / "received"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line if line.startswith("{") else "{" + line + "}") for line in lines]


@contextlib.contextmanager
def syslog_server(kind: str, directory: Path) -> Iterator[SyslogServer]:
    """A running server of one of `KINDS`; skips, with the reason, where it cannot be had."""
    try:
        root = toolchain.debian_packages(*(SYSLOG_NG if kind == "syslog-ng" else RSYSLOG))
    except toolchain.UnavailableError as error:
        pytest.skip(f"no {kind} here: {error}")
    directory.mkdir(parents=True, exist_ok=True)
    authority, port = TestAuthority(), free_port()
    (directory / "ca.pem").write_bytes(authority.pem)
    authority.issue("127.0.0.1").write(directory, "server")
    libraries = root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    paths = (libraries, root / "lib" / f"{platform.machine()}-linux-gnu", root / "usr" / "lib" / "syslog-ng")
    command = _syslog_ng(root, directory, port) if kind == "syslog-ng" else _rsyslog(root, libraries, directory, port, kind)
    environ = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, paths))}
    with (directory / "output").open("wb") as output, subprocess.Popen(command, env=environ, stdout=output, stderr=output) as process:
        try:
            _wait(port, process, directory)
            yield SyslogServer(kind=kind, port=port, directory=directory, authority=authority)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _rsyslog(root: Path, libraries: Path, directory: Path, port: int, kind: str) -> list[str]:
    file, modules = directory / "rsyslog.conf", libraries / "rsyslog"
    values = {"directory": directory, "driver": kind.removeprefix("rsyslog-"), "modules": modules, "port": port}
    file.write_text(RSYSLOG_CONFIGURATION.format(**values))
    return [str(root / "usr/sbin/rsyslogd"), "-n", "-i", str(directory / "pid"), "-f", str(file), "-M", str(modules)]


def _syslog_ng(root: Path, directory: Path, port: int) -> list[str]:
    file = directory / "syslog-ng.conf"
    file.write_text(SYSLOG_NG_CONFIGURATION.format(directory=directory, port=port))
    modules = next((root / "usr/lib/syslog-ng").glob("[0-9]*"))
    state = ["-R", str(directory / "persist"), "-p", str(directory / "pid"), "-c", str(directory / "control")]
    return [str(root / "usr/sbin/syslog-ng"), "-F", "-f", str(file), *state, "--no-caps", f"--module-path={modules}"]


def _wait(port: int, process: subprocess.Popen[bytes], directory: Path) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            said = (directory / "output").read_text(errors="replace")[-500:]
            assert process.poll() is None, f"it ended with {process.returncode}: {said}"
            assert time.monotonic() < give_up_at, f"it does not listen: {said}"
            time.sleep(0.05)
        else:
            return


async def settled(server: SyslogServer, count: int) -> list[dict[str, Any]]:
    """What has been received, when there are messages with so many different structured data, or nothing comes any more."""
    give_up_at = time.monotonic() + _START_SECONDS
    while True:
        found = await asyncio.to_thread(server.received)
        if len({message["data"] for message in found}) >= count or time.monotonic() > give_up_at:
            return found
        await asyncio.sleep(0.2)

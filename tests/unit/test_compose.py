"""`compose.yaml` is a Compose file, and keeps what the project promises about containers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"] == "legation"}


def test_the_file_fits_the_schema_of_the_compose_specification() -> None:
    schema = json.loads((Path(__file__).parent / "schemas" / "compose-spec.json").read_text())

    errors = [f"{'/'.join(str(part) for part in error.path)}: {error.message}" for error in Draft7Validator(schema).iter_errors(COMPOSE)]

    assert errors == []


def test_only_the_gateway_is_published_and_only_on_the_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published == {"envoy": ["127.0.0.1:8080:8080"]}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_container_can_write_its_image_or_gain_rights(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"].split(":")[0] not in {"", "0", "root"}
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service


def test_processes_speak_tls_to_each_other() -> None:
    for name in ("control-plane", "authorizer", "aggregator", "envoy"):
        environment = SERVICES[name]["environment"]

        assert environment["LEGATION_TLS_CERT_FILE"] == f"/certificates/{name}.crt"
        assert {"LEGATION_TLS_KEY_FILE", "LEGATION_TLS_CA_FILE"} <= set(environment)
    assert "LEGATION_INSECURE" not in (ROOT / "compose.yaml").read_text()


def test_everything_that_is_named_exists() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        for network in service.get("networks", []):
            assert network in COMPOSE["networks"]
        for other in service.get("depends_on", {}):
            assert other in SERVICES


def test_a_service_that_others_wait_for_can_say_that_it_is_healthy() -> None:
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]


def test_the_sample_servers_cannot_reach_our_own_processes() -> None:
    for name in ("crm", "engineering-db"):
        assert SERVICES[name]["networks"] == ["upstreams"]
    assert COMPOSE["networks"]["upstreams"]["internal"] is True


def test_the_image_runs_as_nobody_and_is_built_in_two_stages() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()

    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) == 2
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)

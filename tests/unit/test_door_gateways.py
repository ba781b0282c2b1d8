"""The names of Gateways: which URL a call is for, and that the names of one are not served by the listener of another."""

from __future__ import annotations

import pytest

from extauthz.catalog.gateway import GatewayNames
from extauthz.door import Door
from extauthz.errors import Reason

SETTINGS = Door(gateway_url="http://127.0.0.1:8080", extra_hosts=("old.example",), allowed_origins=("https://portal.example",))
GATEWAYS = (
    GatewayNames(name="default", url="https://gw.example", hostnames=("alias.example", "*.tenants.example")),
    GatewayNames(name="partners", url="https://partners.example:8443", hostnames=("partners.internal:8443",)),
)
DOOR = SETTINGS.at(GATEWAYS)


def entered(host: str, gateway: str = "", origin: str = "") -> tuple[str, Reason | None]:
    place = DOOR.enter("ingress", "POST", "/servers/demo/crm/mcp", host, {"origin": [origin]} if origin else {}, gateway)
    assert place is not None
    return place.resource_url.removesuffix("/servers/demo/crm/mcp"), place.refused


@pytest.mark.parametrize(
    ("gateway", "host", "url"),
    [
        ("", "gw.example", "https://gw.example"),
        ("", "GW.example", "https://gw.example"),
        ("", "alias.example", "https://gw.example"),
        ("", "acme.tenants.example", "https://gw.example"),
        ("", "127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("", "localhost:9999", "http://127.0.0.1:8080"),
        ("", "old.example", "http://127.0.0.1:8080"),
        ("partners", "partners.example:8443", "https://partners.example:8443"),
        ("partners", "partners.internal:8443", "https://partners.example:8443"),
    ],
)
def test_a_call_is_for_the_url_of_the_gateway_that_its_host_names(gateway: str, host: str, url: str) -> None:
    assert entered(host, gateway) == (url, None)


@pytest.mark.parametrize(
    ("gateway", "host"),
    [
        ("", "partners.example:8443"),
        ("", "partners.internal:8443"),
        ("partners", "gw.example"),
        ("partners", "alias.example"),
        ("partners", "127.0.0.1:8080"),
        ("partners", "old.example"),
        ("partners", "partners.example"),
        ("", "a.b.tenants.example"),
        ("", "tenants.example"),
        ("", "*.tenants.example"),
        ("", "a@b.tenants.example"),
        ("", ".tenants.example"),
        ("unknown", "gw.example"),
        ("unknown", ""),
        ("", ""),
    ],
)
def test_a_name_is_served_by_the_listener_of_its_own_gateway_alone(gateway: str, host: str) -> None:
    assert entered(host, gateway)[1] is Reason.HOST_REFUSED


@pytest.mark.parametrize(
    ("gateway", "host", "origin", "refused"),
    [
        ("", "gw.example", "https://gw.example", None),
        ("", "gw.example", "https://portal.example", None),
        ("", "gw.example", "http://127.0.0.1:8080", Reason.ORIGIN_REFUSED),
        ("", "127.0.0.1:8080", "http://localhost:3000", None),
        ("", "127.0.0.1:8080", "https://gw.example", Reason.ORIGIN_REFUSED),
        ("partners", "partners.example:8443", "https://portal.example", None),
        ("partners", "partners.example:8443", "https://gw.example", Reason.ORIGIN_REFUSED),
    ],
)
def test_pages_are_those_of_the_gateway_that_was_called(gateway: str, host: str, origin: str, refused: Reason | None) -> None:
    assert entered(host, gateway, origin)[1] is refused


def test_a_gateway_without_a_url_of_its_own_has_that_of_the_settings() -> None:
    door = SETTINGS.at((GatewayNames(name="default", url="", hostnames=("alias.example",)),))

    assert door.base_url("alias.example") == "http://127.0.0.1:8080"
    assert door.refuse_foreign("alias.example", ()) is None


def test_a_door_is_made_once_for_each_revision_and_a_later_one_forgets_the_earlier() -> None:
    assert SETTINGS.at(GATEWAYS) is SETTINGS.at(tuple(GATEWAYS))
    assert SETTINGS.at(()).refuse_foreign("gw.example", ()) is Reason.HOST_REFUSED
    assert SETTINGS.at(GATEWAYS).refuse_foreign("gw.example", ()) is None


def test_what_our_own_processes_ask_for_has_the_url_of_the_default_gateway() -> None:
    place = DOOR.enter("egress", "POST", "/servers/demo/crm/mcp", "egress", {})

    assert place is not None
    assert (place.refused, place.resource_url) == (None, "https://gw.example/servers/demo/crm/mcp")

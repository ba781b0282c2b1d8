"""Our names of OpenTelemetry's semantic conventions are those of the pinned release."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import version

import opentelemetry.semconv._incubating.attributes as incubating_attributes
import opentelemetry.semconv.attributes as stable_attributes
from opentelemetry.semconv._incubating.attributes.gen_ai_attributes import GenAiOperationNameValues
from opentelemetry.semconv._incubating.metrics import mcp_metrics
from opentelemetry.semconv.metrics import http_metrics

from extauthz.telemetry import semantic_convention as names


def published() -> set[str]:
    """Every attribute and metric of the release."""
    found: set[str] = set()
    for package in (stable_attributes, incubating_attributes):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            found |= texts_of(importlib.import_module(module.name))
    return found | texts_of(mcp_metrics) | texts_of(http_metrics)


def texts_of(module: object) -> set[str]:
    return {value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}


def ours() -> dict[str, str]:
    """Names, not values."""
    values = {"EXECUTE_TOOL", "PINNED", "SERVICE", "TOOL_ERROR"}
    return {name: value for name, value in vars(names).items() if name.isupper() and isinstance(value, str) and name not in values}


def test_the_installed_release_is_the_pinned_one() -> None:
    assert version("opentelemetry-semantic-conventions") == names.PINNED


def test_every_name_that_is_not_ours_is_published() -> None:
    foreign = {value for value in ours().values() if not value.startswith("legation.")}

    assert not foreign - published()


def test_our_own_names_are_in_no_convention() -> None:
    own = {value for value in ours().values() if value.startswith("legation.")}

    assert own
    assert not own & published()


def test_a_constant_is_called_as_its_value_reads() -> None:
    assert {name: value.replace(".", "_").upper() for name, value in ours().items()} == {name: name for name in ours()}


def test_the_operation_of_a_tool_call_is_the_published_one() -> None:
    assert GenAiOperationNameValues.EXECUTE_TOOL.value == names.EXECUTE_TOOL


def test_no_span_can_hold_what_is_opt_in() -> None:
    """Arguments, results, resource URIs and bearer-like session ids are told by nobody."""
    opt_in = {"gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "mcp.session.id", "client.address"}

    assert not opt_in & set(ours().values())

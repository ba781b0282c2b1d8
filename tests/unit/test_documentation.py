"""What the documents say is what the code does: settings, errors, audit fields, dependencies, make targets."""

from __future__ import annotations

import dataclasses
import re
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

from aggregator.result_record import RESULT_REASONS
from aggregator.settings import AggregatorSettings
from controlplane.api.problems import ProblemCode
from controlplane.audit.finding import FindingCode
from controlplane.envoy_process import EnvoySettings
from controlplane.registry.refusal import RegistryRefusal
from controlplane.settings import ControlPlaneSettings
from extauthz.answer import TOLD
from extauthz.audit.alarm import AlarmReason
from extauthz.audit.edge_line import EDGE_REASONS
from extauthz.audit.outcome import OUTCOME_REASONS
from extauthz.authorizer_settings import OF_OTHER_PROCESSES, AuthorizerSettings
from extauthz.errors import Reason
from extauthz.settings import variables_of
from extauthz.v1 import audit_pb2

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def rows(file: str) -> dict[str, list[str]]:
    """Table rows by the code in their first column."""
    return {
        cells[0].strip("`"): cells
        for line in (DOCS / file).read_text().splitlines()
        if line.startswith("| `") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }


PROCESSES = {
    "control plane": ControlPlaneSettings,
    "authorizer": AuthorizerSettings,
    "aggregator": AggregatorSettings,
    "Envoy": EnvoySettings,
}


def test_every_setting_is_documented_with_its_default_and_its_readers_and_no_other() -> None:
    text = (DOCS / "settings.md").read_text().split("## Of the command line")[0]
    cells_of = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")]
    told = {cells[0].strip("`"): cells for cells in cells_of}
    declared: dict[str, dict[str, str]] = {}
    for process, cls in PROCESSES.items():
        for field in dataclasses.fields(cls):
            declared.setdefault(field.metadata["env"], {})[process] = default_of(field)

    assert set(told) == set(declared)
    for variable, readers in declared.items():
        _, default, told_readers, meaning = told[variable]
        assert [reader.strip() for reader in told_readers.split(",")] == list(readers), variable
        assert meaning, variable
        wanted = {value for value in readers.values() if value}
        if variable.startswith("LEGATION_TLS_"):
            continue  # one process may do without, another may not; the page says it in words
        assert {part.strip().strip("`") for part in default.split(",") if part.strip()} == wanted, variable


def default_of(field: dataclasses.Field[object]) -> str:
    """The default as people write it."""
    if field.default is dataclasses.MISSING:
        return "must be set"
    if field.default in (None, (), ""):
        return ""
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)


def test_the_authorizer_knows_which_settings_belong_to_others() -> None:
    own = variables_of(AuthorizerSettings)

    assert variables_of(*PROCESSES.values()) - own == OF_OTHER_PROCESSES


def errors_of(part: int) -> dict[str, list[str]]:
    """The tables of errors.md: (0) the authorizer's, (1) Envoy's, (2) the API's."""
    on_mcp, on_api = (DOCS / "errors.md").read_text().split("## On the API")
    texts = [*on_mcp.split("### Edge")[0].split("Envoy answers in the same form"), on_api]
    cells_of = [[cell.strip() for cell in line.strip("|").split("|")] for line in texts[part].splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells for cells in cells_of}


def test_every_reason_is_documented_and_no_other() -> None:
    assert set(errors_of(0)) == {reason.value for reason in Reason}


def errors_of_envoy() -> dict[str, int]:
    """Reason and code of what Envoy answers by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's remarks about generated code
        from controlplane.xds.resources.local_reply import LOCAL_ERRORS  # noqa: PLC0415
    return {error.reason: error.code for error in LOCAL_ERRORS}


def test_every_error_of_envoy_is_documented_with_its_code_and_no_other() -> None:
    documented = {reason: cells[2] for reason, cells in errors_of(1).items()}

    assert documented == {reason: str(code) for reason, code in errors_of_envoy().items()} | {"gateway_error": "-32603"}


def test_every_reason_of_an_edge_rejected_event_is_documented_and_no_other() -> None:
    edge = (DOCS / "errors.md").read_text().split("### Edge")[1].split("### Outcomes")[0]

    assert re.findall(r"^\| `(\w+)` \|", edge, re.MULTILINE) == sorted(EDGE_REASONS)


def test_every_reason_of_an_outcome_is_documented_and_no_other() -> None:
    outcomes = (DOCS / "errors.md").read_text().split("### Outcomes")[1].split("### Results")[0]

    assert re.findall(r"^\| `(\w+)` \|", outcomes, re.MULTILINE) == sorted(OUTCOME_REASONS)


def test_every_reason_of_a_result_is_documented_and_no_other() -> None:
    results = (DOCS / "errors.md").read_text().split("### Results")[1].split("## On the API")[0]

    assert re.findall(r"^\| `(\w+)` \|", results, re.MULTILINE) == sorted(RESULT_REASONS)


def test_every_finding_of_a_verification_is_documented_and_no_other() -> None:
    proof = (DOCS / "audit.md").read_text().split("### Export and verify")[1]

    assert re.findall(r"^\| `(\w+)` \|", proof, re.MULTILINE)[: len(FindingCode)] == sorted(FindingCode)


def test_every_problem_of_the_api_is_documented_with_its_status_and_no_other() -> None:
    refusals = {cls.code: str(cls.status) for cls in RegistryRefusal.__subclasses__()}
    documented = errors_of(2)

    assert set(documented) == set(refusals) | {code.value for code in ProblemCode}
    assert {code: cells[1] for code, cells in documented.items() if code in refusals} == refusals


def test_no_two_failures_share_a_code_of_ours_unless_they_mean_the_same() -> None:
    authorizers = {told.code for reason, told in TOLD.items() if told.code > 50_300}

    assert not authorizers & set(errors_of_envoy().values())


def test_the_documented_status_and_code_of_a_refusal_are_those_that_are_sent() -> None:
    documented = errors_of(0)
    for reason, told in TOLD.items():
        cells = documented[reason.value]

        assert (cells[1], cells[2]) == (str(told.status), str(told.code)), reason


def test_every_audit_field_is_documented_and_no_other() -> None:
    text = (DOCS / "audit-fields.md").read_text()
    sections = dict(zip(re.findall(r"^## (\w+)$", text, re.MULTILINE), re.split(r"^## \w+$", text, flags=re.MULTILINE)[1:], strict=True))
    expected = {
        **{
            name: [field.name for field in message.fields]
            for name, message in audit_pb2.DESCRIPTOR.message_types_by_name.items()
            if name.startswith("Audit")
        },
        "Events": [value.name for value in audit_pb2.AuditEvent.DESCRIPTOR.values if value.number],
        "Decisions": [value.name for value in audit_pb2.AuditDecision.DESCRIPTOR.values if value.number],
        "Alarms": [reason.value for reason in AlarmReason],
    }
    for section, names in expected.items():
        assert re.findall(r"^\| `(\w+)` \|", sections[section], re.MULTILINE) == names


def test_every_dependency_is_documented_with_its_licence_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name_of(requirement) for requirement in _requirements(project)}
    documented = {name.lower(): cells for name, cells in rows("dependencies.md").items()}

    assert set(documented) == declared
    assert all(cells[3] for cells in documented.values())


def _requirements(project: dict[str, object]) -> Iterator[str]:
    dependencies, optional = project["dependencies"], project["optional-dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(optional, dict)
    yield from dependencies
    for extra in optional.values():
        yield from extra


def name_of(requirement: str) -> str:
    """The distribution of a requirement."""
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower()


def test_every_local_link_leads_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert not broken


def test_the_readme_names_only_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z0-9-]+)\b", (ROOT / "README.md").read_text()))

    assert named <= targets | {"it", "sure"}


def test_every_control_of_owasp_is_mapped_and_every_test_named_there_exists() -> None:
    text = (DOCS / "owasp.md").read_text()
    controls = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith(("| 10.", "| MCP"))]
    wanted = [f"10.{chapter}.{number}" for chapter, last in ((1, 3), (2, 7), (3, 5), (4, 9)) for number in range(1, last + 1)]

    assert controls == [*wanted, *(f"MCP{number:02}" for number in range(1, 11))]
    named = set(re.findall(r"`(tests/[^`]+)`", text))
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []
    unshown = [line for line in text.splitlines() if "| held" in line and "`tests/" not in line]
    assert unshown == []

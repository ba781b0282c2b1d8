"""`legation usage`: as a table, for machines, for spreadsheets, and as a Parquet file."""

from __future__ import annotations

import builtins
import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from controlplane.cli.main import legation
from controlplane.cli.outcome import Outcome
from extauthz.v1 import audit_pb2 as pb
from tests.functional.running_api import RunningApi, running_api
from tests.functional.test_usage import decision, outcome, record, rollup
from tests.ports import free_port


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("deployment"), free_port()) as running:
        at = datetime.now(UTC)
        formula = pb.AuditPrincipal(kind="User", id="=cmd()\x1b[2J\u202e", provider="local")
        calls = [decision("a", at=at), outcome("a"), decision("b", "slow", at=at, team="dev", principal=formula), outcome("b")]
        record(running.record, *calls, decision("c", at=at, decision=pb.AUDIT_DECISION_DENY))
        rollup(running.record).count_all()
        yield running


def run(deployment: RunningApi, *args: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(legation, ["--data-dir", str(deployment.data_dir), "usage", *args])


def done(deployment: RunningApi, *args: str) -> str:
    answer = run(deployment, *args)
    assert answer.exit_code == Outcome.DONE, answer.output
    return answer.stdout


def test_a_table_has_a_line_for_each_group_and_one_for_all(deployment: RunningApi) -> None:
    lines = [line.split() for line in done(deployment, "--by", "team,tool").splitlines()]

    assert lines[1] == ["TEAM", "TOOL", "CALLS", "DENIED", "FAILED", "SECONDS", "KB", "~TOKENS", "COST"]
    assert lines[2] == ["sales", "search_contacts", "2", "1", "0", "0.250", "1.1", "275", "0.1", "EUR"]
    assert lines[3] == ["dev", "slow", "1", "0", "0", "0.250", "1.0", "250", "0.075", "EUR"]
    assert lines[4] == ["total", "3", "1", "0", "0.500", "2.1", "525", "0.175", "EUR"]


def test_a_month_is_rounded_line_by_line(deployment: RunningApi) -> None:
    month = f"{datetime.now(UTC):%Y-%m}"

    text = done(deployment, "--month", month)
    answer = json.loads(done(deployment, "--month", month, "-o", "json"))

    assert text.splitlines()[1].split() == ["TEAM", "PROJECT", "CALLS", "DENIED", "FAILED", "SECONDS", "KB", "~TOKENS", "AMOUNT"]
    assert text.splitlines()[-1].split()[-2:] == ["0.18", "EUR"]
    assert answer["total"]["amounts"] == {"EUR": "0.18"}


def test_csv_has_money_by_currency_and_nothing_that_a_spreadsheet_would_calculate(deployment: RunningApi) -> None:
    rows = list(csv.DictReader(io.StringIO(done(deployment, "--by", "user", "-o", "csv"))))

    shown = r"'=cmd()\x1b[2J\u202e"  # nor what a terminal would obey
    assert {row["user"]: row["cost_EUR"] for row in rows} == {"local/ann": "0.1", shown: "0.075"}
    assert rows[0]["calls"] == "2"


def test_a_parquet_file_has_exact_money(deployment: RunningApi, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "usage.parquet"

    done(deployment, "--by", "team", "--parquet", str(file))

    table = parquet.read_table(file)
    assert {row["team"]: (row["calls"], row["cost_EUR"]) for row in table.to_pylist()} == {
        "sales": (2, Decimal("0.1")),
        "dev": (1, Decimal("0.075")),
    }


def test_without_pyarrow_it_says_what_to_install(deployment: RunningApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return known(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)

    answer = run(deployment, "--parquet", str(tmp_path / "usage.parquet"))

    assert answer.exit_code != Outcome.DONE
    assert "legation[archive]" in answer.stderr


def test_a_question_that_means_nothing_is_refused(deployment: RunningApi) -> None:
    answer = run(deployment, "--by", "sever")

    assert answer.exit_code != Outcome.DONE
    assert "neither a dimension nor a label" in answer.stderr


def test_nothing_is_said_to_be_nothing(deployment: RunningApi) -> None:
    answer = run(deployment, "--from", "2020-01-01", "--to", "2020-02-01")

    assert answer.exit_code == Outcome.DONE
    assert "no calls" in answer.stderr

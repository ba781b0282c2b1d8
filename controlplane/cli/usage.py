"""`usage`: how often tools were called, by whom, and what it cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.entry import namespace_option
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import Cell, note, printable, say, say_document, say_table

if TYPE_CHECKING:
    from controlplane.client import JsonObject

_MEASURES = ("calls", "denied", "failed", "duration_us", "request_bytes", "response_bytes", "estimated_tokens")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With what spreadsheets take a cell for a formula; names come from identity providers and servers."""


_BY_HELP = (
    "What to group by: user, agent, client, team, project or another label, namespace, server, virtual_server, tool, outcome, hour, day, "
    "month. Default: server,tool; of a month team,project."
)


class UsageCommand(Command):
    """A command that prints tables as CSV, too."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - click's own signature
        super().__init__(*args, **options)
        for parameter in self.params:
            if parameter.name == "output" and isinstance(parameter, click.Option):
                parameter.type = click.Choice(["table", "yaml", "json", "csv"])
                parameter.help = "table (default), yaml, json or csv."


@click.command(cls=UsageCommand)
@click.option("--by", default="", metavar="NAME,…", help=_BY_HELP)
@click.option("--from", "begins", default="", metavar="TIME", help="From when on: 2026-11-22, a time, 7d or 24h (default 30d).")
@click.option("--to", "ends", default="", metavar="TIME", help="Until when, not included (default now).")
@click.option("--month", default="", metavar="YYYY-MM", help="The chargeback report of a calendar month (UTC), rounded to coins.")
@click.option("--server", default="", metavar="NS/NAME", help="Only calls of this server, or virtual/NS/NAME.")
@click.option("--parquet", type=click.Path(path_type=Path, dir_okay=False), help="Write the groups to this Parquet file.")
@namespace_option
@pass_invocation
def usage(invocation: Invocation, *, by: str, begins: str, ends: str, month: str, server: str, parquet: Path | None, namespace: str) -> int:
    """Print how often, how long and for how much tools were called."""
    query = {"by": by, "from": begins, "to": ends, "month": month, "server": server, "namespace": namespace}
    with invocation.api() as api:
        answer = api.get("/v1/usage", query)
    if parquet is not None:
        _write_parquet(answer, parquet)
        note(f"{len(answer['items'])} groups in {parquet}", "good")
    elif invocation.output == "csv":
        click.echo(_csv(answer), nl=False)
    elif invocation.for_machines:
        say_document(answer, invocation.output)
    else:
        _say(answer)
    if answer.get("uncounted"):
        note(f"{answer['uncounted']} records have not been counted yet", "doubt")
    return Outcome.DONE


def _say(answer: JsonObject) -> None:
    say(f"{answer['from']} to {answer['to']}", "strong")
    if not answer["items"]:
        note("no calls")
        return
    by, money = list(answer["by"]), "amounts" if answer["total"].get("amounts") is not None else "costs"
    columns = [*(name.upper().replace("_", " ") for name in by), "CALLS", "DENIED", "FAILED", "SECONDS", "KB", "~TOKENS"]
    columns.append("AMOUNT" if money == "amounts" else "COST")
    rows: list[Sequence[Cell]] = [[*(str(item[name]) or "-" for name in by), *_sums(item, money)] for item in answer["items"]]
    rows.append([*("total" if index == 0 else "" for index in range(len(by))), *_sums(answer["total"], money)])
    say_table(columns, rows)


def _sums(item: JsonObject, money: str) -> list[Cell]:
    kilobytes = (item["request_bytes"] + item["response_bytes"]) / 1000
    costs = ", ".join(f"{amount} {currency}" for currency, amount in item[money].items())
    denied, failed = str(item["denied"]), str(item["failed"])
    return [
        str(item["calls"]),
        (denied, "doubt" if item["denied"] else ""),
        (failed, "bad" if item["failed"] else ""),
        f"{item['duration_us'] / 1_000_000:.3f}",
        f"{kilobytes:.1f}",
        str(item["estimated_tokens"]),
        costs or "-",
    ]


def _columns(answer: JsonObject) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of the columns of groups and measures, and (column, currency) of money."""
    kinds = ["cost", "amount"] if answer["total"].get("amounts") is not None else ["cost"]
    currencies = sorted(answer["total"]["costs"])
    return [*answer["by"], *_MEASURES], [(f"{kind}_{currency}", currency) for kind in kinds for currency in currencies]


def _money(item: JsonObject, column: str, currency: str) -> str:
    found = item["amounts" if column.startswith("amount_") else "costs"]
    return str(found.get(currency, "0"))


def _csv(answer: JsonObject) -> str:
    """RFC 4180; times are in the columns of `by` only. A text that a spreadsheet would calculate has an apostrophe before it.

    What a terminal would obey is shown as an escape.
    """
    names, money = _columns(answer)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*names, *(column for column, _ in money)])
    for item in answer["items"]:
        cells = [_cell(item[name]) for name in names]
        writer.writerow([*cells, *(_money(item, column, currency) for column, currency in money)])
    return out.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if value.startswith(_FORMULA) else shown


def _write_parquet(answer: JsonObject, file: Path) -> None:
    """One row per group; money as decimal128(38, 15)."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency of 40 MB
        from pyarrow import parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise CommandError("Parquet needs pyarrow, which is not installed", remedy="pip install 'legation[archive]'") from error
    names, money = _columns(answer)
    items = answer["items"]
    columns = {name: pa.array([item[name] for item in items], type=pa.int64() if name in _MEASURES else pa.string()) for name in names}
    exact = pa.decimal128(38, 15)
    for column, currency in money:
        columns[column] = pa.array([Decimal(_money(item, column, currency)) for item in items], type=exact)
    metadata = {"from": answer["from"], "to": answer["to"]}
    try:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), file)
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror or error}") from error

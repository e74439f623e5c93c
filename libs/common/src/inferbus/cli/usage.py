"""`inferbus usage`: what was used, by whom and at what cost; counted again; and exported."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from inferbus.cli.connection import connected
from inferbus.cli.money import money
from inferbus.contracts.usage import FIGURES, Figures
from inferbus.ledger.export import write_parquet
from inferbus.ledger.reading import Line, Query, Verdict, check_query, read_totals, sum_up, verify

app = typer.Typer(help="Usage: totals, verify, export.")
_PIPE_WIDTH = 200


@app.callback(invoke_without_command=True)
def totals(
    context: typer.Context,
    org: Annotated[str, typer.Option("--org", help="Of this organisation.")] = "",
    team: Annotated[str, typer.Option("--team", help="Of this team.")] = "",
    key: Annotated[str, typer.Option("--key", help="Of the key with this id.")] = "",
    model: Annotated[str, typer.Option("--model", help="Of this model.")] = "",
    first: Annotated[str, typer.Option("--from", help="From this day (UTC) on: 2026-11-22.")] = "",
    last: Annotated[str, typer.Option("--to", help="Up to this day (UTC), inclusive.")] = "",
    by: Annotated[str, typer.Option("--by", help="Any of org, team, key, model, day.")] = "org,model,day",
    *,
    json: Annotated[bool, typer.Option("--json", help="As JSON; cost in micro-units.")] = False,
) -> None:
    """Show requests, tokens and cost, summed up. The totals are a second behind."""
    if context.invoked_subcommand is not None:
        return
    dimensions = tuple(name.strip() for name in by.split(",") if name.strip())
    query = check_query(Query(org=org, team=team, key=key, model=model, first=first, last=last, by=dimensions))

    async def work() -> list[Line]:
        async with connected() as bus:
            return sum_up(await read_totals(bus, query.org), query)

    lines = asyncio.run(work())
    if json:
        typer.echo(
            msgspec.json.format(msgspec.json.encode([flat(line, dimensions) for line in lines]), indent=2).decode()
        )
        return
    _print(_table(lines, dimensions))


def flat(line: Line, dimensions: tuple[str, ...]) -> dict[str, str | int]:
    """Give a line as one object: what it is by, then its figures."""
    names: dict[str, str | int] = {name: getattr(line, name) for name in dimensions}
    return names | {name: getattr(line.figures, name) for name in FIGURES}


def _table(lines: list[Line], dimensions: tuple[str, ...]) -> Table:
    table = Table(*dimensions, box=None, header_style="bold")
    for title in ("requests", "in", "out", "cached", "wasted", "cost"):
        table.add_column(title, justify="right")
    for line in lines:
        table.add_row(*(getattr(line, name) or "-" for name in dimensions), *_cells(line.figures))
    if len(lines) > 1:
        whole = sum((line.figures for line in lines), Figures())
        table.add_row(*("total" if i == 0 else "" for i in range(len(dimensions))), *_cells(whole), style="bold")
    return table


def _cells(figures: Figures) -> list[str]:
    return [*(str(getattr(figures, name)) for name in FIGURES[:-1]), money(figures.cost)]


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH  # a pipe has no width: cut nothing
    console.print(table)


@app.command("verify")
def verify_() -> None:
    """Count every event again and compare with the totals, row by row. Exit status 1 if one differs."""

    async def work() -> Verdict:
        async with connected() as bus:
            return await verify(bus)

    verdict = asyncio.run(work())
    for difference in verdict.differences:
        row = difference.row
        for name in FIGURES:
            total, counted = getattr(row.figures, name), getattr(difference.recounted, name)
            if total != counted:
                where = f"{row.tenant} {row.team or '-'} {row.key_id or '-'} {row.model} {row.day}"
                typer.echo(f"{where}: {name} is {total}, the events say {counted}")
    waiting = f", {verdict.waiting} events not added up yet" if verdict.waiting else ""
    old = f", {verdict.too_old} rows older than the events that are kept" if verdict.too_old else ""
    found = f"{len(verdict.differences)} differ" if verdict.differences else "all agree"
    typer.echo(f"{verdict.events} events, {verdict.rows} rows: {found}{waiting}{old}")
    if verdict.differences:
        raise typer.Exit(1)


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", help="The Parquet file to write.")],
    org: Annotated[str, typer.Option("--org", help="Only this organisation's.")] = "",
) -> None:
    """Write every event to a Parquet file."""
    check_query(Query(org=org))

    async def work() -> int:
        async with connected() as bus:
            return await write_parquet(bus, out, org)

    typer.echo(f"{asyncio.run(work())} events written to {out}")

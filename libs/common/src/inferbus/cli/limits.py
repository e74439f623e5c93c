"""`inferbus limits`: what a key, a team, an organisation may use, and how much of a model is used in all."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from inferbus.admission.limit_book import Limited
from inferbus.cli.administration import administer, say_json, say_table
from inferbus.contracts.limits import LimitSet

app = typer.Typer(no_args_is_help=True, help="Limits: set, list, show, clear.")

Scope = Annotated[str, typer.Argument(help="key, team, org or model.")]
Name = Annotated[str, typer.Argument(help="A key's id, <tenant>/<team>, a tenant, or a model.")]
Count = Annotated[int, typer.Option(help="0: no limit.")]


@app.command("set")
def set_(
    scope: Scope,
    name: Name,
    requests_per_minute: Count = 0,
    tokens_per_minute: Annotated[int, typer.Option(help="Input and output; 0: no limit.")] = 0,
    concurrent: Count = 0,
    tokens_per_day: Count = 0,
    money_per_month: Annotated[int, typer.Option(help="In micro-units: 1000000 is 1.00; 0: no limit.")] = 0,
) -> None:
    """Replace all limits of one; what is not said is not limited."""
    asked = {
        "requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute, "concurrent": concurrent,
        "tokens_per_day": tokens_per_day, "money_per_month": money_per_month,
    }  # fmt: skip
    say_json(administer(lambda books: books.limits.set(scope, name, asked)))


@app.command("list")
def list_(*, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show all limits."""
    found = administer(lambda books: books.limits.list())
    if json:
        say_json(found)
    else:
        say_table(("scope", "name", *LimitSet.__struct_fields__), [_row(one) for one in found])


@app.command()
def show(scope: Scope, name: Name) -> None:
    """Show the limits of one as JSON."""
    say_json(administer(lambda books: books.limits.get(scope, name)))


@app.command()
def clear(scope: Scope, name: Name) -> None:
    """Limit it no more."""
    administer(lambda books: books.limits.clear(scope, name))
    typer.echo(f"cleared {scope} {name}")


def _row(one: Limited) -> list[str]:
    return [one.scope, one.name, *(str(limit or "") for limit in msgspec.structs.astuple(one.limits))]

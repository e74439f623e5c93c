"""`inferbus prices`: what a million tokens of a model cost."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from inferbus.admission.audit import Actor
from inferbus.cli.administration import say_json, say_table, who
from inferbus.cli.connection import connected
from inferbus.cli.money import micro_units, money
from inferbus.contracts.prices import Price, check_price
from inferbus.ledger.prices import set_price, stored_prices

app = typer.Typer(no_args_is_help=True, help="Prices: set, list.")


@app.command("set")
def set_(
    model: Annotated[str, typer.Argument(help="The model's name, not an alias.")],
    input_: Annotated[str, typer.Option("--input", help="A million tokens of prompts, such as 0.15.")],
    output: Annotated[str, typer.Option("--output", help="A million tokens of answers.")],
    cached: Annotated[
        str | None, typer.Option("--cached", help="A million prompt tokens found in the cache (default: as --input).")
    ] = None,
) -> None:
    """Set a model's price for what is admitted from now on. What was admitted before keeps the price it had."""
    price = check_price(
        Price(
            input=micro_units(input_, field="input"),
            output=micro_units(output, field="output"),
            cached=None if cached is None else micro_units(cached, field="cached"),
        )
    )

    async def work() -> Price:
        async with connected() as bus:
            return await set_price(bus, model, price, Actor(name=who()))

    typer.echo(f"price of {model}: version {asyncio.run(work()).version}")


@app.command("list")
def list_(*, json: Annotated[bool, typer.Option("--json", help="As JSON, in micro-units.")] = False) -> None:
    """Show today's prices, per million tokens."""

    async def work() -> list[Price]:
        async with connected() as bus:
            return await stored_prices(bus)

    prices = asyncio.run(work())
    if json:
        say_json(prices)
        return
    rows = []
    for price in prices:
        cached = price.input if price.cached is None else price.cached
        rows.append((price.model, money(price.input), money(price.output), money(cached), price.version))
    say_table(("model", "input", "output", "cached", "version"), rows)

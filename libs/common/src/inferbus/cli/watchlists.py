"""`inferbus vectors watch`: known items, what is compared with them, and hits."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from inferbus.cli.administration import at, say_json, say_table
from inferbus.cli.vector_options import Json, Key, Url, with_api
from inferbus.vectors.http_api import VectorsApi

app = typer.Typer(no_args_is_help=True, help="Watchlists: set, list, match, hits, delete.")
Name = Annotated[str, typer.Argument(metavar="WATCHLIST", help="Its name.")]


@app.command("set")
def set_(
    name: Name,
    threshold: Annotated[float, typer.Option("--threshold", help="The score from which it is a hit: over 0 to 1.")],
    watched: Annotated[
        list[str] | None, typer.Option("--watched", help="A collection to be compared; * for all.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="What embeds the items, whose collection is made.")] = "",
    collection: Annotated[str, typer.Option("--collection", help="The items are this collection's documents.")] = "",
    near_duplicates_of: Annotated[
        str, typer.Option("--near-duplicates-of", help="Compare this collection's documents with each other.")
    ] = "",
    url: Url = "",
    key: Key = "",
) -> None:
    """Make a watchlist, or change one. Its items are indexed like any documents: `inferbus vectors index WATCHLIST FILE`."""
    wanted = {
        "name": name, "threshold": threshold, "watched": watched or [], "model": model, "collection": collection,
        "near_duplicates_of": near_duplicates_of,
    }  # fmt: skip
    made = with_api(url, key, lambda api: api.set_watchlist(wanted))
    typer.echo(f"{made['name']}: {made['kind']} of {made['collection']}, from {made['threshold']:g} on")


@app.command("list")
def list_(url: Url = "", key: Key = "", *, json: Json = False) -> None:
    """Show your organisation's watchlists."""
    found = with_api(url, key, lambda api: api.watchlists())
    if json:
        say_json(found)
        return
    rows = [
        (one["name"], one["kind"], one["collection"], f"{one['threshold']:g}", ", ".join(one["watched"]))
        for one in found
    ]
    say_table(("name", "kind", "items in", "threshold", "watched"), rows)


@app.command()
def hits(name: Name, url: Url = "", key: Key = "", *, json: Json = False) -> None:
    """Show what was found, with the evidence; `--json`: one object to a line."""

    async def work(api: VectorsApi) -> list[dict[str, Any]]:
        return [one async for one in api.hits(name)]

    _show(with_api(url, key, work), as_json=json)


@app.command()
def match(
    name: Name,
    text: Annotated[str, typer.Argument(help="What is compared with the items.")],
    url: Url = "",
    key: Key = "",
    *,
    record: Annotated[bool, typer.Option("--record", help="Keep what is found as a hit.")] = False,
    json: Json = False,
) -> None:
    """Compare a text with a watchlist. Exit status 3 where it is a hit."""
    shown = [{"id": "shown", "text": text}]
    found = with_api(url, key, lambda api: api.match(name, shown, record=record))
    _show(found, as_json=json)
    if found:
        raise typer.Exit(3)


@app.command()
def delete(name: Name, url: Url = "", key: Key = "") -> None:
    """Delete a watchlist, and its items where their collection was made for it."""
    with_api(url, key, lambda api: api.delete_watchlist(name))
    typer.echo(f"{name} is deleted")


def _show(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for one in found:
            typer.echo(msgspec.json.encode(one).decode())
        return
    rows = [
        (
            at(one["at"]),
            f"{one['score']:.4f}",
            one["item"],
            one["collection"] or "-",
            one["document"],
            one["excerpt"][:80],
        )
        for one in found
    ]
    say_table(("at", "score", "item", "collection", "document", "text"), rows)

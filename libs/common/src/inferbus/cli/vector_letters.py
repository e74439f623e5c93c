"""`inferbus vectors dead-letters`: documents that could not be indexed."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from inferbus.cli.administration import say_table
from inferbus.cli.vector_options import Json, Key, Name, Url, with_api
from inferbus.vectors.http_api import VectorsApi

app = typer.Typer(no_args_is_help=True, help="Documents that could not be indexed: list, redrive.")


@app.command("list")
def list_(name: Name, url: Url = "", key: Key = "", *, json: Json = False) -> None:
    """Show them, and why; `--json`: one object to a line, with the message as it was."""

    async def work(api: VectorsApi) -> list[dict[str, Any]]:
        return [one async for one in api.letters(name)]

    found = with_api(url, key, work)
    if json:
        for one in found:
            typer.echo(msgspec.json.encode(one).decode())
        return
    rows = [(str(one["place"]), ", ".join(one["documents"])[:60], one["code"], one["reason"][:100]) for one in found]
    say_table(("place", "documents", "code", "reason"), rows)


@app.command()
def redrive(
    name: Name,
    place: Annotated[list[int] | None, typer.Option("--place", help="Only this one; may be said again.")] = None,
    url: Url = "",
    key: Key = "",
) -> None:
    """Index them again, all or some."""
    done = with_api(url, key, lambda api: api.redrive(name, place or []))
    left = f"; {len(done['left'])} stay, of which too little was kept" if done["left"] else ""
    typer.echo(f"{done['letters']} are in the queue again{left}")

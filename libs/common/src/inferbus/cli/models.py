"""`inferbus models`: what the platform serves. It writes the `models` bucket; the topology process does the rest."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from inferbus import routes
from inferbus.admission.audit import Actor
from inferbus.bus import Bus
from inferbus.cli.administration import say_json, say_table, who
from inferbus.cli.connection import connected
from inferbus.codec import from_json
from inferbus.contracts.models import ModelEntry
from inferbus.errors import InvalidRequest, NotFound
from inferbus.models import apply_model, check_entry, remove_model

app = typer.Typer(no_args_is_help=True, help="Models: apply, list, remove.")


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file with several models: `models` is a list of entries (in TOML: `[[models]]`)."""

    models: list[ModelEntry]


def read_models(path: Path) -> list[ModelEntry]:
    """Read a JSON or TOML file with one model, or with a list `models`.

    Raises:
        InvalidRequest: the file cannot be read or an entry is not valid; the message names the field.
    """
    try:
        text = path.read_text()
        data: Any = tomllib.loads(text) if path.suffix == ".toml" else msgspec.json.decode(text)
        several = isinstance(data, dict) and "models" in data
        entries = (
            msgspec.convert(data, ModelFile, strict=True).models if several else [msgspec.convert(data, ModelEntry)]
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.DecodeError) as exc:
        raise InvalidRequest(f"{path}: {exc}") from exc
    for entry in entries:
        check_entry(entry)
    return entries


class Unreadable(msgspec.Struct, frozen=True):
    """An entry that no program of this version can read: `name` is its key in the bucket."""

    name: str
    unreadable: str


async def stored_models(bus: Bus) -> tuple[list[ModelEntry], list[Unreadable]]:
    """Read every entry of the bucket, by name; those that cannot be read apart."""
    entries: list[ModelEntry] = []
    foreign: list[Unreadable] = []
    for key in sorted(await bus.kv_keys(routes.KV_MODELS)):
        data = await bus.kv_get(routes.KV_MODELS, key)
        try:
            if data:
                entries.append(from_json(data, ModelEntry, what=key))
        except InvalidRequest as exc:
            foreign.append(Unreadable(key, exc.message))
    return sorted(entries, key=lambda entry: entry.name), foreign


@app.command()
def apply(file: Annotated[Path, typer.Argument(help="JSON or TOML: one model, or a list `models`.")]) -> None:
    """Make models known, or change them."""
    entries, actor = read_models(file), Actor(name=who())

    async def work() -> None:
        async with connected() as bus:
            for entry in entries:
                await apply_model(bus, entry, actor)
                Console().print(f"applied {entry.name} (pool {entry.pool}, runtime {entry.runtime})", highlight=False)

    asyncio.run(work())


@app.command("list")
def list_(*, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show the models that are known."""

    async def work() -> tuple[list[ModelEntry], list[Unreadable]]:
        async with connected() as bus:
            return await stored_models(bus)

    entries, foreign = asyncio.run(work())
    if json:
        say_json([*entries, *foreign])
        return
    rows = []
    for entry in entries:
        buckets = f"{entry.buckets.count} by {entry.buckets.by}"
        if entry.buckets.pinned:
            buckets += f", {len(entry.buckets.pinned)} pinned"
        aliases, tasks = ", ".join(entry.aliases), ", ".join(entry.tasks)
        rows.append((entry.name, aliases, entry.pool, entry.runtime, tasks, buckets))
    rows += [(escape(one.name), "", "unreadable", "", escape(one.unreadable), "") for one in foreign]
    say_table(("name", "aliases", "pool", "runtime", "tasks", "buckets"), rows)


@app.command()
def remove(
    name: Annotated[
        str, typer.Argument(help="The model's name, not an alias; of an unreadable entry, what the list calls it.")
    ],
) -> None:
    """Forget a model: requests for it are a 404 from now on; what is queued is still answered."""

    async def work() -> None:
        async with connected() as bus:
            entries, foreign = await stored_models(bus)
            if name not in {entry.name for entry in entries} | {one.name for one in foreign}:
                raise NotFound(f"no model is named {name!r}; `inferbus models list` shows them")
            await remove_model(bus, name, Actor(name=who()))

    asyncio.run(work())
    typer.echo(f"removed {name}")

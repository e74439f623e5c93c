"""`inferbus keys`: API keys. A key is shown once, when it is made; the bus only ever holds its hash."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from inferbus import routes
from inferbus.admission.keys import make_key, store_key
from inferbus.bus import Bus
from inferbus.cli.connection import connected, key_pepper
from inferbus.contracts.keys import KeyEntry
from inferbus.errors import NotFound

app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is shown: without its hash."""

    id: str
    tenant: str
    name: str
    created: int
    disabled: bool
    lanes: list[str]


async def stored_keys(bus: Bus) -> list[KeyEntry]:
    """Read every entry of the bucket, oldest first."""
    values = [await bus.kv_get(routes.KV_KEYS, key) for key in await bus.kv_keys(routes.KV_KEYS)]
    return sorted((msgspec.json.decode(value, type=KeyEntry) for value in values if value), key=lambda key: key.created)


@app.command()
def create(
    tenant: Annotated[str, typer.Option("--tenant", help="The organisation: a-z, 0-9, _ and -.")],
    name: Annotated[str, typer.Option("--name", help="What the key is for.")] = "",
    lane: Annotated[list[str] | None, typer.Option("--lane", help="A lane it may ask for (default: all).")] = None,
) -> None:
    """Make a key and print it. It cannot be shown again."""
    lanes = lane or list(routes.LANES)
    if unknown := set(lanes) - set(routes.LANES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: lanes are {', '.join(routes.LANES)}")
    key, entry = make_key(tenant, key_pepper(), name=name, lanes=lanes)

    async def work() -> None:
        async with connected() as bus:
            await store_key(bus, entry)

    asyncio.run(work())
    typer.echo(key)


@app.command("list")
def list_(*, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show the keys, without their secrets."""

    async def work() -> list[KeyEntry]:
        async with connected() as bus:
            return await stored_keys(bus)

    entries = asyncio.run(work())
    if json:
        views = [msgspec.convert(entry, KeyView, from_attributes=True) for entry in entries]
        typer.echo(msgspec.json.format(msgspec.json.encode(views), indent=2).decode())
        return
    table = Table("id", "tenant", "name", "lanes", "created", "state", box=None, header_style="bold")
    for entry in entries:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
        state = "revoked" if entry.disabled else "active"
        table.add_row(entry.id, entry.tenant, entry.name, ", ".join(entry.lanes), created, state)
    Console().print(table)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="The middle part of ib-<id>-<secret>.")]) -> None:
    """Make a key worthless, everywhere, within a second. Its entry stays, so that the id is never reused."""

    async def work() -> None:
        async with connected() as bus:
            found = [entry for entry in await stored_keys(bus) if entry.id == key_id]
            if not found:
                raise NotFound(f"no key has the id {key_id!r}; `inferbus keys list` shows them")
            await store_key(bus, msgspec.structs.replace(found[0], disabled=True))

    asyncio.run(work())
    typer.echo(f"revoked {key_id}")

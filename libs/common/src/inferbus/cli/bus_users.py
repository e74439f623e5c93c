"""`inferbus bus-users`: who may connect to the bus, and as what. A seed is shown once, when it is made."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from inferbus.bus_users.folder import UsersFolder
from inferbus.bus_users.render import Tls
from inferbus.bus_users.template import TENANT, read_template
from inferbus.bus_users.user import PRODUCER, WORKER, Pool
from inferbus.cli.connection import NotRunning
from inferbus.local.command_socket import NobodyListens, Reload, command
from inferbus.local.layout import Layout, NotACheckout, find_layout
from inferbus.local.lock import holder_of
from inferbus.private_files import write_private

app = typer.Typer(no_args_is_help=True, help="Who may connect to the bus: create, list, revoke.")

Folder = Annotated[
    Path | None, typer.Option("--folder", help="Of users.json and nats.conf; default: the local platform's.")
]
Conf = Annotated[
    Path | None, typer.Option("--template", help="The configuration with the roles; default: deploy/nats/nats.conf.")
]
Pid = Annotated[int, typer.Option("--pid", help="A nats-server to reload, where the local platform is not meant.")]


@app.command()
def create(
    role: Annotated[str, typer.Argument(help=f"{PRODUCER}, {WORKER}, gateway, operator, admin, ...")],
    name: Annotated[str, typer.Option("--name", help="Default: made from role, tenant and pool.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Of a producer.")] = "",
    pool: Annotated[list[str] | None, typer.Option("--pool", help="A pool a worker may pull (default: any).")] = None,
    runtime: Annotated[str, typer.Option("--runtime", help="Of these pools.")] = "llm",
    region: Annotated[str, typer.Option("--region", help="Of these pools.")] = "local",
    seed_file: Annotated[Path | None, typer.Option("--seed-file", help="Write the seed there, mode 600.")] = None,
    folder: Folder = None,
    template: Conf = None,
    pid: Pid = 0,
) -> None:
    """Make a user. Prints its seed, once; what it connects as goes to the error output."""
    users, layout = _users(folder, template)
    pools = tuple(Pool(pool=one, runtime=runtime, region=region) for one in pool or [])
    name = name or "-".join(part for part in (role, tenant, *(pool or [])) if part)
    user, seed = users.create(name, role, tenant=tenant, pools=pools)
    if seed_file is not None:
        write_private(seed_file, f"{seed}\n".encode())
    else:
        typer.echo(seed)
    typer.echo(f"{user.name}: INFERBUS_BUS_USER={user.login}, INFERBUS_BUS_NKEY_SEED is the seed", err=True)
    _reload(layout, users, pid)


@app.command("list")
def list_(
    folder: Folder = None,
    template: Conf = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show the users, revoked ones included. There are no secrets among it."""
    known = _users(folder, template)[0].read().users
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(known), indent=2).decode())
        return
    table = Table("name", "role", "tenant", "pools", "created", "state", box=None, header_style="bold")
    for user in known:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(user.created))
        pools = ", ".join(pool.pool for pool in user.pools)
        table.add_row(user.name, user.role, user.tenant, pools, created, "revoked" if user.revoked else "active")
    Console().print(table)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="As `list` shows it.")],
    folder: Folder = None,
    template: Conf = None,
    pid: Pid = 0,
) -> None:
    """Take a user's access away. Whoever is connected as it is disconnected when the server has reloaded."""
    users, layout = _users(folder, template)
    users.revoke(name)
    _reload(layout, users, pid)
    typer.echo(f"revoked {name}")


@app.command()
def init(
    pool: Annotated[
        list[str] | None, typer.Option("--pool", help="RUNTIME/POOL: a user for its workers, in place of one for all.")
    ] = None,
    region: Annotated[str, typer.Option("--region", help="Of these pools.")] = "local",
    folder: Folder = None,
    template: Conf = None,
) -> None:
    """Make the users that services need and that are not there, and print their seeds as lines for an env file."""
    users, _ = _users(folder, template)
    known = {user.name for user in users.read().users if not user.revoked}
    wanted: dict[str, tuple[str, tuple[Pool, ...]]] = {
        role: (role, ()) for role in sorted(read_template(users.template.read_text()).roles.keys() - {TENANT})
    }
    if pool:
        del wanted[WORKER]
    for one in pool or []:
        runtime, slash, name = one.partition("/")
        if not slash:
            raise typer.BadParameter(f"{one}: RUNTIME/POOL, such as llm/{one}")
        wanted[f"{WORKER}-{name}"] = (WORKER, (Pool(pool=name, runtime=runtime, region=region),))
    for name, (role, pools) in wanted.items():
        if name not in known:
            _, seed = users.create(name, role, pools=pools)
            typer.echo(f"INFERBUS_{name.upper().replace('-', '_')}_SEED={seed}")
    typer.echo(f"the server's configuration: {users.config}", err=True)


@app.command()
def tls(
    cert: Annotated[str, typer.Option("--cert", help="The server's certificate, as the server finds the file.")],
    key: Annotated[str, typer.Option("--key", help="Its key.")],
    ca: Annotated[str, typer.Option("--ca", help="Ask clients for certificates of this CA as well.")] = "",
    folder: Folder = None,
    template: Conf = None,
) -> None:
    """Have the server speak TLS, and nothing else. It has to be restarted for that."""
    users, _ = _users(folder, template)
    users.use_tls(Tls(cert=cert, key=key, ca=ca))
    typer.echo(f"{users.config} has TLS: restart the server", err=True)


def _users(folder: Path | None, template: Path | None) -> tuple[UsersFolder, Layout | None]:
    """Give the folder meant, and the local platform where it is that one's.

    Raises:
        NotACheckout: there is no local platform, and not both were named.
    """
    try:
        layout = find_layout()
    except NotACheckout:
        if folder is None or template is None:
            raise
        return UsersFolder(folder, template), None
    return UsersFolder(folder or layout.bus, template or layout.nats_conf), layout if folder is None else None


def _reload(layout: Layout | None, users: UsersFolder, pid: int) -> None:
    if pid:
        os.kill(pid, signal.SIGHUP)
        typer.echo(f"told process {pid} to reload; its log says whether it did", err=True)
    elif layout is None:
        typer.echo(f"{users.config} is written: reload the server (nats-server --signal reload=PID)", err=True)
    elif holder_of(layout.lock) is not None:
        asyncio.run(_tell_supervisor(layout))


async def _tell_supervisor(layout: Layout) -> None:
    """Have the local platform's bus reload, and wait for it.

    Raises:
        NotRunning: it ended meanwhile, or is still starting (it then reads the users by itself, when it starts the bus).
    """
    try:
        async for said in command(layout.commands, Reload()):
            if said.error:
                raise NotRunning(said.text)
    except NobodyListens as exc:
        raise NotRunning(f"the users are written, but the bus was not reloaded: {exc}") from exc

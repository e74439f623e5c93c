"""`inferbus restart`: asks the supervisor, and prints what it does.

Before the bus server is restarted its configuration is written anew, here: the supervisor may be of an older release than
what it is about to start.
"""

from __future__ import annotations

import typer

from inferbus.cli.connection import NotRunning
from inferbus.local.command_socket import NobodyListens, Restart, command
from inferbus.local.identities import users_folder
from inferbus.local.layout import Layout
from inferbus.local.lock import holder_of
from inferbus.local.processes import NATS


async def restart_processes(layout: Layout, names: list[str]) -> int:
    """Restart processes, all of them where none is named. Returns the exit status.

    Raises:
        NotRunning: there is no platform, or it ended meanwhile. BadTemplate: the bus server's configuration does not fit
            its users; nothing was restarted.
    """
    if holder_of(layout.lock) is None:
        raise NotRunning("no platform is running here: `make up` or `inferbus up` starts one")
    if not names or NATS in names:
        users_folder(layout).refresh()
    try:
        async for said in command(layout.commands, Restart(names=names)):
            if said.text:
                typer.echo(f"inferbus: {said.text}" if said.error else said.text, err=said.error)
            if said.over:
                return 1 if said.error else 0
    except NobodyListens as exc:
        raise NotRunning(f"{exc}; it may still be starting") from exc
    return 1

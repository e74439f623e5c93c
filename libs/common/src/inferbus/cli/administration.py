"""What the commands `keys`, `orgs`, `teams`, `users` and `limits` share: the books over a connection, times, tables."""

from __future__ import annotations

import asyncio
import getpass
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from inferbus.admission.administration import Administration, open_administration
from inferbus.admission.audit import Actor
from inferbus.admission.wanted import Entitled
from inferbus.cli.connection import connected, key_pepper
from inferbus.errors import InvalidRequest

R = TypeVar("R")
W = TypeVar("W", bound=Entitled)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN = re.compile(r"(\d{1,9})([smhdw])")


def administer(work: Callable[[Administration], Awaitable[R]], *, pepper: bool = False) -> R:
    """Do something with the books; `pepper`: it makes secrets.

    Raises:
        NotRunning: there is no bus to talk to, or no pepper. InferbusError: it was refused.
    """
    salt = key_pepper() if pepper else b""

    async def run() -> R:
        async with connected() as bus:
            return await work(open_administration(bus, salt, Actor(name=who())))

    return asyncio.run(run())


def who() -> str:
    """Name whoever types this, for the audit event."""
    login = "unknown"
    with suppress(OSError, KeyError, ImportError):
        login = getpass.getuser()
    return f"cli:{login}@{socket.gethostname()}"


def wanted(type_: type[W], **options: Any) -> W:
    """Make a wish of what was said on the command line; None was not said.

    Raises:
        InvalidRequest: a value has the wrong type.
    """
    try:
        return msgspec.convert({name: value for name, value in options.items() if value is not None}, type_)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(str(exc)) from exc


def seconds_of(text: str) -> int:
    """Read a span of time: `90s`, `10m`, `12h`, `30d`, `4w`.

    Raises:
        InvalidRequest: it is none.
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{text!r} is no span of time: use a number and s, m, h, d or w, such as 30d")
    return int(found[1]) * _UNITS[found[2]]


def moment_of(text: str | None) -> int | None:
    """Read when something ends, as a span from now; `never` is 0, None stays None."""
    if text is None:
        return None
    return 0 if text == "never" else int(time.time()) + seconds_of(text)


def say_json(value: object) -> None:
    """Print as indented JSON."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def say_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*head, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def at(moment: float) -> str:
    """Write a time as local date and time; 0 is nothing."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) if moment else ""

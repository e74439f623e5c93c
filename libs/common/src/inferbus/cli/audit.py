"""`inferbus audit`: who changed what of keys, directory, limits, models and prices."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from inferbus.admission.audit import read_audit
from inferbus.cli.administration import at, say_json, say_table, seconds_of
from inferbus.cli.connection import connected
from inferbus.contracts.audit import AdminChanged


def audit(
    since: Annotated[str, typer.Option("--since", help="How far back, such as 12h or 30d; default: all.")] = "",
    *,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with everything before and after.")] = False,
) -> None:
    """List changes of keys, organisations, teams, users, limits, models and prices, oldest first."""
    begin = time.time() - seconds_of(since) if since else 0.0

    async def work() -> list[AdminChanged]:
        async with connected() as bus:
            return await read_audit(bus, since=begin)

    events = asyncio.run(work())
    if json:
        say_json(events)
        return
    rows = [(at(one.at), one.actor, one.action, one.tenant, one.target, _difference(one)) for one in events]
    say_table(("when", "who", "what", "tenant", "target", "change"), rows)


def _difference(event: AdminChanged) -> str:
    """Say which fields were changed, from what to what; nothing of what came or went as a whole."""
    if event.before is None or event.after is None:
        return ""
    before, after = event.before, event.after
    return ", ".join(
        f"{name}: {_short(before.get(name))} -> {_short(after[name])}"
        for name in after
        if after[name] != before.get(name)
    )


def _short(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text or "-"

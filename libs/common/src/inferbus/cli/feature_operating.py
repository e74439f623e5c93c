"""What the commands of `inferbus features` share: asking a features process to do something, and saying how long ago."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from inferbus import routes
from inferbus.bus.waiting import NoResponders
from inferbus.cli.connection import connected
from inferbus.codec import from_json, to_json
from inferbus.contracts.features import ManageReply, ManageRequest
from inferbus.errors import DependencyDown, error_from

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def operate(verb: str, tenant: str = routes.PLATFORM, **arguments: Any) -> Any:
    """Have a features process do something.

    Raises:
        InferbusError: it was refused, or no features process runs. NotRunning: there is no bus to talk to.
    """

    async def work() -> Any:
        async with connected() as bus:
            body = to_json(ManageRequest(arguments=arguments))
            try:
                answer = await bus.request(routes.features_manage(tenant, verb), body, timeout_s=30.0)
            except NoResponders:
                raise DependencyDown("no features process runs: `inferbus up --features 1` starts one") from None
            reply = from_json(answer.data, ManageReply, what="the answer")
            if reply.error is not None:
                raise error_from(reply.error.code, reply.error.message)
            return reply.data

    return asyncio.run(work())


def ago(then: float) -> str:
    """Write how long ago a Unix time was; - for 0."""
    return f"{max(0.0, time.time() - then):.0f} s ago" if then else "-"

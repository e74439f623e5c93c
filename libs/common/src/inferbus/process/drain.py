"""Drain: any process can be asked over the bus to end as SIGTERM has it end, without rights on its machine.

It then takes nothing new, finishes or hands over what it has, and exits; its presence tells how far it is.
"""

from __future__ import annotations

import asyncio

import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import pack
from inferbus.contracts.control import DRAIN, Control

log = structlog.get_logger()


async def listen_for_drain(bus: Bus, process: str, stopping: asyncio.Event) -> None:
    """Set `stopping` when somebody asks this process to drain.

    Raises:
        DependencyDown: the connection is closed.
    """

    async def on_drain(_: Msg) -> None:
        if not stopping.is_set():
            log.info("stopping", asked_by="bus")
            stopping.set()

    await bus.subscribe(routes.control_of(process, DRAIN), on_drain)


async def ask_to_drain(bus: Bus, process: str) -> None:
    """Ask a process to drain. A core message: say it again until presence shows that it was heard.

    Raises:
        DependencyDown: the connection is closed.
    """
    await bus.publish(routes.control_of(process, DRAIN), pack(Control("", [])))

"""Waiting: the requests of one connection that have no answer yet, and what ends them without one."""

from __future__ import annotations

import asyncio

from nats.aio.msg import Msg

from inferbus.errors import DependencyDown

Waiting = dict[str, tuple[str, "asyncio.Future[Msg]"]]
"""By the last token of the inbox its answer comes to: the subject that was asked, and who waits."""
NOBODY: tuple[str, None] = ("", None)


class NoResponders(DependencyDown):
    """Nobody listens on the subject (or its stream has no leader)."""


class NotPermitted(DependencyDown):
    """The server does not let this process publish there. Trying again does not help until its permissions change."""


def fail(waiting: Waiting, error: DependencyDown, subject: str = "") -> None:
    """End the requests to a subject (in lower case), all of them where none is given."""
    for token, (asked, future) in list(waiting.items()):
        if not subject or asked.lower() == subject:
            del waiting[token]
            if not future.done():
                future.set_exception(type(error)(error.message))


def time_out(future: asyncio.Future[Msg], subject: str, timeout_s: float) -> None:
    """End one request whose time is over."""
    if not future.done():
        future.set_exception(DependencyDown(f"no answer on {subject} within {timeout_s:g} s"))

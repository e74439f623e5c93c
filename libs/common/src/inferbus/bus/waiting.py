"""Waiting: the requests of one connection that have no answer yet, and what ends them without one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from nats.aio.msg import Msg

from inferbus.errors import DependencyDown

Answered = Callable[[Msg | DependencyDown], None]
"""Takes the answer of one request, or why there is none; called once."""


class NoResponders(DependencyDown):
    """Nobody listens on the subject (or its stream has no leader)."""


class NotPermitted(DependencyDown):
    """The server does not let this process publish there. Trying again does not help until its permissions change."""


class Waiting:
    """Who waits for which answer, by the last token of the inbox it comes to."""

    def __init__(self) -> None:
        self._tokens = itertools.count()
        self._open: dict[str, tuple[str, Answered, asyncio.TimerHandle]] = {}
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, subject: str, answered: Answered, timeout_s: float) -> str:
        """Wait for an answer on `subject`, so long; gives the token it has to come with."""
        token = str(next(self._tokens))
        # A timer each: half the cost of asyncio.timeout, and this runs once per accepted request.
        timer = self._loop.call_later(timeout_s, self._time_out, token, timeout_s)
        self._open[token] = (subject, answered, timer)
        return token

    def forget(self, token: str) -> None:
        """Wait for this one no more."""
        found = self._open.pop(token, None)
        if found is not None:
            found[2].cancel()

    def answer(self, token: str, message: Msg) -> None:
        """The answer of one has come; nobody may wait for it any more."""
        found = self._open.pop(token, None)
        if found is None:
            return
        subject, answered, timer = found
        timer.cancel()
        if message.headers is not None and message.headers.get("Status") == "503":
            answered(NoResponders(f"nobody answers on {subject}"))
        else:
            answered(message)

    def fail(self, error: DependencyDown, subject: str = "") -> None:
        """End the requests to a subject (in lower case), all of them where none is given."""
        for token, (asked, answered, timer) in list(self._open.items()):
            if (not subject or asked.lower() == subject) and self._open.pop(token, None) is not None:
                timer.cancel()
                answered(type(error)(error.message))

    def _time_out(self, token: str, timeout_s: float) -> None:
        subject, answered, _ = self._open.pop(token)
        answered(DependencyDown(f"no answer on {subject} within {timeout_s:g} s"))

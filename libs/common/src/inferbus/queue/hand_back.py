"""HandBack: return a message to the queue for a worker that cannot, and again until somebody who lives asks about it.

A worker that is frozen, or cut off without a word, keeps its standing pull at the server, which may give it the very
message that was taken from it; nobody would see that before the lease is over. Any attempt's acknowledgement subject acts
on the message, so handing it back once more sends it to the next pull in turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

_PAUSES_S = (*[0.25] * 8, 1.0, 2.0, 4.0, 8.0)


class HandBack:
    """Messages handed back and not asked about yet, by the asker's tag. `send` publishes without waiting."""

    def __init__(self, send: Callable[[str, bytes], None]) -> None:
        self._send = send
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def begin(self, tag: int, ack_subject: str) -> None:
        """Hand a message back now, and again (often for 2 s, seldom for another 15) until `heard`."""
        self.heard(tag)
        self._again(tag, ack_subject, iter(_PAUSES_S))

    def heard(self, tag: int) -> None:
        """Somebody has the message, or nobody wants it any more. Unknown tags are ignored."""
        timer = self._timers.pop(tag, None)
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        for tag in list(self._timers):
            self.heard(tag)

    def _again(self, tag: int, ack_subject: str, pauses_s: Iterator[float]) -> None:
        self._timers.pop(tag, None)
        self._send(ack_subject, b"-NAK")
        pause_s = next(pauses_s, None)
        if pause_s is not None:
            loop = asyncio.get_running_loop()
            self._timers[tag] = loop.call_later(pause_s, self._again, tag, ack_subject, pauses_s)

"""EngineSink: what the engine tells about one request, turned into frames, and how much was spent on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from inferbus.answers.attempts import Attempt
from inferbus.contracts.facts import DECODE, PREFILL, QUEUED
from inferbus.contracts.step import Cached, Done, Ids, Resume, Usage


class Spent(msgspec.Struct, frozen=True):
    """How far a request got and what that took, earlier attempts included. None: not known."""

    phase: str
    prompt_tokens: int | None
    completion_tokens: int | None

    @property
    def usage(self) -> Usage:
        """The same with 0 for what is not known."""
        return Usage(self.prompt_tokens or 0, self.completion_tokens or 0)


class EngineSink:
    """`done` completes with how it ended in the engine. `expired`: its deadline ended it."""

    def __init__(self, attempt: Attempt, *, streamed: bool) -> None:
        self._attempt = attempt
        self._streamed = streamed
        self._in_engine = False
        self._tokens = 0
        self._told: Usage | None = None
        self.usage = Usage()
        self.status = 0
        self.first_delta = 0.0
        self.expired = False
        self.on_finished: Callable[[int, Usage], None] = unheard
        """Called before the end of an answer leaves this process, with its status and what it took."""
        self.done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def begin(self, resume: Resume | None) -> None:
        """The engine gets it now, to go on from `resume`."""
        self._in_engine = True
        self._tokens = sum(len(ids) for _, ids in resume.ids) if resume is not None else 0

    def delta(self, ids: Ids, data: bytes, done: Sequence[Done] = (), cached: Cached | None = None) -> None:
        if not self.first_delta:
            self.first_delta = time.monotonic()
        for _, new in ids:
            self._tokens += len(new)
        self._attempt.delta(ids, data, done, cached)

    def finished(self, status: int, usage: Usage, data: bytes, content_type: str) -> None:
        self.status, self.usage = status, usage
        self._attempt.finished(status, usage, data, content_type)
        if self._attempt.is_storing:
            self._attempt.when_stored = lambda: self.on_finished(status, usage)
        else:
            self.on_finished(status, usage)  # its frame leaves after this pass of the event loop
        self._end(None)

    def failed(self, error: BaseException, spent: Usage | None = None) -> None:
        self._told = spent
        self._end(error)

    def spent(self) -> Spent:
        """Say what was spent until now: what the engine says of itself, and of a stream at least what it gave."""
        if self.status:
            usage = self.usage
            return Spent(DECODE if usage.completion_tokens else PREFILL, usage.prompt_tokens, usage.completion_tokens)
        if not self._in_engine:
            return Spent(QUEUED, 0, 0)
        told = self._told
        tokens = self._tokens if self._streamed or self._tokens else None
        if told is not None:
            tokens = max(tokens or 0, told.completion_tokens)
        return Spent(DECODE if tokens else PREFILL, (told.prompt_tokens or None) if told is not None else None, tokens)

    def _end(self, error: BaseException | None) -> None:
        if not self.done.done():
            self.done.set_result(error)


def unheard(_status: int, _usage: Usage) -> None:
    """Nobody asked to be told."""

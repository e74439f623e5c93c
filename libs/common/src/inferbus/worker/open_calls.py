"""The requests an engine is running, and the promise made for each: exactly one end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inferbus.contracts.step import Cached, Done, Ids, Usage
from inferbus.errors import Cancelled
from inferbus.worker.ports import Sink


class OpenCall:
    """One running request. After its end nothing more reaches the sink, whatever the engine still says."""

    __slots__ = ("_calls", "_sink", "_spent", "_stop", "ended", "key")

    def __init__(self, calls: OpenCalls, key: str, sink: Sink) -> None:
        self._calls = calls
        self._sink = sink
        self._stop: Callable[[], None] | None = None
        self._spent: Callable[[], Usage | None] | None = None
        self.key = key
        self.ended = False

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Say how the engine is told to stop; called at once if it was to stop already."""
        self._stop = stop
        if self.ended:
            stop()

    def on_spent(self, spent: Callable[[], Usage | None]) -> None:
        """Say how the engine tells what was spent so far; asked when the call is aborted, before the engine hears of it."""
        self._spent = spent

    def delta(self, ids: Ids, data: bytes, done: Sequence[Done] = (), cached: Cached | None = None) -> None:
        if not self.ended:
            self._sink.delta(ids, data, done, cached)

    def finish(self, status: int, usage: Usage, data: bytes, content_type: str) -> None:
        if self._end():
            self._let_go()
            self._sink.finished(status, usage, data, content_type)

    def fail(self, error: BaseException) -> None:
        if self._end():
            self._let_go()
            self._sink.failed(error)

    def abort(self, why: str) -> None:
        """End with `Cancelled` and stop the engine's work."""
        if self._end():
            spent = self._spent() if self._spent is not None else None
            if self._stop is not None:
                self._stop()
            self._let_go()
            self._sink.failed(Cancelled(why), spent)

    def _let_go(self) -> None:
        """Forget whose request this was: both know each other, and would wait for the garbage collector together."""
        self._spent = self._stop = None

    def _end(self) -> bool:
        if self.ended:
            return False
        self.ended = True
        self._calls.forget(self)
        return True


class OpenCalls:
    """All running requests of one engine, by key."""

    def __init__(self) -> None:
        self._calls: dict[str, OpenCall] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, key: str, sink: Sink) -> OpenCall:
        """Register a request. One with the same key that still runs here is aborted."""
        self.abort(key, "the same key began again")
        call = self._calls[key] = OpenCall(self, key, sink)
        return call

    def abort(self, key: str, why: str) -> None:
        call = self._calls.get(key)
        if call is not None:
            call.abort(why)

    def fail_all(self, make_error: Callable[[], BaseException]) -> int:
        """Fail every running request with an error of its own; returns how many there were."""
        calls = list(self._calls.values())
        for call in calls:
            call.fail(make_error())
        return len(calls)

    def forget(self, call: OpenCall) -> None:
        if self._calls.get(call.key) is call:
            del self._calls[call.key]

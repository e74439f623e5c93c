"""BytewaxEngine: Bytewax reads the stream, keeps each entity's windows, recovers them, and calls the sink.

Per view there is one input, whose place in the stream is in Bytewax's snapshot together with the states it has led to:
after a kill both are taken up as they were at the end of the same epoch, and what came after is read again. What was
written meanwhile is written once more, of the same or an older date, which the store ignores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir

from inferbus_features.domain.aggregates import Event, folds_of
from inferbus_features.domain.definitions import WindowedView, fingerprint
from inferbus_features.domain.event_reading import EventReader
from inferbus_features.domain.rows import DEFAULT_LIMITS, RowLimits, tenants_of
from inferbus_features.domain.window_state import Plan, WindowState, WindowValues
from inferbus_features.ports import EventLog

_IDLE_S, _IDLE_MOST_S = 0.05, 0.25
"""How long an input rests that has found nothing: longer and longer, since every look costs a request."""
_BEHIND_S = 0.5

Place = tuple[str, int]
"""Which log, and the sequence up to which it was read."""
Item = tuple[int, Event]
"""When an event arrived (microseconds), and the event."""
Followed = Callable[[WindowedView, int, int], None]
"""Is told how far a view is, now and then: up to when all that arrived is dealt with, and the time of the newest event that was
read since the start (0: none was). Microseconds."""
Write = Callable[[WindowedView, list[tuple[str, WindowValues]]], None]
"""Writes windows of a view by entity; returns when they are stored."""


class _Progress:
    """Up to when all that arrived has been dealt with. Bytewax asks an input for more only after everything of earlier
    epochs went through, so that what was read before an epoch's end is known to be done at the next reading."""

    def __init__(self) -> None:
        self.done_us = 0
        self._read_us = 0
        self._ended_us = 0

    def on_read(self, upto_us: int) -> None:
        self._read_us = max(self._read_us, upto_us)

    def on_epoch_end(self) -> None:
        self._ended_us = self._read_us

    def before_read(self) -> None:
        self.done_us = self._ended_us


class _Input(StatefulSourcePartition[tuple[str, Item], Place]):  # type: ignore[misc]  # not in .venv
    def __init__(self, run: _ViewRun, resume: Place | None) -> None:
        self._run = run
        self._reader = EventReader(run.view, run.limits)
        self._place: Place = ("", 0) if resume is None else resume
        self._wait_until: datetime | None = None
        self._pause_s = _IDLE_S
        self._newest_us = 0

    def next_batch(self) -> list[tuple[str, Item]]:
        run = self._run
        if run.stopping():
            raise StopIteration
        run.progress.before_read()
        run.followed(run.view, run.progress.done_us, self._newest_us)
        self._wait_until = _now() + timedelta(seconds=self._pause_s)
        self._pause_s = min(_IDLE_MOST_S, self._pause_s * 1.2)
        born = run.events.born()
        if not born:
            return []
        if self._place[0] != born:
            self._place = (born, 0)
        found = run.events.read(run.view.source.name, self._place[1], run.tenants)
        items = [
            (entity, (arrived_us, event))
            for _, arrived_us, body in found.messages
            for entity, event in self._reader.events_of(body, arrived_us)
        ]
        if found.messages:
            self._place = (born, found.messages[-1][0])
            self._newest_us = max([self._newest_us, *(event.time_us for _, (_, event) in items)])
            self._wait_until, self._pause_s = None, _IDLE_S
        run.progress.on_read(found.caught_up_us or (found.messages[-1][1] if found.messages else 0))
        return items

    def next_awake(self) -> datetime | None:
        return self._wait_until

    def snapshot(self) -> Place:
        self._run.progress.on_epoch_end()
        return self._place


class _Source(FixedPartitionedSource[tuple[str, Item], Place]):  # type: ignore[misc]  # not in .venv
    def __init__(self, run: _ViewRun) -> None:
        self._run = run

    def list_parts(self) -> list[str]:
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: Place | None) -> _Input:  # noqa: ARG002 - Bytewax's
        return _Input(self._run, resume_state)


class _Windows(StatefulBatchLogic[Item, WindowValues, bytes]):  # type: ignore[misc]  # not in .venv
    """One entity of one view."""

    def __init__(self, run: _ViewRun, resume: bytes | None) -> None:
        self._state = WindowState(run.plan) if resume is None else WindowState.from_stored(run.plan, resume)
        self._progress = run.progress
        self._look_again: datetime | None = None

    def on_batch(self, values: list[Item]) -> tuple[Iterable[WindowValues], bool]:
        self._state.take(event for _, event in values)
        return self._move_to(max(self._progress.done_us, *(arrived_us for arrived_us, _ in values)))

    def on_notify(self) -> tuple[Iterable[WindowValues], bool]:
        due_us = self._state.next_due_us()
        if due_us is not None and due_us > self._progress.done_us:
            self._look_again = _now() + timedelta(seconds=_BEHIND_S)  # what has arrived is not all dealt with
            return (), False
        return self._move_to(self._progress.done_us)

    def notify_at(self) -> datetime | None:
        due_us = self._state.next_due_us()
        if due_us is None:
            return None
        due = datetime.fromtimestamp(due_us / 1e6, tz=UTC)
        return due if self._look_again is None else max(due, self._look_again)

    def snapshot(self) -> bytes:
        return self._state.to_stored()

    def _move_to(self, now_us: int) -> tuple[Iterable[WindowValues], bool]:
        found = self._state.due(now_us)
        self._state.forget(now_us)
        return found, self._state.is_empty


class _Output(StatelessSinkPartition[tuple[str, WindowValues]]):  # type: ignore[misc]  # not in .venv
    def __init__(self, run: _ViewRun) -> None:
        self._run = run

    def write_batch(self, items: list[tuple[str, WindowValues]]) -> None:
        self._run.write(self._run.view, items)


class _Sink(DynamicSink[tuple[str, WindowValues]]):  # type: ignore[misc]  # not in .venv
    def __init__(self, run: _ViewRun) -> None:
        self._run = run

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Output:  # noqa: ARG002 - Bytewax's
        return _Output(self._run)


class _ViewRun:
    """What the parts of one view's run share."""

    def __init__(
        self,
        view: WindowedView,
        events: EventLog,
        write: Write,
        followed: Followed,
        limits: RowLimits,
        stopping: Callable[[], bool],
    ) -> None:
        self.view = view
        self.events = events
        self.write = write
        self.followed = followed
        self.limits = limits
        self.tenants = tenants_of(view.source.tags)
        self.stopping = stopping
        self.plan = Plan(view.window, folds_of(view), view.lateness_us)
        self.progress = _Progress()

    def windows(self, resume: bytes | None) -> _Windows:
        return _Windows(self, resume)


class BytewaxEngine:
    """`folder` keeps the snapshots, one every `snapshot_s`; `write` is called with what comes out, in this thread."""

    def __init__(
        self,
        folder: Path,
        events: EventLog,
        write: Write,
        *,
        followed: Followed = lambda *_: None,
        limits: RowLimits = DEFAULT_LIMITS,
        snapshot_s: float = 1.0,
    ) -> None:
        self._folder = folder
        self._events = events
        self._write = write
        self._followed = followed
        self._limits = limits
        self._snapshot_s = snapshot_s

    def run(self, views: Sequence[WindowedView], stopping: Callable[[], bool]) -> None:
        """Go on from where the last run got to, whatever ended it; return soon after `stopping`."""
        if not any(self._folder.glob("*.sqlite3")):
            self._folder.mkdir(parents=True, exist_ok=True)
            init_db_dir(self._folder, 1)
        flow = Dataflow("features")
        for view in views:
            self._add(flow, _ViewRun(view, self._events, self._write, self._followed, self._limits, stopping))
        cli_main(
            flow, epoch_interval=timedelta(seconds=self._snapshot_s), recovery_config=RecoveryConfig(str(self._folder))
        )

    def _add(self, flow: Dataflow, run: _ViewRun) -> None:
        """Let a view have steps of its own, named after what it is: one that was changed begins at the beginning."""
        name = f"{run.view.name}-{fingerprint(run.view)}"
        events = op.input(f"events-{name}", flow, _Source(run))
        found = op.stateful_batch(f"windows-{name}", events, run.windows)
        op.output(f"store-{name}", found, _Sink(run))


def _now() -> datetime:
    return datetime.now(UTC)

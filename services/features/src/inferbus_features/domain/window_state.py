"""WindowState: one entity's windows in the stream. Events go in as they come, values come out as time passes.

Which values finally come out depends on the events alone, not on their order or on when they were seen: for each window
with an event its value, and for the first window without one an empty value, so that a feature does not stay what it was.
In between a window's value comes out as often as it changes, dated so that the last one is the newest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from inferbus_features.domain.aggregates import Event, Fold, State
from inferbus_features.domain.definitions import Scalar
from inferbus_features.domain.windows import Window

_CLOCK_SLACK_US = 60_000_000
"""How far arrival times may go back within a stream: another server leads, and its clock is behind."""


class WindowValues(msgspec.Struct, frozen=True):
    """The features of one entity and window; `timestamp_us` as `Window.timestamp_of` dates them."""

    last_pane: int
    timestamp_us: int
    values: tuple[Scalar, ...]


class Plan(msgspec.Struct, frozen=True):
    """What of a view a state needs to know."""

    window: Window
    folds: tuple[Fold, ...]
    lateness_us: int


class WindowState:
    """`take` events, then ask for what is `due`. `to_stored` and `from_stored` outlive the process."""

    __slots__ = ("_due", "_panes", "_plan")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._panes: dict[int, list[State]] = {}  # pane -> [how many events, a state for each fold]
        self._due: set[int] = set()  # windows to be told, once their last pane has begun

    @property
    def is_empty(self) -> bool:
        return not self._panes and not self._due

    def take(self, events: Iterable[Event]) -> None:
        """Add events; whoever calls has left out those that do not count."""
        window = self._plan.window
        by_pane: dict[int, list[Event]] = {}
        for event in events:
            by_pane.setdefault(window.pane_of(event.time_us), []).append(event)
        for pane, found in by_pane.items():
            self._fold(pane, found)
            last = window.holding(pane)
            self._due.update(last)
            self._due.add(last.stop)  # may be the first empty one

    def due(self, now_us: int) -> list[WindowValues]:
        """Give the values of windows that have changed and whose last pane has begun, oldest first; each once."""
        pane_now = self._plan.window.pane_of(now_us)
        ready = sorted(last for last in self._due if last <= pane_now)
        self._due.difference_update(ready)
        return [values for last in ready if (values := self._values(last)) is not None]

    def next_due_us(self) -> int | None:
        """Say when there will be something due without further events; or to be forgotten."""
        if self._due:
            return self._plan.window.begin_of(min(self._due))
        return self._forget_at(min(self._panes)) if self._panes else None

    def forget(self, arrived_us: int) -> None:
        """Drop what no event can change any more that arrives after `arrived_us`."""
        for pane in [pane for pane in self._panes if self._forget_at(pane) <= arrived_us]:
            if not any(last in self._due for last in range(pane, pane + self._plan.window.panes + 1)):
                del self._panes[pane]

    def to_stored(self) -> bytes:
        return msgspec.msgpack.encode((self._panes, self._due))

    @classmethod
    def from_stored(cls, plan: Plan, stored: bytes) -> WindowState:
        state = cls(plan)
        state._panes, state._due = msgspec.msgpack.decode(stored, type=tuple[dict[int, list[Any]], set[int]])
        return state

    def _forget_at(self, pane: int) -> int:
        window = self._plan.window
        return window.begin_of(pane + window.panes + 1) + self._plan.lateness_us + _CLOCK_SLACK_US

    def _fold(self, pane: int, events: Sequence[Event]) -> None:
        states = self._panes.get(pane)
        if states is None:
            states = self._panes[pane] = [0, *(fold.kind.empty() for fold in self._plan.folds)]
        states[0] += len(events)
        for i, fold in enumerate(self._plan.folds, 1):
            states[i] = fold.kind.fold(states[i], fold.pick(events))

    def _values(self, last: int) -> WindowValues | None:
        """Compute a window; None where it is empty and the one before was too."""
        panes, plan = self._panes, self._plan
        first = last - plan.window.panes + 1
        found = [panes[pane] for pane in range(first, last + 1) if pane in panes]
        if not found and first - 1 not in panes:
            return None
        return window_values(plan, last, found)


def window_values(plan: Plan, last: int, found: Sequence[Sequence[Any]]) -> WindowValues:
    """Put together panes (how many events, a state for each fold) to the values of a window."""
    events = sum(states[0] for states in found)
    values: list[Scalar] = []
    for i, fold in enumerate(plan.folds, 1):
        state = found[0][i] if found else fold.kind.empty()
        for other in found[1:]:
            state = fold.kind.merge(state, other[i])
        values.append(fold.kind.value(state))
    return WindowValues(last, plan.window.timestamp_of(last, events), tuple(values))

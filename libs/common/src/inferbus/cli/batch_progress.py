"""How a batch that runs is shown: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from inferbus.batch.http_api import ApiBatch

_WINDOW_S = 30.0
_LINE_EVERY_S = 10.0


class Rate:
    """Rows and tokens per second over the last half minute. Pure but for what it is told."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()

    def note(self, now: float, rows: int, tokens: int) -> None:
        self._seen.append((now, rows, tokens))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()

    def per_second(self) -> tuple[float, float]:
        """Give rows and tokens per second; zeros where it is too early to say."""
        (began, rows, tokens), (now, rows_now, tokens_now) = self._seen[0], self._seen[-1]
        if now <= began:
            return 0.0, 0.0
        return (rows_now - rows) / (now - began), (tokens_now - tokens) / (now - began)


def left_of(batch: ApiBatch, rate: Rate) -> str:
    """Say how long it may take yet, as `2m 10s`; `-` where nobody knows."""
    counts = batch.request_counts
    rows, _ = rate.per_second()
    left = counts.total - counts.completed - counts.failed
    if rows <= 0 or not counts.total:
        return "-"
    minutes, seconds = divmod(int(left / rows), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {seconds}s" if minutes else f"{seconds}s"


def state_of(batch: ApiBatch) -> str:
    """Say in a word or two what a batch does."""
    if batch.paused is None or batch.is_over:
        return batch.status
    why = batch.paused.message or batch.paused.reason
    return f"{batch.status}, paused ({why})"


class BatchProgress:
    """Shows a batch as it is told of, from `with` to its end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rate = Rate()
        self._said = ("", 0.0)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[state]}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rest]}"), TimeElapsedColumn(), console=self._console,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=None, state="", rest="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, batch: ApiBatch) -> None:
        counts, now = batch.request_counts, time.monotonic()
        done = counts.completed + counts.failed
        self._rate.note(now, done, batch.usage.total_tokens)
        _, tokens = self._rate.per_second()
        rest = f"{tokens:,.0f} tokens/s  ETA {left_of(batch, self._rate)}  {counts.failed} failed"
        if self._bar is not None:
            total = counts.total or None
            self._bar.update(self._task, total=total, completed=done, state=state_of(batch), rest=rest)
            return
        state, at = self._said
        if state_of(batch) != state or now - at >= _LINE_EVERY_S or batch.is_over:
            self._said = (state_of(batch), now)
            line = f"{state_of(batch)}: {done}/{counts.total or '?'} rows, {rest}"
            self._console.print(line, highlight=False, markup=False)

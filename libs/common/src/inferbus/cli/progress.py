"""How a starting or stopping platform is shown: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from inferbus.local.state import FAILED, READY, RESTARTING, STOPPED, PlatformState, ProcessState

_STYLES = {READY: "green", FAILED: "bold red", RESTARTING: "yellow", STOPPED: "dim"}
_MARKS = {READY: "✓", FAILED: "✗", STOPPED: "·"}


class Progress:
    """Shows `PlatformState`s as they come, from `with` to its end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, str] = {}
        self._spinners: dict[str, Spinner] = {}
        self._state: PlatformState | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, get_renderable=self._render, refresh_per_second=8, redirect_stdout=False
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, state: PlatformState) -> None:
        self._state = state
        for process in state.processes:
            text = _describe(process)
            if self._shown.get(process.name) != text:
                self._shown[process.name] = text
                if self._live is None:
                    self._console.print(f"{process.name:<12} {text}", highlight=False, markup=False)

    def _render(self) -> RenderableType:
        if self._state is None:
            return Text("")
        table = Table.grid(padding=(0, 2))
        for process in self._state.processes:
            table.add_row(self._mark(process), process.name, Text(_describe(process), _STYLES.get(process.state, "")))
        return Group(table)

    def _mark(self, process: ProcessState) -> RenderableType:
        if process.state in _MARKS:
            return Text(_MARKS[process.state], _STYLES.get(process.state, ""))
        return self._spinners.setdefault(process.name, Spinner("dots"))


def _describe(process: ProcessState) -> str:
    if process.state == READY:
        return f"ready{f' on port {process.port}' if process.port else ''}"
    if process.state in {RESTARTING, FAILED}:
        return f"{process.state} ({process.last_exit})"
    if process.role == "llm-worker" and process.state == "starting":
        return "starting: loading the engine"
    return process.state


def age_of(started: float) -> str:
    """Give the time since `started` (Unix time) as people say it."""
    seconds = max(0, int(time.time() - started))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h"

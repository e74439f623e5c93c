"""Reading the log files of a local platform, one after the other or together as they grow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

from inferbus.errors import NotFound
from inferbus.local.layout import Layout
from inferbus.local.state import read_state

_POLL_S = 0.2


def find(layout: Layout, service: str) -> list[Path]:
    """Find the logs of a process (`llm-0`), a role (`llm-worker`) or a name's beginning (`llm`); all for ``.

    Raises:
        NotFound: there is no such log.
    """
    logs = sorted(layout.logs.glob("*.log")) if layout.logs.is_dir() else []
    state = read_state(layout)
    roles = {process.name: process.role for process in state.processes} if state else {}
    found = [
        log
        for log in logs
        if not service or service in {log.stem, roles.get(log.stem)} or log.stem.startswith(f"{service}-")
    ]
    if not found:
        names = ", ".join(log.stem for log in logs) or "none"
        raise NotFound(f"no log of {service!r}; there are: {names}" if service else "there are no logs yet")
    return found


def read(layout: Layout, service: str, *, lines: int, follow: bool) -> Generator[str]:
    """Give the last `lines` lines of every log, then (`follow`) new ones for ever; marked by process if several."""
    logs = find(layout, service)
    names = {log: f"{log.stem:<12} " if len(logs) > 1 else "" for log in logs}
    with ExitStack() as stack:
        files = {log: stack.enter_context(log.open(encoding="utf-8", errors="replace")) for log in logs}
        for log, file in files.items():
            for line in deque(file, maxlen=lines):
                yield names[log] + line.rstrip("\n")
        while follow:
            grown = False
            for log, file in files.items():
                for line in file:
                    grown = True
                    yield names[log] + line.rstrip("\n")
            if not grown:
                time.sleep(_POLL_S)

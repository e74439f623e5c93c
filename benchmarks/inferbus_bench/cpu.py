"""CPU time of process trees, from /proc. Engine processes are told apart by the title vLLM gives them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ENGINE = "engine"
_ENGINE_TITLES = (b"VLLM::EngineCore", b"VLLM::Worker")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")

Seconds = dict[str, float]


def cpu_of(roots: Mapping[str, int]) -> Seconds:
    """Give user and system seconds since their start of each root process with all its descendants.

    Engine processes and what they started count under `engine`, wherever they hang.
    """
    children = _children()
    seconds = dict.fromkeys([*roots, ENGINE], 0.0)
    for name, pid in roots.items():
        _add_tree(pid, name, children, seconds)
    return seconds


def busy_seconds() -> float:
    """Give the seconds all cores of the machine together were busy since it started."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(field) for field in (_PROC / "stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _add_tree(root: int, name: str, children: Mapping[int, list[int]], seconds: Seconds) -> None:
    todo = [(root, name)]
    while todo:
        pid, group = todo.pop()
        stat = _stat(pid)
        if stat is None:
            continue
        group = ENGINE if _is_engine(pid) else group
        seconds[group] += sum(int(ticks) for ticks in stat[11:15]) / _TICKS_PER_S  # its own, and of those it waited for
        todo += [(child, group) for child in children.get(pid, [])]


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    return children


def _stat(pid: int) -> list[str] | None:
    """Give the fields of /proc/<pid>/stat from the third on (the second may contain spaces); None if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _is_engine(pid: int) -> bool:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().startswith(_ENGINE_TITLES)
    except OSError:
        return False

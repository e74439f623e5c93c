"""Processes as the kernel sees them: who descends from whom, and who is still there. Linux only, as the platform."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec


class Process(msgspec.Struct, frozen=True):
    """One process. `born` (clock ticks since boot) tells it from a later one with the same id."""

    pid: int
    parent: int
    born: int
    command: str
    state: str

    def alive(self) -> bool:
        """Say whether it still runs; one that only waits to be reaped does not."""
        now = _read(self.pid)
        return now is not None and now.born == self.born and now.state not in "ZX"


def descendants(pid: int) -> list[Process]:
    """Give a process and all that descends from it."""
    everybody = [one for entry in Path("/proc").glob("[0-9]*") if (one := _read(int(entry.name))) is not None]
    found = [one for one in everybody if one.pid == pid]
    for parent in found:  # grows while it is read
        found += [one for one in everybody if one.parent == parent.pid]
    return found


def _read(pid: int) -> Process | None:
    with contextlib.suppress(OSError):
        folder = Path(f"/proc/{pid}")
        # pid (name) state ppid ...: the name may hold anything, so read behind its last parenthesis
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return Process(pid, int(fields[1]), int(fields[19]), command.strip(), fields[0])
    return None

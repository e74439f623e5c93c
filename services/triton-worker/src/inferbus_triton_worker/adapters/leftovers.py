"""What a server that was killed leaves behind: processes of its models, and their regions of shared memory.

Every server of ours gives its regions a prefix of its own, which its models' processes have on their command lines. So
what is removed here was certainly its own; nothing is found by a program's name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from pathlib import Path

_PREFIX = "inferbus_triton_"


def region_prefix(folder: Path) -> str:
    """Give the prefix of the server that has this state folder: the same at every start, and nobody else's."""
    return f"{_PREFIX}{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}_"


def kill_processes(prefix: str, *, proc: Path = Path("/proc")) -> list[int]:
    """SIGKILL the processes whose command line has one of these regions, or the prefix as an option. Returns who."""
    mark = prefix.encode()
    killed = []
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if any(mark in argument for argument in (entry / "cmdline").read_bytes().split(b"\0")):
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(int(entry.name))
    return killed


def remove_regions(prefix: str, *, memory: Path = Path("/dev/shm")) -> int:  # noqa: S108  # where Linux has shared memory
    """Remove the regions with this prefix; their server must be dead. Returns how many there were."""
    removed = 0
    for region in memory.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            region.unlink()
            removed += 1
    return removed

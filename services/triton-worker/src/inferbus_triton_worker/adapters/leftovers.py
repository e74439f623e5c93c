"""What a server that was killed leaves behind: processes of its models, and their regions of shared memory.

Every server of ours gives its regions a prefix of its own, which its models' processes have on their command lines. So
what is removed here was certainly its own; nothing is found by a program's name. Who looks after a server holds the
lock of its prefix, a file beside the regions: what has a lock that nobody holds belongs to nobody.

Only the standard library: `keeper` runs without any other.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108  # where Linux has shared memory
_PREFIX = "inferbus_triton_"
_LOCK = "lock"
_LOOK_AGAIN_S = 0.05
_DYING_S = 10.0


class LockHeld(Exception):
    """Somebody else looks after this server."""


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


def remove_regions(prefix: str, *, memory: Path = MEMORY) -> int:
    """Remove the regions with this prefix; their server must be dead. Returns how many there were."""
    removed = 0
    for region in memory.glob(f"{prefix}*"):
        if region.name != prefix + _LOCK:
            with contextlib.suppress(OSError):
                region.unlink()
                removed += 1
    return removed


def clear(prefix: str, *, memory: Path = MEMORY) -> tuple[int, int]:
    """Kill what is left of a server whose keeper is gone, and when that is dead remove its regions. Returns how many of each.
    Waits 10 s at most for the killed to be gone."""
    everybody: set[int] = set()
    until = time.monotonic() + _DYING_S
    while (killed := kill_processes(prefix)) and time.monotonic() < until:
        everybody.update(killed)
        time.sleep(_LOOK_AGAIN_S)
    return len(everybody), remove_regions(prefix, memory=memory)


@contextlib.contextmanager
def locked(prefix: str, wait: Callable[[], None], *, memory: Path = MEMORY) -> Iterator[None]:
    """Hold the lock of a prefix; it is gone afterwards. `wait` is called while somebody else holds it, and may raise."""
    while (lock := _try_lock(memory / (prefix + _LOCK), os.O_CREAT)) is None:
        wait()
    try:
        yield
    finally:
        (memory / (prefix + _LOCK)).unlink(missing_ok=True)
        os.close(lock)


def clear_unkept(prefix: str, *, memory: Path = MEMORY) -> bool:
    """Clear what is left of a server that nobody looks after, and its lock; says whether that was so."""
    try:
        with locked(prefix, _never_wait, memory=memory):
            clear(prefix, memory=memory)
    except LockHeld:
        return False
    return True


def sweep(*, memory: Path = MEMORY) -> int:
    """Clear what servers of ours left whose keepers were killed. Returns how many of them there were."""
    found = 0
    for path in memory.glob(f"{_PREFIX}*_{_LOCK}"):
        with contextlib.suppress(OSError):  # another user's
            found += clear_unkept(path.name.removesuffix(_LOCK), memory=memory)
    return found


def _never_wait() -> None:
    raise LockHeld


def _try_lock(path: Path, create: int) -> int | None:
    """Take a lock that nobody holds; None if somebody does, or it was removed while it was taken."""
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | create, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino == path.stat().st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None

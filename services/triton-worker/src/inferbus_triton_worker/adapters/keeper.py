"""The keeper: a process of its own between a worker and its Triton, so that whoever is killed, nothing is left.

The kernel kills the server when the keeper dies; its models' processes it does not (they are children of threads of the
server that end early), and one that is stuck does not notice by itself that its server is gone. So the keeper adopts
them: it is the reaper of everything below it, and when the server has ended, or the pipe from its owner says that the
owner has, it kills all that is left, removes the regions of shared memory and ends. It is in a session of its own, so
that what kills the owner's does not kill it. Where keeper and owner are killed together, the next keeper of any server
on this machine does the rest (`leftovers.sweep`).

It is told what to do in one line of JSON on its input (`argv`, `env`, `folder`, `prefix`), then `stop`; it says `pid N`
and `ended STATUS`. Only the standard library, and no environment of the models: 16 MB, 40 ms.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
from pathlib import Path
from typing import Any, NoReturn

from inferbus_triton_worker.adapters import leftovers

LAUNCH = (
    "import sys; sys.path.insert(0, sys.argv.pop()); "
    "from inferbus_triton_worker.adapters.keeper import main; main()"
)  # fmt: skip
"""What Python is given to run it (`-c`), and the folder of this package as the argument."""
STOP = b"stop\n"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_AGAIN_S = 0.05
_libc = ctypes.CDLL(None, use_errno=True)


class OwnerGone(Exception):
    """Nobody is at the other end of the pipe."""


def main() -> None:
    """Keep one server from its start to its end. Exits 0 whatever it ended with."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)  # for its owner to hear, who says what is to be done
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    owner = _Owner()
    try:
        order: dict[str, Any] = json.loads(owner.line())
        with leftovers.locked(order["prefix"], owner.pause):
            leftovers.clear(order["prefix"])
            leftovers.sweep()
            status = _keep(order, owner)
            leftovers.remove_regions(order["prefix"])
        _say(f"ended {status}")
    except OwnerGone:
        return


def descendants(pid: int, *, proc: Path = Path("/proc")) -> list[int]:
    """Give the processes that descend from one."""
    children: dict[int, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                # pid (name) state ppid ...: the name may hold anything, so read behind its last parenthesis
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # gone meanwhile
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(pid, ()))
    for one in found:  # grows while it is read
        found += children.get(one, ())
    return found


class _Owner:
    """The pipe from the worker."""

    def __init__(self) -> None:
        self._read = b""

    def line(self) -> bytes:
        while b"\n" not in self._read:
            if not (more := os.read(0, 65536)):
                raise OwnerGone
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line

    def pause(self) -> None:
        """Wait a moment.

        Raises:
            OwnerGone: it is, or wants no more of this.
        """
        if select.select([0], [], [], _LOOK_AGAIN_S)[0]:
            raise OwnerGone


def _keep(order: dict[str, Any], owner: _Owner) -> int:
    """Run the server until it ends, or has to; nothing of it runs afterwards. Gives its status as `subprocess` does."""
    server = _spawn(order)
    try:
        _say(f"pid {server}")
        _until_over(server, owner)
    except OwnerGone:
        pass
    finally:
        status = _end_all(server)
    return status


def _spawn(order: dict[str, Any]) -> int:
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_server(order, keeper)
    return pid


def _become_server(order: dict[str, Any], keeper: int) -> NoReturn:
    try:
        os.setsid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:  # it died before the line above
            os._exit(1)
        for number in (*_IGNORED, signal.SIGPIPE, signal.SIGXFSZ):  # the last two Python itself ignores
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.chdir(order["folder"])
        os.execve(order["argv"][0], order["argv"], order["env"])  # noqa: S606  # what the worker says
    except BaseException as exc:  # whatever it is, no second keeper may go on from here
        os.write(2, f"cannot be started: {exc!r}\n".encode())
    os._exit(127)


def _until_over(server: int, owner: _Owner) -> None:
    """Wait for the server's end, and see that it is asked for one.

    Raises:
        OwnerGone: the server has to go, at once.
    """
    ended = os.pidfd_open(server)
    try:
        while ended not in select.select([0, ended], [], [])[0]:
            owner.line()  # there is but one thing it says
            os.kill(server, signal.SIGTERM)  # not reaped yet: it cannot be another's number
    finally:
        os.close(ended)


def _end_all(server: int) -> int:
    """Kill everything below this process, which adopts whose parents die; every one is waited for."""
    status = 0
    while True:
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            pid, raw = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if pid == server:
            status = os.waitstatus_to_exitcode(raw)


def _say(what: str) -> None:
    try:
        os.write(1, f"{what}\n".encode())
    except OSError as exc:
        raise OwnerGone from exc

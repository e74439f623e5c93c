"""Service processes without the second of CPU that importing them takes: one process has imported all, and forks.

What it forks is a process as any other, with an environment, a log, a process id and an end of its own, and runs what
`python -m <module>` would run. Starting as a user does is what the tests of `inferbus up` are for.

Who asks sends the module, the environment and two descriptors: the log, and a socket that is told the process id, and
the exit status when the process has ended. The nursery ends with whoever started it, and takes its children along.
"""

from __future__ import annotations

import array
import asyncio
import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec

MODULES = ("inferbus_gateway.main", "inferbus_llm_worker.main", "inferbus.ledger.main", "inferbus.topology.main")
_REQUEST_BYTES = 128 * 1024
_PR_SET_PDEATHSIG = 1


class _Birth(msgspec.Struct, frozen=True):
    module: str
    env: dict[str, str]


# --- the nursery's own process ---------------------------------------------------------------------------------------


def main() -> None:
    """Serve until nobody can ask any more; in a child, run what it was made for."""
    libc, nursery = ctypes.CDLL(None), os.getpid()
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()
    birth = _serve(int(sys.argv[1]))
    if birth is not None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == nursery:
            sys.argv = [birth.module]
            runpy.run_module(birth.module, run_name="__main__", alter_sys=True)


def _serve(descriptor: int) -> _Birth | None:
    """Fork for whoever asks. It returns in every child, with what that is to be, and with nothing of ours open."""
    with ExitStack() as stack:
        # Not epoll: a child that closes what it shares with us would take it from us as well.
        waiting = stack.enter_context(selectors.PollSelector())
        asked = stack.enter_context(socket.socket(fileno=descriptor))
        waiting.register(asked, selectors.EVENT_READ)
        children: dict[int, tuple[int, socket.socket]] = {}
        stack.callback(lambda: [(os.close(pidfd), report.close()) for pidfd, (_, report) in children.items()])
        while True:
            for key, _ in waiting.select():
                if key.fileobj is not asked:
                    pid, report = children.pop(key.fd)
                    waiting.unregister(key.fd)
                    os.close(key.fd)
                    _tell(report, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                    report.close()
                    continue
                request, fds, _, _ = socket.recv_fds(asked, _REQUEST_BYTES, 2)
                if not request:
                    return None
                report = socket.socket(fileno=fds[1])
                birth = msgspec.json.decode(request, type=_Birth)
                if not (pid := os.fork()):
                    report.close()
                    _settle(birth, fds[0])
                    return birth
                os.close(fds[0])
                pidfd = os.pidfd_open(pid)
                children[pidfd] = (pid, report)
                waiting.register(pidfd, selectors.EVENT_READ)
                _tell(report, pid)


def _settle(birth: _Birth, log: int) -> None:
    os.environ.clear()
    os.environ.update(birth.env)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _tell(report: socket.socket, number: int) -> None:
    try:
        report.send(array.array("q", [number]).tobytes())
    except OSError:
        return  # who asked is gone, and so are we in a moment


# --- the process of the tests -------------------------------------------------------------------------------------------


class Forked:
    """What tests use of `asyncio.subprocess.Process`, for a process whose parent is the nursery."""

    def __init__(self, pid: int, report: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._end = asyncio.create_task(self._read_end(report), name=f"end of {pid}")

    async def _read_end(self, report: socket.socket) -> int:
        with report:
            self.returncode = await _number(report)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and that is still to be read
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        return await asyncio.shield(self._end)


async def _number(report: socket.socket) -> int:
    if not (data := await asyncio.get_running_loop().sock_recv(report, 8)):
        raise RuntimeError("the nursery has ended; its traceback is in the output of the tests")
    return array.array("q", data)[0]


async def fork(module: str, env: dict[str, str], log: Path) -> Forked:
    """Run a module in a process that starts in milliseconds; `log` gets what it writes, behind what is there."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with log.open("ab") as file, theirs:
        socket.send_fds(_nursery(), [msgspec.json.encode(_Birth(module, env))], [file.fileno(), theirs.fileno()])
    return Forked(await _number(ours), ours)


@functools.cache
def _nursery() -> socket.socket:
    """Start it; one is enough for all tests of this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        argv = [sys.executable, "-m", "tests.nursery", str(theirs.fileno())]
        process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


if __name__ == "__main__":
    main()

"""Processes of ours without the second of CPU that importing them takes: one process has imported all, and forks.

What it forks is a process as any other, with an environment, output, a process id and an end of its own, and runs what
`python -m <module>` would run. Starting as a user does is what the tests of `inferbus up` are for.

Who asks sends the module, its arguments, the environment and three descriptors: where its output and its errors go, and
a socket that is told the process id, and the exit status when the process has ended. The nursery ends with whoever started it, and takes its children along.
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
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
CLI = "inferbus.cli.main"
MODULES = (
    "inferbus_gateway.main",
    "inferbus_llm_worker.main",
    "inferbus.ledger.main",
    "inferbus.topology.main",
    "inferbus_batch.main",
    "inferbus_vectors.main",
)
_REQUEST_BYTES = 128 * 1024
_PR_SET_PDEATHSIG = 1


class _Birth(msgspec.Struct, frozen=True):
    module: str
    arguments: list[str]
    env: dict[str, str]


# --- the nursery's own process ---------------------------------------------------------------------------------------


def main() -> None:
    """Serve until nobody can ask any more; in a child, run what it was made for."""
    libc, nursery = ctypes.CDLL(None), os.getpid()
    for module in (*MODULES, CLI):
        importlib.import_module(module)
    gc.freeze()
    birth = _serve(int(sys.argv[1]))
    if birth is not None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == nursery:
            sys.argv = [birth.module, *birth.arguments]
            sys.modules.pop(birth.module, None)  # it is run anew; what it imports is there
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
                request, fds, _, _ = socket.recv_fds(asked, _REQUEST_BYTES, 3)
                if not request:
                    return None
                report = socket.socket(fileno=fds[2])
                birth = msgspec.json.decode(request, type=_Birth)
                if not (pid := os.fork()):
                    report.close()
                    _settle(birth, fds[0], fds[1])
                    return birth
                os.close(fds[0])
                os.close(fds[1])
                pidfd = os.pidfd_open(pid)
                children[pidfd] = (pid, report)
                waiting.register(pidfd, selectors.EVENT_READ)
                _tell(report, pid)


def _settle(birth: _Birth, output: int, errors: int) -> None:
    os.environ.clear()
    os.environ.update(birth.env)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.close(output)
    os.close(errors)


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
    with log.open("ab") as file:
        report = _ask(_Birth(module, [], env), file.fileno(), file.fileno())
    report.setblocking(False)
    return Forked(await _number(report), report)


def command(*arguments: str, env: dict[str, str], timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run `inferbus <arguments>` to its end.

    Raises:
        TimeoutError: it took longer.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with _ask(_Birth(CLI, list(arguments), env), output.fileno(), errors.fileno()) as report:
            report.settimeout(timeout_s)
            report.recv(8)  # its process id
            (status,) = array.array("q", report.recv(8))
        texts = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (output, errors)]
    return subprocess.CompletedProcess(["inferbus", *arguments], status, *texts)


def _ask(birth: _Birth, output: int, errors: int) -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        socket.send_fds(_nursery(), [msgspec.json.encode(birth)], [output, errors, theirs.fileno()])
    return ours


@functools.cache
def _nursery() -> socket.socket:
    """Start it; one is enough for all tests of this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        argv = [sys.executable, "-m", "tests.nursery", str(theirs.fileno())]
        process = subprocess.Popen(argv, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


if __name__ == "__main__":
    main()

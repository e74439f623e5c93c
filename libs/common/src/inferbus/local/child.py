"""One supervised process: started, watched, restarted with growing pauses, stopped with a grace period.

It lives in a session of its own, so that a Ctrl-C reaches the supervisor alone, which then drains in order; and it is
killed by the kernel when the supervisor dies, however that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from inferbus.local.processes import ProcessSpec
from inferbus.local.state import FAILED, READY, RESTARTING, STARTING, STOPPED, STOPPING, ProcessState
from inferbus.settings import INCARNATION

_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29
_NS = 1e9
_LOG_BYTES = 16 * 1024 * 1024


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How crashes are met: pauses double from `first_s` to `longest_s` and start over after `steady_s` of life; a
    process that was never ready is given up after `early_exits` crashes."""

    first_s: float = 0.5
    longest_s: float = 15.0
    steady_s: float = 30.0
    early_exits: int = 3


class Child:
    """Runs one spec until told to stop. `on_change` is called after every change of `state`."""

    def __init__(
        self,
        spec: ProcessSpec,
        log: Path,
        on_change: Callable[[Child], None],
        patience: Patience | None = None,
        on_death: Callable[[ProcessSpec, str], Awaitable[None]] | None = None,
    ) -> None:
        """`on_death` is told of an incarnation that ended without saying so, before the next one starts."""
        self.spec = spec
        self.log = log
        self.state = ProcessState(name=spec.name, role=spec.role, port=max(0, spec.port))
        self.failed = asyncio.Event()
        self._on_change = on_change
        self._on_death = on_death
        self._incarnation = ""
        self._patience = patience or Patience()
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.was_ready = False
        self._task: asyncio.Task[None] | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_running(), name=f"child-{self.spec.name}")

    def mark_ready(self, port: int = 0) -> None:
        """Note that it does its work; `port` where it chose one itself, which it keeps over restarts."""
        if self.state.state in {STARTING, RESTARTING}:
            self.was_ready = True
            if port:
                self.spec = msgspec.structs.replace(self.spec, port=port)
            self._change(state=READY, port=port or self.state.port)

    def hang_up(self) -> None:
        """Send SIGHUP: nats-server reads its configuration again."""
        self._signal(signal.SIGHUP)

    def respec(self, spec: ProcessSpec) -> None:
        """Use another command line from the next start on."""
        self.spec = spec

    async def stop(self, grace_s: float | None = None) -> None:
        """Ask it to end, wait `grace_s` seconds (its spec's by default), then kill it and all it started."""
        self._stopping.set()
        patience_s = self.spec.grace_s if grace_s is None else grace_s
        process = self._process
        killed = False
        if process is not None and process.returncode is None:
            self._change(state=STOPPING)
            self._signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), patience_s)
            except TimeoutError:
                killed = True
                self._note(f"still running {patience_s:g} s after SIGTERM: killed")
        self.kill()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        if killed:
            await self._mourn()

    def kill(self) -> None:
        """Kill it and its process group now. The group also holds what it left behind."""
        self._stopping.set()
        if self._process is not None:
            self._signal(signal.SIGKILL)

    async def _keep_running(self) -> None:
        crashes, pause_s = 0, self._patience.first_s
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                break
            self._signal(signal.SIGKILL)  # children of a process that crashed
            if code == 0 and self.was_ready and self.spec.may_be_drained:
                self._note("ended as it was asked to; it stays down until it is restarted")
                break
            crashes += 1
            if time.monotonic() - began > self._patience.steady_s:
                pause_s = self._patience.first_s
            if not self.was_ready and crashes >= self._patience.early_exits:
                self._note(f"exited ({_reason(code)}) {crashes} times without ever being ready: given up")
                self._change(state=FAILED, pid=0, last_exit=_reason(code))
                self.failed.set()
                return
            self._note(f"exited ({_reason(code)}); starting again in {pause_s:g} s")
            self._change(state=RESTARTING, pid=0, restarts=self.state.restarts + 1, last_exit=_reason(code))
            await self._mourn()
            try:
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            except TimeoutError:
                pause_s = min(2 * pause_s, self._patience.longest_s)
        self._change(state=STOPPED, pid=0)

    async def _run_once(self) -> int:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        self._incarnation = secrets.token_hex(6)
        try:
            with self.log.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *self.spec.argv,
                    env=self.spec.env | {INCARNATION: self._incarnation},
                    pass_fds=self.spec.descriptors,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=self._prepare(os.getpid()),
                )
        except OSError as exc:
            self._note(f"cannot be started: {exc}")
            self._process = None
            return 127
        if self._stopping.is_set():  # told to stop while it was being started
            self._signal(signal.SIGKILL)
        self._change(pid=self._process.pid, started=time.time())
        return await self._process.wait()

    async def _mourn(self) -> None:
        if self._on_death is not None and self.was_ready:
            await self._on_death(self.spec, self._incarnation)

    def _prepare(self, supervisor: int) -> Callable[[], None]:
        libc, slack_ns = self._libc, ctypes.c_ulong(int(self.spec.timer_slack_s * _NS))

        def prepare() -> None:  # runs in the child, between fork and exec
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:  # it died before the line above
                os._exit(1)
            if slack_ns.value:
                libc.prctl(_PR_SET_TIMERSLACK, slack_ns)

        return prepare

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # already gone, and its group with it
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    def _note(self, what: str) -> None:
        with self.log.open("a") as log:
            log.write(f"--- inferbus: {self.spec.name} {what}\n")

    def _change(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        self._on_change(self)


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    return f"killed by {signal.Signals(-code).name}"

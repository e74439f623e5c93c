"""Real processes, no platform: how one child is started, restarted, stopped and bound to its supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from inferbus.local.child import Child, Patience
from inferbus.local.processes import ProcessSpec
from inferbus.local.state import FAILED, READY, RESTARTING, STOPPED, ProcessState
from inferbus.settings import INCARNATION
from inferbus.testing import eventually

_QUICK = Patience(first_s=0.01, longest_s=0.05, steady_s=60, early_exits=3)
_SLEEP = "import time; print('up', flush=True); time.sleep(60)"
_DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
_GENTLE = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True);"
    " time.sleep(60)"
)
_WITH_CHILD = "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True); time.sleep(60)"


@asynccontextmanager
async def running(
    program: str,
    folder: Path,
    *,
    grace_s: float = 5.0,
    may_be_drained: bool = True,
    descriptors: tuple[int, ...] = (),
    timer_slack_s: float = 0.0,
) -> AsyncIterator[tuple[Child, list[ProcessState]]]:
    seen: list[ProcessState] = []
    spec = ProcessSpec(
        name="x", role="test", argv=[sys.executable, "-c", program], env=dict(os.environ), grace_s=grace_s,
        may_be_drained=may_be_drained, descriptors=descriptors, timer_slack_s=timer_slack_s,
    )  # fmt: skip
    child = Child(spec, folder / "x.log", lambda child: seen.append(child.state), _QUICK)
    child.start()
    try:
        yield child, seen
    finally:
        await child.stop(grace_s=0.0)


def is_alive(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


async def test_stop_asks_first(tmp_path: Path) -> None:
    async with running(_SLEEP, tmp_path) as (child, seen):
        await eventually(lambda: "up" in child.log.read_text() if child.log.exists() else False)
        pid = child.state.pid
        child.mark_ready()
        assert child.state.state == READY
        await child.stop()
    assert child.state.state == STOPPED
    assert not is_alive(pid)
    assert seen[-1].pid == 0
    assert "killed" not in child.log.read_text()


async def test_who_does_not_listen_is_killed(tmp_path: Path) -> None:
    async with running(_DEAF, tmp_path) as (child, _):
        await eventually(lambda: "up" in child.log.read_text() if child.log.exists() else False)
        pid = child.state.pid
        await child.stop(grace_s=0.1)
        assert not is_alive(pid)
        assert "still running 0.1 s after SIGTERM: killed" in child.log.read_text()


async def test_crash_is_restarted_and_the_orphans_of_it_killed(tmp_path: Path) -> None:
    async with running(_WITH_CHILD, tmp_path) as (child, seen):
        await eventually(lambda: child.log.exists() and child.log.read_text().strip().isdigit())
        orphan, pid = int(child.log.read_text()), child.state.pid
        child.mark_ready()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: child.state.state == RESTARTING and child.state.pid not in {0, pid})
        await eventually(lambda: not is_alive(orphan))
        assert child.state.restarts == 1
        assert child.state.last_exit == "killed by SIGKILL"
        child.mark_ready()
        assert seen[-1].state == READY


async def test_never_ready_is_given_up(tmp_path: Path) -> None:
    async with running("raise SystemExit(3)", tmp_path) as (child, _):
        await asyncio.wait_for(child.failed.wait(), 10)
        assert child.state.state == FAILED
        assert child.state.restarts == 2
        assert "3 times without ever being ready" in child.log.read_text()


async def test_missing_program_is_given_up_too(tmp_path: Path) -> None:
    spec = ProcessSpec(name="x", role="test", argv=[str(tmp_path / "nothing")], env={})
    child = Child(spec, tmp_path / "x.log", lambda _: None, _QUICK)
    child.start()
    await asyncio.wait_for(child.failed.wait(), 10)
    await child.stop()
    assert "cannot be started" in child.log.read_text()


async def test_who_ends_well_by_itself_was_asked_to_and_stays_down(tmp_path: Path) -> None:
    async with running(_GENTLE, tmp_path) as (child, _):
        await eventually(lambda: "up" in child.log.read_text() if child.log.exists() else False)
        child.mark_ready()
        os.kill(child.state.pid, signal.SIGTERM)
        await eventually(lambda: child.state.state == STOPPED)
        assert (child.state.pid, child.state.restarts) == (0, 0)
        assert not child.failed.is_set()


async def test_a_server_that_ends_well_unasked_is_started_again(tmp_path: Path) -> None:
    async with running(_GENTLE, tmp_path, may_be_drained=False) as (child, _):
        await eventually(lambda: "up" in child.log.read_text() if child.log.exists() else False)
        child.mark_ready()
        os.kill(child.state.pid, signal.SIGTERM)
        await eventually(lambda: child.state.restarts == 1 and child.state.pid != 0)


async def test_a_death_is_told_with_the_incarnation_that_died_before_the_next_one_starts(tmp_path: Path) -> None:
    told: list[tuple[str, str, int]] = []

    async def on_death(spec: ProcessSpec, incarnation: str) -> None:
        told.append((spec.name, incarnation, child.state.restarts))

    program = f"import os, time; print(os.environ['{INCARNATION}'], flush=True); time.sleep(60)"
    spec = ProcessSpec(name="x", role="test", argv=[sys.executable, "-c", program], env=dict(os.environ))
    child = Child(spec, tmp_path / "x.log", lambda _: None, _QUICK, on_death)
    child.start()
    try:
        await eventually(lambda: child.log.exists() and len(child.log.read_text().split()) == 1)
        child.mark_ready()
        os.kill(child.state.pid, signal.SIGKILL)
        # it, our remark, the next one
        await eventually(lambda: child.log.read_text().count("\n") == 3, within_s=20)
    finally:
        await child.stop(grace_s=0.0)
    first, *_, second = child.log.read_text().split()
    assert first != second
    assert told[0] == ("x", first, 1)


async def test_descriptors_are_inherited_under_their_numbers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = f"import socket; print(socket.socket(fileno={listener.fileno()}).getsockname()[1], flush=True)"
        async with running(program, tmp_path, descriptors=(listener.fileno(),)) as (child, _):
            port = str(listener.getsockname()[1])
            await eventually(lambda: child.log.exists() and port in child.log.read_text())


async def test_how_late_its_timers_may_be_is_its_own_to_say(tmp_path: Path) -> None:
    program = "import pathlib; print('ns', pathlib.Path('/proc/self/timerslack_ns').read_text().strip(), flush=True)"
    ours = Path("/proc/self/timerslack_ns").read_text().strip()
    for slack_s, expected in ((0.0, ours), (0.001, "1000000")):
        async with running(program, tmp_path, timer_slack_s=slack_s) as (child, _):
            await eventually(lambda: child.log.exists() and f"ns {expected}\n" in child.log.read_text())  # noqa: B023  # awaited at once
    assert Path("/proc/self/timerslack_ns").read_text().strip() == ours


_SUPERVISOR = """
import asyncio, os, pathlib, sys
from inferbus.local.child import Child
from inferbus.local.processes import ProcessSpec
async def main():
    spec = ProcessSpec(name="x", role="t", argv=[sys.executable, "-c", "import time; time.sleep(60)"], env=dict(os.environ))
    child = Child(spec, pathlib.Path(sys.argv[1]), lambda c: print(c.state.pid, flush=True))
    child.start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    supervisor = subprocess.Popen(  # noqa: ASYNC220  # returns at once; its line is read in a thread
        [sys.executable, "-c", _SUPERVISOR, str(tmp_path / "x.log")], stdout=subprocess.PIPE
    )
    with supervisor:
        assert supervisor.stdout is not None
        pid = int(await asyncio.wait_for(asyncio.to_thread(supervisor.stdout.readline), 20))
        assert is_alive(pid)
        supervisor.kill()
        await eventually(lambda: not is_alive(pid))

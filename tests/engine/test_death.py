"""Engines that die: nobody waits for ever, the next engine serves, no process is left."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.engine.chat_bodies import chat
from tests.engine.conftest import make_engine
from tests.engine.waiting import until
from tests.recording_sink import RecordingSink, submit

from inferbus.errors import DependencyDown, EngineDead
from inferbus_llm_worker.adapters.vllm.engine import VllmEngine

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

LONG = {"max_tokens": 1500, "ignore_eos": True}


async def started(*extra: str, hang_after_s: float = 60.0) -> tuple[VllmEngine, int]:
    """Start an engine; gives it and the pid of its EngineCore."""
    before = {process.pid for process in multiprocessing.active_children()}
    engine = make_engine(*extra, hang_after_s=hang_after_s)
    await engine.start()
    (pid,) = {process.pid for process in multiprocessing.active_children()} - before
    assert pid is not None
    return engine, pid


async def one_of_each(engine: VllmEngine) -> list[RecordingSink]:
    """A direct stream, a stream through vLLM's application, and an unstreamed request, all running."""
    direct = await submit(engine, chat(stream=True, **LONG), request_id="direct")
    asgi = await submit(engine, chat(stream=True, logprobs=True, **LONG), request_id="asgi")
    plain = await submit(engine, chat(**LONG), request_id="plain")
    await direct.until_deltas(2)
    await asgi.until_deltas(2)
    await until(lambda: engine.unfinished == 3)
    return [direct, asgi, plain]


async def all_died_of_it(engine: VllmEngine, sinks: list[RecordingSink]) -> str:
    async with asyncio.timeout(20):
        why = await engine.died()
    for sink in sinks:
        assert sink.end.done(), "died() came before a sink's end"
        assert isinstance(await sink.ended(), EngineDead)
        assert b"EngineCore" not in sink.data
        assert b"error" not in sink.data
    late = await submit(engine, chat(stream=True), request_id="late")
    assert isinstance(await late.ended(), DependencyDown)  # it never was in an engine
    return why


async def test_killed_or_hung_engines_are_noticed_and_replaced() -> None:
    engine, pid = await started(hang_after_s=3.0)
    try:
        sinks = await one_of_each(engine)
        os.kill(pid, signal.SIGKILL)
        assert "ended" in await all_died_of_it(engine, sinks)

        await engine.stop()
        await engine.start()
        finish = await (await submit(engine, chat(max_tokens=4), request_id="again")).finish()
        assert finish.status == 200
        assert engine.stats().restarts == 1

        sinks = await one_of_each(engine)
        (pid,) = [p.pid for p in multiprocessing.active_children() if p.pid not in {pid, *_shared_engines()}]
        os.kill(pid, signal.SIGSTOP)
        assert "no step for" in await all_died_of_it(engine, sinks)
        await until(lambda: not _alive(pid))
    finally:
        await engine.stop()


async def test_a_poisonous_request_kills_the_engine_alone() -> None:
    # On a CPU: a seed that is used (not at temperature 0) and a prompt that takes more than one step.
    engine, _ = await started("--enable-chunked-prefill", "--max-num-batched-tokens", "64")
    try:
        harmless = await (await submit(engine, chat("word " * 200, max_tokens=4), request_id="harmless")).finish()
        assert harmless.status == 200
        short = await (await submit(engine, chat(seed=1, temperature=1, max_tokens=4), request_id="short")).finish()
        assert short.status == 200
        greedy = await (await submit(engine, chat("next " * 200, seed=1, max_tokens=4), request_id="greedy")).finish()
        assert greedy.status == 200
        body = chat("other " * 200, seed=1, temperature=1, max_tokens=4)
        poison = await submit(engine, body, request_id="poison")
        await all_died_of_it(engine, [poison])
    finally:
        await engine.stop()


async def test_the_default_flags_survive_that_request(engine: VllmEngine) -> None:
    for streamed in (True, False):
        body = chat("other " * 200, seed=1, temperature=1, max_tokens=4, stream=streamed)
        finish = await (await submit(engine, body, request_id="poison")).finish()
        assert finish.status == 200


async def test_a_start_with_wrong_arguments_says_so_and_can_be_stopped() -> None:
    engine = make_engine("--no-such-flag")
    with pytest.raises(ValueError, match="no-such-flag"):
        await engine.start()
    await engine.stop()


async def test_a_start_can_be_given_up(engine: VllmEngine) -> None:
    other = make_engine()
    before = _children()
    starting = asyncio.ensure_future(other.start())
    await until(lambda: _children() > before)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await other.stop()
    await until(lambda: _children() == before)
    finish = await (await submit(engine, chat(max_tokens=1), request_id="neighbour")).finish()
    assert finish.status == 200


async def test_a_killed_worker_leaves_no_engine_behind() -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).parent / "lone_worker.py"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert worker.stdout is not None
        async with asyncio.timeout(120):
            while not (line := await worker.stdout.readline()).startswith(b"engines "):
                assert line, "the worker ended"
        pids = [int(pid) for pid in line.split()[1:]]
        assert len(pids) >= 2
        assert all(_alive(pid) for pid in pids)
    finally:
        worker.kill()
        await worker.wait()
    await until(lambda: not any(_alive(pid) for pid in pids), timeout_s=10)


def _children() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


_shared: set[int] = set()


@pytest.fixture(autouse=True)
def shared(engine: VllmEngine) -> None:
    """Know the session's own engine, which must not be touched here."""
    if not _shared:
        _shared.update(pid for pid in _children() if pid is not None)


def _shared_engines() -> set[int]:
    return _shared


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except FileNotFoundError:
        return False
    return state != "Z"

"""Deadlines: in the queue, in the worker and at the gateway, each by itself; by the server's clock, whatever a host's says."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import openai
import pytest
from tests.connected.rig import Rig, WorkerSide
from tests.main_path import MODEL, MainPath, answer_of, ask
from tests.told_facts import told_facts

from inferbus import routes
from inferbus.contracts.envelope import Envelope, headers_of
from inferbus.contracts.models import Limits, ModelEntry
from inferbus.testing import NatsServer, eventually

ENDLESS = 100_000
SHORT = {"X-Inferbus-Deadline-Ms": "700"}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    limits = Limits(default_deadline_s=0.8, default_deadline_batch_s=60)
    async with MainPath(tmp_path, ModelEntry(name=MODEL, pool=MODEL, limits=limits)) as path:
        await path.gateway()
        yield path


async def _refused(path: MainPath, *, stream: bool = False, headers: dict[str, str] | None = None) -> openai.APIError:
    """Ask for more than there is time for; give the error, which must come soon after the deadline."""
    began = time.monotonic()
    async with path.client() as client:
        with pytest.raises(openai.APIError) as caught:
            await ask(client, ENDLESS, stream=stream, extra_headers=headers)
    assert 0.6 < time.monotonic() - began < 3
    return caught.value


async def _told(path: MainPath) -> list[tuple[str, str, int | None]]:
    operator = await path.nats.connect("operator")
    try:
        events = [told.event for told in await told_facts(operator)]
    finally:
        await operator.close()
    return [(event.reason, event.phase, event.completion_tokens) for event in events]


@pytest.mark.parametrize("stream", [False, True])
async def test_in_the_queue_it_ends_without_a_worker_and_leaves_the_queue(path: MainPath, stream: bool) -> None:
    error = await _refused(path, stream=stream, headers=SHORT)
    assert error.code == "deadline_queued"
    await eventually(lambda: _is_empty(path))

    async def is_told() -> bool:
        return await _told(path) == [("deadline", "queued", 0)]

    await eventually(is_told)
    await path.worker()
    await path.settled()
    with pytest.raises(LookupError):  # no attempt ever ended there
        path.figure("llm-0", "inferbus_worker_requests_total")


async def _is_empty(path: MainPath) -> bool:
    return await path.stored() == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_while_it_runs_the_engine_stops_and_it_is_told_as_a_deadline(path: MainPath, stream: bool) -> None:
    await path.worker(simulator_itl_s=0.01)
    error = await _refused(path, stream=stream, headers=SHORT)
    assert error.code == "deadline_running"
    await path.settled(within_s=5)

    async def is_told() -> bool:
        told = await _told(path)
        return len(told) == 1 and told[0][:2] == ("deadline", "decode") and bool(told[0][2])

    await eventually(is_told)
    assert path.figure("llm-0", "inferbus_worker_expired_total") == 0


async def test_the_gateway_needs_no_worker_to_say_so(path: MainPath) -> None:
    """Its worker is frozen in the middle of the answer."""
    worker = await path.worker(simulator_itl_s=0.01)
    async with path.client() as client:
        task = asyncio.create_task(ask(client, ENDLESS, extra_headers={"X-Inferbus-Deadline-Ms": "1200"}))
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 1)
        await worker.freeze()
        try:
            with pytest.raises(openai.APIError) as caught:
                await asyncio.wait_for(task, 4)
        finally:
            worker.signal(signal.SIGCONT)
    assert caught.value.code in ("deadline_running", "deadline_queued")
    await path.settled()


async def test_each_lane_has_its_default(path: MainPath) -> None:
    assert (await _refused(path)).code == "deadline_queued"
    async with path.client() as client:
        batch = asyncio.create_task(ask(client, 5, extra_headers={"X-Inferbus-Lane": routes.BATCH}))
        done, _ = await asyncio.wait({batch}, timeout=1.2)  # longer than the other lane's
        assert not done
        await path.worker()
        assert await asyncio.wait_for(batch, 10) == answer_of(5)


# --- the worker by itself, on a host whose clock is wrong ---------------------------------------------------------------


@pytest.fixture
async def rig(server: NatsServer) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        yield Rig(server, stack)


async def _publish(server: NatsServer, tag: int, deadline_ms: int) -> None:
    """Publish work of an asker that is not there: only the worker's own clock can end it within the next three seconds."""
    bus = await server.connect("gateway")
    envelope = Envelope(
        request_id=f"r{tag}", tag_no=tag, asker="nobody", path="/v1/chat/completions", deadline_ms=deadline_ms
    )
    subject = routes.infer(region="local", runtime="llm", pool="m", lane="interactive", bucket=0, tenant="dev")
    await bus.accept(subject, b"{}", headers_of(envelope), msg_id=str(tag))
    await bus.close()


async def _call(worker: WorkerSide) -> None:
    await eventually(lambda: bool(worker.engine.calls))


@pytest.mark.parametrize("skew_s", [-3600, 0, 3600])
async def test_a_worker_ends_it_on_time_by_its_own(
    rig: Rig, server: NatsServer, monkeypatch: pytest.MonkeyPatch, skew_s: int
) -> None:
    real = time.time
    monkeypatch.setattr("inferbus.queue.intake.time.time", lambda: real() + skew_s)
    worker = await rig.worker()
    began = time.monotonic()
    await _publish(server, 1, 900)
    await _call(worker)
    await eventually(lambda: worker.engine.calls[0].aborted)
    assert 0.7 < time.monotonic() - began < 3, "before its asker has been silent for too long"
    # Its asker is given up when it has been silent for 3 s, looked at every second, and 1 s to confirm an end.
    await eventually(rig.queue_is_empty, within_s=12)


@pytest.mark.parametrize("skew_s", [-3600, 3600])
async def test_a_worker_drops_what_waited_too_long_and_nothing_else(
    rig: Rig, server: NatsServer, monkeypatch: pytest.MonkeyPatch, skew_s: int
) -> None:
    real = time.time
    monkeypatch.setattr("inferbus.queue.intake.time.time", lambda: real() + skew_s)
    await _publish(server, 1, 300)
    began = time.monotonic()
    await eventually(lambda: time.monotonic() - began > 0.5)
    worker = await rig.worker()
    await eventually(rig.queue_is_empty)
    assert worker.engine.calls == []
    await _publish(server, 2, 60_000)
    await _call(worker)

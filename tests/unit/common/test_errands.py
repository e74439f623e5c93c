"""Errands: done in order, a few at once, bounded, whatever a job raises."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from inferbus.errands import Errands, Job
from inferbus.errors import DependencyDown


async def test_a_few_at_once_in_order() -> None:
    errands, go, begun, most = Errands(at_once=3), asyncio.Event(), [], 0

    def job(n: int) -> Job:
        async def run() -> None:
            nonlocal most
            begun.append(n)
            most = max(most, len(begun))
            await go.wait()

        return run

    for n in range(10):
        errands.add("wait", job(n))
    await asyncio.sleep(0)
    assert begun == [0, 1, 2]
    go.set()
    await errands.stop()
    assert begun == list(range(10))


async def test_what_a_job_raises_keeps_no_other_from_running() -> None:
    errands, done = Errands(at_once=1), asyncio.Event()

    async def refused() -> None:
        raise DependencyDown("away")

    async def buggy() -> None:
        raise RuntimeError("bug")

    async def fine() -> None:
        done.set()

    with capture_logs() as lines:
        for job in (refused, buggy, fine):
            errands.add("job", job)
        await asyncio.wait_for(done.wait(), 5)
        await errands.stop()
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("errand_failed", "warning"),
        ("errand_failed", "error"),
    ]


async def test_too_many_are_dropped_and_stopping_waits_only_so_long() -> None:
    errands, forever = Errands(at_once=1, waiting=2), asyncio.Event()

    async def stuck() -> None:
        await forever.wait()

    with capture_logs() as lines:
        for _ in range(5):
            errands.add("stuck", stuck)
    assert (errands.dropped, [line["event"] for line in lines]) == (3, ["errand_dropped"] * 3)
    await asyncio.wait_for(errands.stop(within_s=0.01), 5)

"""Batch under SIGKILL: whatever dies in whatever moment, each line has one result, and all are what they would have been."""

from __future__ import annotations

import asyncio
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM

import msgspec
import pytest
from tests.batch_jobs import Batches, lines, open_batches
from tests.main_path import MainPath

from inferbus import routes
from inferbus.batch.part_book import PartBook
from inferbus.bus.stored import read_stored
from inferbus.contracts.batch import COMPLETED, Counts, JobRecord, PartRecord
from inferbus.contracts.usage import events_in
from inferbus.testing import NatsServer
from inferbus_batch.fail_points import (
    CHUNK_BEGUN,
    FILES_WRITTEN,
    PART_COMMITTED,
    PART_WRITTEN,
    PLAN_PUBLISHED,
    ROWS_ENDED,
)
from inferbus_llm_worker.adapters.simulated_words import simulated_answer

ROWS, TOKENS = 240, 3
SMALL = {"chunk_slots": 2, "in_flight": 16, "chunk_rows": 24}
pytestmark = pytest.mark.slow


async def check_whole(batches: Batches, job: JobRecord, rows: int = ROWS) -> None:
    """Each line has one result, and it is what an undisturbed run gives."""
    assert (job.state, job.counts) == (COMPLETED, Counts(total=rows, completed=rows)), job
    answers = await batches.output(job)
    texts = [answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers]
    asked = [[{"role": "user", "content": f"say {n}"}] for n in range(1, rows + 1)]
    assert [answer["custom_id"] for answer in answers] == [f"row-{n}" for n in range(1, rows + 1)]
    assert texts == [simulated_answer(messages, TOKENS) for messages in asked]
    assert job.spent.completion_tokens == rows * TOKENS
    parts = [part async for _, part in batches.parts.since(job.tenant, job.id, 1)]
    assert sum(part.rows for part in parts) == rows
    assert sorted(part.n for part in parts) == list(range(job.chunks))


async def check_bills(path: MainPath, job: JobRecord) -> None:
    """Each line was charged once, for what its result took."""
    bus = await path.nats.connect("ledger")
    try:
        found = await read_stored(bus, routes.STREAM_USAGE, routes.usage_filter("dev"))
    finally:
        await bus.close()
    events = [event for one in found for event in events_in(one.data)]
    charged = [event.request_id for event in events if event.requests]
    assert sorted(charged) == sorted(f"{job.id}-{line}" for line in range(1, job.counts.total + 1))
    assert sum(event.completion_tokens for event in events) == job.spent.completion_tokens


@pytest.mark.parametrize("point", [PLAN_PUBLISHED, ROWS_ENDED, PART_WRITTEN, PART_COMMITTED, FILES_WRITTEN])
async def test_killed_between_two_steps_the_next_one_takes_it_up(tmp_path: Path, point: str) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.002)
        first = await path.batch(fail_point=point, fail_after=1, **SMALL)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(ROWS, tokens=TOKENS))
            assert await first.ended(120.0) == -9
            await path.batch(**SMALL)
            await check_whole(batches, await batches.over(job))
            if point == PART_WRITTEN:
                assert sum([part.taken async for _, part in batches.parts.since("dev", job.id, 1)]) > 0


async def test_of_two_processes_one_is_killed_again_and_again(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.05)
        async with open_batches(path, tmp_path) as batches:
            victim = await path.batch("batch-0", **SMALL)
            await path.batch("batch-1", **SMALL)
            job = await batches.submit(lines(ROWS, tokens=TOKENS))
            for done in (24, 72, 120):
                await batches.reaches(job, done)
                await victim.kill()
                victim = await path.batch("batch-0", **SMALL)
            job = await batches.over(job)
            await check_whole(batches, job)
            await check_bills(path, job)


async def test_engines_and_the_bus_are_killed(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        worker = await path.worker("llm-0", simulator_itl_s=0.05)
        await path.worker("llm-1", simulator_itl_s=0.05)
        async with open_batches(path, tmp_path) as batches:
            await path.batch(**SMALL)
            job = await batches.submit(lines(ROWS, tokens=TOKENS))
            await batches.reaches(job, 24)
            await worker.kill()
            await path.worker("llm-0", simulator_itl_s=0.05)
            await path.nats.restart()
            await batches.reaches(job, 48)
            await path.nats.restart()
            job = await batches.over(job)
            await check_whole(batches, job)
            await check_bills(path, job)


async def test_asked_to_go_it_hands_its_chunks_back_at_once(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.05)
        first = await path.batch("batch-0", **SMALL)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(ROWS, tokens=TOKENS))
            await batches.reaches(job, 24)
            first.signal(SIGTERM)
            assert await first.ended() == 0
            await path.batch("batch-1", **SMALL)
            await check_whole(batches, await batches.over(job))
            assert "batch_room_opened" in path.log("batch-1")


async def test_frozen_and_back_it_changes_nothing(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.05)
        frozen = await path.batch("batch-0", **SMALL)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(ROWS, tokens=TOKENS))
            await batches.reaches(job, 24)
            frozen.signal(SIGSTOP)
            await path.batch("batch-1", **SMALL)
            await batches.reaches(job, 96)
            frozen.signal(SIGCONT)
            await check_whole(batches, await batches.over(job))


async def test_a_chunk_that_ends_whoever_works_on_it_is_given_up(tmp_path: Path) -> None:
    """Its rows get errors with the reason, all other lines their answers, and it takes no more processes with it."""
    limits: dict[str, object] = {"role": "chunks", "fail_point": f"{CHUNK_BEGUN}.2", "chunk_deaths": 2, **SMALL}
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.002)
        await path.batch("batch-0", role="coordinator")
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(60, tokens=TOKENS))

            async def die_until_it_is_over() -> int:
                for deaths in range(20):
                    process = await path.batch("batch-1", **limits)
                    over, dead = [asyncio.ensure_future(one) for one in (batches.over(job), process.ended(180.0))]
                    await asyncio.wait((over, dead), return_when=asyncio.FIRST_COMPLETED)
                    if over.done():
                        dead.cancel()
                        await asyncio.gather(dead, return_exceptions=True)
                        return deaths
                    over.cancel()
                    await asyncio.gather(over, return_exceptions=True)
                return -1

            # The first delivery is not written down, the second is; the third is alone. One that was handed back is none.
            assert 2 <= await die_until_it_is_over() <= 4
            job = await batches.job(job)
            assert (job.state, job.counts) == (COMPLETED, Counts(total=60, completed=44, failed=16))
            errors = await batches.errors(job)
            assert [error["custom_id"] for error in errors] == [f"row-{n}" for n in range(33, 49)]
            assert "processes ended while they worked on this part" in errors[0]["error"]["message"]
            assert len(await batches.output(job)) == 44


async def test_a_chunk_that_fails_always_is_given_up(tmp_path: Path) -> None:
    """What was answered before it failed counts."""
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.002)
        await path.batch(fail_point=f"{CHUNK_BEGUN}.0:raise", chunk_attempts=3, **SMALL)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.over(await batches.submit(lines(40, tokens=TOKENS)))
            assert (job.state, job.counts) == (COMPLETED, Counts(total=40, completed=24, failed=16))
            errors = await batches.errors(job)
            assert {error["error"]["message"] for error in errors} == {
                "this part of the batch failed 3 times: RuntimeError"
            }


async def test_a_second_commit_is_refused(server: NatsServer) -> None:
    bus = await server.connect("batch")
    parts = PartBook(bus)
    part = PartRecord(job="batch_1", plan="p", n=0, first_line=1, rows=2, completed=2, failed=0)
    other = msgspec.structs.replace(part, worker="another")
    assert await parts.commit("dev", part)
    assert not await parts.commit("dev", other)
    assert await parts.commit("dev", part), "its own, said again: the acknowledgement was lost"
    done = await asyncio.gather(
        *(parts.commit("dev", msgspec.structs.replace(part, n=1, attempt=k)) for k in range(20))
    )
    assert sum(done) == 1
    assert await parts.find("dev", "batch_1", 0) == part
    await bus.close()

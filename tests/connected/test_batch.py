"""Batch on a real bus, with simulated engines: every line gets its one result."""

from __future__ import annotations

from pathlib import Path

from tests.batch_jobs import line, lines, open_batches
from tests.main_path import MainPath

from inferbus.contracts.batch import COMPLETED


async def test_a_job_comes_to_one_result_for_each_line(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.001)
        await path.batch(chunk_rows=64)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.over(
                await batches.submit([*lines(300), b"", line("last", "say last", model=None)], model="simulator")
            )
            assert (job.state, job.counts.total, job.counts.completed) == (COMPLETED, 301, 301), job
            answers = await batches.output(job)
            assert [answer["custom_id"] for answer in answers] == [*(f"row-{n}" for n in range(1, 301)), "last"]
            assert {answer["response"]["status_code"] for answer in answers} == {200}
            assert answers[-1]["response"]["request_id"] == f"{job.id}-302"
            assert not list((tmp_path / "files/batches/dev").glob(f"{job.id}/*"))

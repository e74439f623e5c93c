"""Batch on a real bus, with simulated engines: every line gets its one result."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path

import pytest
from tests.batch_jobs import line, lines, open_batches
from tests.main_path import MainPath, answer_of, ask

from inferbus import routes
from inferbus.batch.states import cancelled, paused, resumed
from inferbus.bus.consumers import delete_consumer
from inferbus.bus.stored import last_stored
from inferbus.contracts.batch import (
    BY_USER,
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    IN_PROGRESS,
    INPUT_CHANGED,
    NOT_ENTITLED,
    STORAGE_DOWN,
    Counts,
    Pause,
)
from inferbus.durable.outcomes import ROW_KEPT_S
from inferbus.errors import NotFound
from inferbus.testing import eventually
from inferbus_llm_worker.adapters.simulated_words import simulated_answer


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
            bus = await path.nats.connect("batch")
            kept = await last_stored(
                bus, routes.STREAM_RESULTS, routes.results("dev", routes.group_request(job.id, 0, 1, 0))
            )
            await bus.close()
            assert kept is not None
            assert kept.headers["Nats-TTL"] == str(ROW_KEPT_S), "or batches push other kept answers out"
            assert not list((tmp_path / "files/batches/dev").glob(f"{job.id}/*"))


async def test_the_fault_of_a_line_is_a_result_of_that_line(tmp_path: Path) -> None:
    wrong = [
        b"no JSON",
        b'{"custom_id":"half","method":"POST"',
        b'{"method":"POST","url":"/v1/chat/completions","body":{}}',
        line("where", "x", url="/v1/embeddings"),
        line("whom", "x", model="nobody"),
        line("good", "x"),
        b'{"custom_id":"long","body":"' + b"x" * 70_000 + b'"}',
        b'{"custom_id":"list","method":"POST","url":"/v1/chat/completions","body":[]}',
        line("stream", "x").replace(b'"max_tokens"', b'"stream": true, "max_tokens"'),
        "\ufeff".encode(),
    ]
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.001)
        await path.batch(max_line_bytes=65_536)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.over(await batches.submit([line("good", "y"), *wrong, line("end", "z")]))
            assert (job.state, job.counts) == (COMPLETED, Counts(total=12, completed=2, failed=10)), job
            assert [answer["custom_id"] for answer in await batches.output(job)] == ["good", "end"]
            errors = {error["id"].rsplit("_", 1)[1].split("-")[1]: error for error in await batches.errors(job)}
            assert [errors[str(n)]["custom_id"] for n in range(2, 12)] == [
                None, None, None, "where", "whom", "good", None, "list", "stream", None,
            ]  # fmt: skip
            assert "was used before" in errors["7"]["error"]["message"]
            assert errors["8"]["error"] == {
                "code": "too_large", "message": "line 8 has 70031 bytes, the limit is 65536 bytes"
            }  # fmt: skip
            assert errors["6"]["response"]["status_code"] == 404
            dead = await batches.content("dev", job.dead_file_id)
            assert [letter["line"] for letter in dead] == list(range(2, 12))
            assert dead[0]["original"] == "no JSON"
            assert dead[6]["original"] == ""


@pytest.mark.parametrize(("data", "code"), [([], "invalid_request"), ([b"", b"  "], "invalid_request")])
async def test_an_input_without_a_line_is_refused(tmp_path: Path, data: list[bytes], code: str) -> None:
    async with MainPath(tmp_path) as path:
        await path.batch()
        async with open_batches(path, tmp_path) as batches:
            job = await batches.over(await batches.submit(data))
            assert (job.state, job.errors[0].code) == (FAILED, code)
            gone = await batches.over(await batches.begin(input_file_id="file-000000000000"))
            assert (gone.state, gone.errors[0].code) == (FAILED, "not_found")


async def test_cancelled_it_has_what_was_done_and_says_of_the_rest_that_it_was_not(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.02)
        await path.batch(chunk_slots=2, in_flight=8, chunk_rows=16)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(1500, tokens=4))
            await batches.reaches(job, 32)
            await batches.book.change("dev", job.id, lambda known: cancelled(known, time.time()))
            job = await batches.over(job)
            assert job.state == CANCELLED
            answers, errors = await batches.output(job), await batches.errors(job)
            assert 32 <= len(answers) < 1500
            assert (job.counts.completed, job.counts.failed) == (len(answers), 1500 - len(answers))
            assert {error["error"]["code"] for error in errors} == {"batch_cancelled"}
            names = {one["custom_id"] for one in (*answers, *errors)}
            assert names == {f"row-{n}" for n in range(1, 1501)}
            await eventually(lambda: _nothing_runs(path))


async def test_a_window_that_ends_leaves_what_was_done(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.02)
        await path.batch(chunk_slots=2, in_flight=8, chunk_rows=16)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(3000, tokens=4), expires_at=time.time() + 8)
            job = await batches.over(job)
            assert job.state == EXPIRED
            answers, errors = await batches.output(job), await batches.errors(job)
            assert len(answers) + len(errors) == 3000
            assert answers
            assert {error["error"]["code"] for error in errors} == {"batch_expired"}


async def test_paused_nothing_is_begun_and_resumed_it_goes_on(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.02)
        await path.batch(chunk_slots=2, in_flight=8, chunk_rows=16)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(1000, tokens=4))
            await batches.reaches(job, 16)
            await batches.book.change("dev", job.id, lambda known: paused(known, Pause(reason=BY_USER)))
            await eventually(lambda: path.figure("batch-0", "inferbus_batch_rows_in_flight") == 0)
            stopped = sum([part.rows async for _, part in batches.parts.since("dev", job.id, 1)])
            assert (await batches.job(job)).state == IN_PROGRESS
            assert stopped < 1000
            await batches.book.change("dev", job.id, resumed)
            job = await batches.over(job)
            assert (job.state, job.counts.completed) == (COMPLETED, 1000)
            assert len({answer["custom_id"] for answer in await batches.output(job)}) == 1000


async def test_an_input_that_changes_pauses_the_job_and_costs_no_line(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.02)
        await path.batch(chunk_slots=1, in_flight=4, chunk_rows=16)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(1000))
            await batches.reaches(job, 16)
            body = (await batches.job(job)).input
            assert body is not None
            place = tmp_path / "files" / body.body
            original = place.read_bytes()
            place.write_bytes(original.replace(b"say 999", b"say 998"))

            async def is_paused() -> bool:
                pause = (await batches.job(job)).paused
                return pause is not None and pause.reason == INPUT_CHANGED

            await eventually(is_paused, within_s=30)
            place.write_bytes(original)
            await batches.book.change("dev", job.id, resumed)
            job = await batches.over(job)
            assert (job.state, job.counts.completed) == (COMPLETED, 1000)
            assert len({answer["custom_id"] for answer in await batches.output(job)}) == 1000


async def test_without_storage_it_rests_and_goes_on_by_itself(tmp_path: Path) -> None:
    storage, no_folder = tmp_path / "storage", tmp_path / "no-folder"
    storage.mkdir()
    no_folder.write_bytes(b"not a folder")
    _point(tmp_path / "files", storage)
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.02)
        await path.batch(chunk_slots=1, in_flight=4, chunk_rows=16)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(800))
            await batches.reaches(job, 16)
            _point(tmp_path / "files", no_folder)

            async def rests() -> bool:
                pause = (await batches.job(job)).paused
                return pause is not None and pause.reason == STORAGE_DOWN

            await eventually(rests, within_s=30)
            _point(tmp_path / "files", storage)
            job = await batches.over(job)
            assert (job.state, job.counts.completed, job.paused) == (COMPLETED, 800, None)


def _point(link: Path, to: Path) -> None:
    """Have a link lead elsewhere in one step: between two there is no storage, which is an input that is gone."""
    new = link.with_name(f"{link.name}.new")
    new.symlink_to(to)
    new.replace(link)


async def test_what_failed_is_tried_again_as_a_job_of_its_own(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.001)
        await path.batch()
        async with open_batches(path, tmp_path) as batches:
            job = await batches.over(await batches.submit([*lines(20), line("other", "x", model="later"), b"nonsense"]))
            assert job.counts == Counts(total=22, completed=20, failed=2)
            again = await batches.over(await batches.begin(input_file_id="", retry_of=job.id))
            assert (again.state, again.counts) == (COMPLETED, Counts(total=2, failed=2))
            assert [error["custom_id"] for error in await batches.errors(again)] == ["other", None]
            clean = await batches.over(await batches.submit(lines(3)))
            nothing = await batches.over(await batches.begin(input_file_id="", retry_of=clean.id))
            assert (nothing.state, nothing.errors[0].code) == (FAILED, "invalid_request")


async def test_beside_a_batch_there_is_room_for_who_waits(tmp_path: Path) -> None:
    """The batch lane fills the engine but for its reserve, and whoever asks interactively does not queue behind it."""
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.02, simulator_slots=8)
        await path.gateway()
        await path.batch()
        async with open_batches(path, tmp_path) as batches, path.client() as client:
            job = await batches.submit(lines(600, tokens=10))
            await batches.reaches(job, 16)
            most = 0
            for _ in range(20):
                running = path.figure("llm-0", "inferbus_worker_running")
                most = max(most, int(running))
                await asyncio.sleep(0.05)
            assert 6 <= most <= 7, "one of eight slots is kept free"
            for _ in range(5):
                assert await ask(client, 10) == answer_of(10)
            assert (await batches.job(job)).counts.completed < 500, "they were not served after the batch"
            assert (await batches.over(job)).counts.completed == 600


async def test_two_tenants_share_whoever_came_first(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.01, simulator_slots=8)
        await path.batch(chunk_slots=2, in_flight=16, chunk_rows=16)
        async with open_batches(path, tmp_path) as batches:
            large = await batches.submit(lines(3000, tokens=4))
            await batches.reaches(large, 16)
            small = await batches.over(await batches.submit(lines(40, tokens=4), tenant="other"))
            assert (small.state, small.counts.completed) == (COMPLETED, 40)
            assert (await batches.job(large)).state == IN_PROGRESS
            await batches.book.change("dev", large.id, lambda known: cancelled(known, time.time()))
            assert (await batches.over(large)).state == CANCELLED


async def test_an_answer_of_any_size_is_a_result(tmp_path: Path) -> None:
    """One that rides in its end's frame, one that is fetched, and one that lies in the payload stream."""
    sizes = {"small": 3, "fetched": 12_000, "by ticket": 160_000}
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.0)
        await path.batch()
        async with open_batches(path, tmp_path) as batches:
            job = await batches.over(await batches.submit([line(name, "x", tokens=n) for name, n in sizes.items()]))
            assert (job.state, job.counts.completed) == (COMPLETED, 3), job
            for answer in await batches.output(job):
                text = answer["response"]["body"]["choices"][0]["message"]["content"]
                assert text == simulated_answer([{"role": "user", "content": "x"}], sizes[answer["custom_id"]])


async def test_a_consumer_that_is_gone_is_made_again(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.01)
        await path.batch(chunk_slots=1, in_flight=8, chunk_rows=16)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(200))
            await batches.reaches(job, 16)
            bus = await path.nats.connect("batch")
            await delete_consumer(bus, routes.STREAM_BATCH_CHUNKS, routes.durable_chunks(job.id))
            await bus.close()
            job = await batches.over(job)
            assert (job.state, job.counts.completed) == (COMPLETED, 200)
            assert len({answer["custom_id"] for answer in await batches.output(job)}) == 200


async def test_a_chunk_is_a_span_of_whoever_made_the_job_and_its_rows_are_below_it(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        path.env = {"INFERBUS_TELEMETRY_TRACE_FILE": str(tmp_path / "traces"), "INFERBUS_TELEMETRY_SAMPLE_RATIO": "1"}
        worker = await path.worker(simulator_itl_s=0.001)
        batch = await path.batch()
        trace = "0af7651916cd43dd8448eb211c80319c"
        async with open_batches(path, tmp_path) as batches:
            await batches.over(await batches.submit(lines(5), traceparent=f"00-{trace}-b7ad6b7169203331-01"))
        for service in (batch, worker):
            service.signal(signal.SIGTERM)
            await service.ended()
        spans = [json.loads(one) for one in (tmp_path / "traces").read_text().splitlines()]
        assert {span["trace_id"] for span in spans} == {trace}
        (chunk,) = [span for span in spans if span["name"] == "batch chunk"]
        assert chunk["parent_id"] == "b7ad6b7169203331"
        (published,) = [span for span in spans if span["name"] == "publish simulator"]
        assert published["parent_id"] == chunk["span_id"]
        served = [span["parent_id"] for span in spans if span["service"] == "llm-worker"]
        assert served == [published["span_id"]], "a group of rows is one request"


async def test_a_storage_that_loses_results_ends_the_job_with_that_reason(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.02)
        await path.batch(chunk_slots=1, in_flight=8, chunk_rows=16)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(800))
            await batches.reaches(job, 16)
            part = await batches.parts.find("dev", job.id, 0)
            assert part is not None
            assert part.output is not None
            (tmp_path / "files" / part.output.body).unlink()
            job = await batches.over(job)
            assert (job.state, job.errors[0].code, job.output_file_id) == (FAILED, "internal", "")


async def test_a_revoked_key_stops_its_job_and_another_may_let_it_go_on(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.02)
        await path.batch(chunk_slots=1, in_flight=8, chunk_rows=16)
        key_id = path.key.split("-")[1]
        admin = await path.nats.connect("admin")
        stored = await admin.kv_get(routes.KV_KEYS, key_id)
        assert stored is not None
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(1500), key_id=key_id)
            await batches.reaches(job, 16)
            await admin.kv_delete(routes.KV_KEYS, key_id)

            async def is_paused() -> bool:
                pause = (await batches.job(job)).paused
                return pause is not None and pause.reason == NOT_ENTITLED

            await eventually(is_paused, within_s=30)
            unknown = await batches.over(await batches.submit(lines(1), key_id="none"))
            assert (unknown.state, unknown.errors[0].code) == (FAILED, "unauthenticated")
            await admin.kv_put(routes.KV_KEYS, key_id, stored)
            await batches.book.change("dev", job.id, resumed)
            job = await batches.over(job)
            assert (job.state, job.counts.completed) == (COMPLETED, 1500)
        await admin.close()


async def test_files_go_when_their_time_is_over(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.001)
        await path.batch(purge_every_s=0.2, keep_s=6)
        async with open_batches(path, tmp_path) as batches:
            job = await batches.submit(lines(3))

            async def is_gone() -> bool:
                try:
                    await batches.job(job)
                except NotFound:
                    return not list((tmp_path / "files/files/dev").glob(f"{done.output_file_id}*"))
                return False

            done = await batches.over(job)
            await eventually(is_gone, within_s=40)


async def _nothing_runs(path: MainPath) -> bool:
    running = path.figure("llm-0", "inferbus_worker_running")
    return not running and not await path.stored(routes.BATCH)

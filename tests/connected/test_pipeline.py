"""Pipelines: from files to files, through functions and simulated engines; stopped, killed and gone on with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import parquet
from tests.main_path import MODEL, MainPath

from inferbus.errors import Conflict, InvalidRequest
from inferbus.files.file_systems import open_fs
from inferbus.pipeline import Pipeline
from inferbus.pipeline.checkpoint import RowSet
from inferbus.pipeline.formats import Row
from inferbus.testing import eventually


def write_lines(path: Path, count: int) -> str:
    path.write_text("".join(json.dumps({"n": n, "text": f"row {n}"}) + "\n" for n in range(count)))
    return str(path)


def lines_of(path: Path | str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def doubled(row: Row) -> Row:
    return row | {"double": 2 * row["n"]}


def is_even(row: Row) -> bool:
    return bool(row["n"] % 2 == 0)


async def slowed(row: Row) -> Row:
    await asyncio.sleep(0.001 * (row["n"] % 7))  # they overtake each other
    return row


def test_rows_go_through_functions_in_order(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 3000), tmp_path / "out/out.jsonl"
    made = Pipeline.read(source).map(doubled).map(slowed, concurrency=50).filter(is_even).write(str(out)).run()
    assert (made.rows, made.written, made.dropped, made.failed, made.resumed) == (3000, 1500, 1500, 0, 0)
    assert [(row["n"], row["double"]) for row in lines_of(out)] == [(n, 2 * n) for n in range(0, 3000, 2)]
    assert sorted(one.name for one in out.parent.iterdir()) == ["out.jsonl"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_every_format_is_read_and_written(tmp_path: Path, ending: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", 2500)
    middle, back = tmp_path / f"middle.{ending}", tmp_path / "back.jsonl"
    Pipeline.read(source).map(doubled).write(str(middle)).run()
    Pipeline.read(str(middle)).write(str(back)).run()
    assert lines_of(back) == [{"n": n, "text": f"row {n}", "double": 2 * n} for n in range(2500)]


def test_columns_may_differ_from_row_to_row(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"a": 1}\n{"b": "x"}\n{"a": 2.5, "c": [1, 2]}\n')
    Pipeline.read(str(source)).write(str(tmp_path / "out.parquet")).run()
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.to_pylist() == [
        {"a": 1.0, "b": None, "c": None}, {"a": None, "b": "x", "c": None}, {"a": 2.5, "b": None, "c": [1, 2]},
    ]  # fmt: skip
    assert table.schema.field("a").type == pa.float64()


def test_types_stay_what_they_were(tmp_path: Path) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    read = pa.table({"n": [0, 1, 2], "at": [at] * 3, "image": [b"\xff"] * 3, "vector": [[0.5], [1.5], None]})
    parquet.write_table(read, tmp_path / "in.parquet")
    Pipeline.read(str(tmp_path / "in.parquet")).filter(is_even).write(str(tmp_path / "out.parquet")).run()
    made = parquet.read_table(tmp_path / "out.parquet")
    assert made.equals(read.take([0, 2]))
    Pipeline.read(str(tmp_path / "in.parquet")).write(str(tmp_path / "out.csv")).run()
    assert "[0.5]" in (tmp_path / "out.csv").read_text()


def test_a_column_of_several_types_is_text_where_a_format_wants_one(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"a": 1}\n{"a": "x"}\n{"a": {"b": 2}}\n')
    Pipeline.read(str(source)).write(str(tmp_path / "out.parquet")).run()
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == [{"a": "1"}, {"a": "x"}, {"a": '{"b":2}'}]
    Pipeline.read(str(source)).write(str(tmp_path / "out.jsonl")).run()
    assert lines_of(tmp_path / "out.jsonl") == [{"a": 1}, {"a": "x"}, {"a": {"b": 2}}]


def fails_at_seven(row: Row) -> Row:
    if row["n"] == 7:
        raise ValueError("seven")
    return row


def test_a_row_that_fails_is_a_dead_letter(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    write_lines(source, 10)
    source.write_text(source.read_text() + "no json\n[1]\n")
    out = tmp_path / "out.jsonl"
    made = Pipeline.read(str(source)).map(fails_at_seven, retries=1).map(lambda row: row["n"]).write(str(out)).run()
    assert (made.rows, made.written, made.failed) == (12, 0, 12)
    assert made.errors == f"{out}.errors.jsonl"
    letters = {one["row"]: one for one in lines_of(made.errors)}
    assert (letters[7]["stage"], letters[7]["error"], letters[7]["message"]) == ("1 map", "ValueError", "seven")
    assert letters[7]["input"] == {"n": 7, "text": "row 7"}
    assert letters[0]["message"].endswith("gave int, not a dict")
    assert (letters[10]["stage"], letters[10]["input"]) == ("read", "no json\n")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 3), str(tmp_path / "out.jsonl")
    pipeline = Pipeline.read(source).write(out)
    pipeline.run()
    with pytest.raises(Conflict, match="is there already"):
        pipeline.run()
    assert pipeline.run(overwrite=True).written == 3


class Stopped(BaseException):
    """Ends a run as a kill would: nothing of it may be handled."""


def stopping_after(count: int) -> Any:
    """Stop a run when so many rows are committed."""
    committed = 0

    def on_commit(rows: int) -> None:
        nonlocal committed
        committed += rows
        if committed >= count:
            raise Stopped

    return on_commit


def test_a_stopped_run_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 5000), tmp_path / "out.jsonl"
    seen: list[int] = []

    def noted(row: Row) -> Row:
        seen.append(row["n"])
        return row

    pipeline = Pipeline.read(source).map(noted).write(str(out)).limited(200)
    with pytest.raises(BaseExceptionGroup):
        pipeline.run(on_commit=stopping_after(1000))
    assert not out.exists()
    made = pipeline.run()
    assert made.rows == made.written == 5000
    assert 1000 <= made.resumed < 5000
    assert len(seen) <= 5000 + 200
    assert [row["n"] for row in lines_of(out)] == list(range(5000))
    assert not Path(f"{out}.checkpoint").exists()


def test_a_checkpoint_is_of_one_pipeline_and_input(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 500), str(tmp_path / "out.jsonl")
    pipeline = Pipeline.read(source).map(doubled).write(out).limited(50)
    with pytest.raises(BaseExceptionGroup):
        pipeline.run(on_commit=stopping_after(10))
    with pytest.raises(Conflict, match="another pipeline"):
        Pipeline.read(source).map(slowed).write(out).run()
    write_lines(tmp_path / "in.jsonl", 501)
    with pytest.raises(Conflict, match="input has changed"):
        pipeline.run()


def test_reading_waits_for_slow_stages(tmp_path: Path) -> None:
    """What is between reading and commit is bounded, whatever stands still."""
    source, out = write_lines(tmp_path / "in.jsonl", 2000), tmp_path / "out.jsonl"
    entered, left = 0, 0
    most = 0

    def first(row: Row) -> Row:
        nonlocal entered, most
        entered += 1
        most = max(most, entered - left)
        return row

    async def last(row: Row) -> Row:
        nonlocal left
        await asyncio.sleep(0)
        left += 1
        return row

    Pipeline.read(source).map(first, concurrency=1).map(last, concurrency=1).write(str(out)).limited(20).run()
    assert most <= 20


def test_explain_says_what_will_be_done(tmp_path: Path) -> None:
    pipeline = (
        Pipeline.read("s3://bucket/*.csv")
        .map("os.path:basename", retries=2)
        .infer("m", "Say {text}", max_tokens=5)
        .embed("e", "answer")
        .write("s3://bucket/out.parquet")
    )
    text = pipeline.explain()
    for words in (
        "read    s3://bucket/*.csv (csv)",
        "posixpath:basename  [at once 4, again up to 2 times]",
        "infer   m 'Say {text}'",
        '"max_tokens":5',
        "embed   e answer into embedding",
        "write   s3://bucket/out.parquet (parquet)",
        "s3://bucket/out.parquet.checkpoint",
    ):
        assert words in text, text


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    for wrong in (
        lambda: Pipeline.read("in.txt"),
        lambda: Pipeline.read("in.jsonl").map("nothing:there"),
        lambda: Pipeline.read("in.jsonl").map(doubled, concurrency=0),
        lambda: Pipeline.read("in.jsonl").run(),
        lambda: Pipeline.read(str(tmp_path / "none.jsonl")).write(str(tmp_path / "out.jsonl")).run(),
    ):
        with pytest.raises(InvalidRequest):
            wrong()


def test_row_sets() -> None:
    rows = RowSet()
    for row in (0, 7, 8, 100_000, 7):
        rows.add(row)
    assert rows.count == 4
    assert [row for row in (0, 1, 7, 8, 9, 99_999, 100_000, 10**9) if row in rows] == [0, 7, 8, 100_000]


@pytest.fixture
def s3_options() -> Iterator[dict[str, Any]]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {"endpoint_url": f"http://{host}:{port}", "key": "key", "secret": "secret"}
    server.stop()


def test_from_s3_to_s3(s3_options: dict[str, Any], tmp_path: Path) -> None:
    fs, _ = open_fs("s3://pipeline", s3_options)
    fs.mkdir("pipeline")
    for part in (1, 2):
        fs.pipe_file(f"pipeline/in/{part}.jsonl", b"".join(b'{"n": %d}\n' % (part * 1000 + n) for n in range(500)))
    pipeline = (
        Pipeline.read("s3://pipeline/in/*.jsonl", **s3_options)
        .map(doubled)
        .write("s3://pipeline/out.parquet", **s3_options)
    )
    made = pipeline.run()
    assert (made.rows, made.written) == (1000, 1000)
    with fs.open("pipeline/out.parquet") as file:
        rows = parquet.read_table(file).to_pylist()
    assert [row["n"] for row in rows] == [*range(1000, 1500), *range(2000, 2500)]
    assert not fs.exists("pipeline/out.parquet.checkpoint")


PROGRAM = """
import sys
from inferbus.files.file_systems import open_fs
from inferbus.pipeline import Pipeline
pipeline = Pipeline.read(sys.argv[1]).infer("simulator", "say {text}", max_tokens=4, concurrency=8)
pipeline.write(sys.argv[2]).limited(32).run()
"""


def env_of(path: MainPath) -> dict[str, str]:
    return os.environ | {
        "INFERBUS_BUS_URL": path.nats.url, "INFERBUS_BUS_USER": "dev", "INFERBUS_BUS_PASSWORD": path.nats.passwords["dev"],
    }  # fmt: skip


@pytest.mark.timeout(300)
async def test_a_model_answers_every_row_once_whatever_is_killed(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 150), tmp_path / "out.jsonl"
    checkpoint = Path(f"{out}.checkpoint/parts")
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.005)
        await path.gateway()

        async def begin() -> asyncio.subprocess.Process:
            arguments = ("-c", PROGRAM, source, str(out))
            return await asyncio.create_subprocess_exec(sys.executable, *arguments, env=env_of(path))

        for kills in range(1, 4):
            process = await begin()
            await eventually(lambda kills=kills: len(list(checkpoint.glob("*.arrow"))) >= kills, within_s=60)  # type: ignore[misc]  # bound at once
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert not out.exists()
        process = await begin()
        assert await asyncio.wait_for(process.wait(), 150) == 0
        rows = lines_of(out)
        assert [row["n"] for row in rows] == list(range(150))
        assert all(row["answer"] for row in rows)
        await path.settled()
        assert (
            path.figure("llm-0", "inferbus_worker_requests_total") <= 155
        )  # asked anew, it would be up to eight a kill


async def test_what_a_model_refuses_is_a_dead_letter(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.001)
        await path.gateway()
        async with path.producer() as client:
            pipeline = (
                Pipeline.read(source)
                .infer(MODEL, lambda row: [{"role": "user", "content": row["text"]}], into="said", max_tokens=2)
                .infer("nobody", "{text}", into="never")
                .write(str(out))
            )
            made = await pipeline.run_async(client)
        assert (made.written, made.failed) == (0, 5)
        assert {(one["stage"], one["error"]) for one in lines_of(made.errors)} == {("2 infer", "not_found")}
        assert all(one["input"]["said"] for one in lines_of(made.errors))

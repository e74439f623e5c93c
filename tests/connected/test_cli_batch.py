"""`inferbus batch` as a user runs it, against gateway, batch service and simulated engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests import nursery
from tests.batch_jobs import line, lines
from tests.main_path import MODEL, MainPath

from inferbus.testing import eventually

pytestmark = pytest.mark.timeout(300)  # each starts half a dozen processes
Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        await path.gateway()
        yield path


def env_of(path: MainPath) -> dict[str, str]:
    return os.environ | {"INFERBUS_URL": path.url, "INFERBUS_API_KEY": path.key}


@pytest.fixture
def inferbus(path: MainPath) -> Run:
    async def run(*args: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(nursery.command, *args, env=env_of(path), timeout_s=120)
        return done.returncode, done.stdout, done.stderr

    return run


async def test_a_run_writes_what_came_of_every_line(path: MainPath, inferbus: Run, tmp_path: Path) -> None:
    await path.worker(simulator_itl_s=0.001)
    await path.batch(chunk_rows=32)
    source, out = tmp_path / "in.jsonl", tmp_path / "made/out"
    bare = [line(f"row-{n}", "x", model=None) for n in range(60)]
    source.write_bytes(b"\n".join([*bare, line("bad", "x", model="nobody")]))
    status, said, _ = await inferbus("batch", "run", str(source), "--model", MODEL, "--out", str(out))
    assert status == 3, said
    answers = [json.loads(one) for one in (out / "output.jsonl").read_text().splitlines()]
    assert [one["custom_id"] for one in answers] == [f"row-{n}" for n in range(60)]
    assert [json.loads(one)["custom_id"] for one in (out / "errors.jsonl").read_text().splitlines()] == ["bad"]
    assert sorted(one.name for one in out.iterdir()) == ["errors.jsonl", "output.jsonl"]
    assert "completed: 61/61 rows" in said
    assert "60 of 61 answered, 1 failed" in said

    batch = said.splitlines()[0]
    status, listed, _ = await inferbus("batch", "dead-letters", "list", batch, "--json")
    letter = json.loads(listed)
    assert (status, letter["line"], letter["status"]) == (0, 61, 404)
    status, shown, _ = await inferbus("batch", "dead-letters", "show", batch, "61")
    assert (status, json.loads(shown)) == (0, letter)

    edited = tmp_path / "edited.jsonl"
    edited.write_text(json.dumps(letter | {"original": line("bad", "better").decode()}) + "\n")
    status, said, _ = await inferbus("batch", "dead-letters", "redrive", batch, "--edited", str(edited))
    assert status == 0
    again, more = said.split()[0], tmp_path / "more"
    status, said, _ = await inferbus("batch", "watch", again, "--out", str(more))
    assert status == 0, said
    assert [json.loads(one)["custom_id"] for one in (more / "output.jsonl").read_text().splitlines()] == ["bad"]
    status, said, _ = await inferbus("batch", "retry-failed", batch)
    assert status == 0
    status, said, _ = await inferbus("batch", "list", "--json")
    assert len(json.loads(said)) == 3


async def test_a_batch_is_paused_resumed_and_cancelled(path: MainPath, inferbus: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join(lines(5)))
    async with path.client() as client:
        file = await client.files.create(file=source, purpose="batch")
        made = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    for verb, said in (
        ("pause", f"{made.id} validating, paused (user)\n"),
        ("resume", f"{made.id} validating\n"),
        ("cancel", f"{made.id} cancelled\n"),
    ):
        assert await inferbus("batch", verb, made.id) == (0, said, "")
    status, said, _ = await inferbus("batch", "status", made.id, "--json")
    assert (status, json.loads(said)["status"]) == (0, "cancelled")
    status, _, error = await inferbus("batch", "pause", made.id)
    assert (status, error) == (1, "inferbus: a batch that is cancelled cannot be paused\n")
    status, _, error = await inferbus("batch", "status", "batch_nothing")
    assert (status, error) == (1, "inferbus: No batch found with id 'batch_nothing'.\n")


async def test_what_cannot_be_is_said_before_any_work(path: MainPath, inferbus: Run, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_bytes(b"\n".join(lines(5)))
    empty, full = tmp_path / "empty.jsonl", tmp_path / "full"
    empty.touch()
    full.mkdir()
    (full / "something").touch()
    for words, args in (
        ("is no file that can be read", (str(tmp_path / "none"), "--out", str(out))),
        ("is empty", (str(empty), "--out", str(out))),
        ("is not empty: something is in it", (str(source), "--out", str(full))),
        ("cannot be written", (str(source), "--out", str(source / "out"))),
        ("endpoint is '/v1/images'", (str(source), "--out", str(out), "--endpoint", "/v1/images")),
        ("The model `nobody` does not exist", (str(source), "--out", str(out), "--model", "nobody")),
    ):
        status, _, error = await inferbus("batch", "run", *args)
        assert status == 1
        assert words in error
        assert error.count("\n") == 1
    assert json.loads((await inferbus("batch", "list", "--json"))[1]) == []


async def test_ctrl_c_leaves_the_batch_and_says_how_to_come_back(path: MainPath, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_bytes(b"\n".join(lines(5)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "inferbus.cli.main", "batch", "run", str(source), "--out", str(out),
        env=env_of(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs the tests may ignore it
    )  # fmt: skip
    assert process.stdout is not None
    batch = (await asyncio.wait_for(process.stdout.readline(), 120)).decode().strip()
    await asyncio.wait_for(process.stdout.readline(), 120)  # its first state: it follows
    process.send_signal(signal.SIGINT)
    _, error = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 130
    assert f"inferbus batch watch {batch} --out {out}" in error.decode()
    async with path.client() as client:
        assert (await client.batches.retrieve(batch)).status == "validating"


async def test_a_gateway_that_restarts_is_waited_for(path: MainPath, tmp_path: Path) -> None:
    await path.worker(simulator_itl_s=0.001)
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_bytes(b"\n".join(lines(20)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "inferbus.cli.main", "batch", "run", str(source), "--out", str(out),
        env=env_of(path), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 120)
    (gateway,) = [one for one in path._services if one.name == "gateway-0"]
    await gateway.kill()
    await path.batch()
    await eventually(lambda: "gateway-0" not in path.presence.alive())
    await path.gateway()
    await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0
    assert len((out / "output.jsonl").read_text().splitlines()) == 20

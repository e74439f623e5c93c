"""The same lines through a batch of ours and through vLLM's own `run-batch`: one engine each, with the same flags.

Ours runs as it is shipped, with slots that batches never hold, and as a pool is set up that has nothing but batches to do,
which is what `run-batch` is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from inferbus_bench.batch_job import Job, Run, place, write_input
from inferbus_bench.places import BENCHMARKS, LLM_BIN, TINY_WEIGHTS
from inferbus_llm_worker.domain.serve_args import default_argv, engine_env

MODEL = "inferbus-tiny"
WARM_ROWS = 32
_OVER_S = 600.0


class Theirs(msgspec.Struct, frozen=True):
    """What `vllm_run_batch` prints."""

    rows: int
    seconds: float
    cpu_s: float
    tokens: int


async def beside_run_batch(folder: Path, rows: int, tokens: int) -> tuple[Run, Run, Theirs]:
    """Run ours without a reserve, ours with it, and theirs, one after the other, the engine warmed up with other lines before
    each."""
    folder.mkdir(parents=True)
    warm, source = folder / "warm.jsonl", folder / "lines.jsonl"
    write_input(warm, WARM_ROWS, model=MODEL, tokens=tokens, words="warm")
    write_input(source, rows, model=MODEL, tokens=tokens)
    lines = ((warm, WARM_ROWS), (source, rows))
    alone = await _ours(folder / "alone", lines, {"INFERBUS_LLM_WORKER_BATCH_RESERVE": "0"})
    theirs = await _theirs(folder, warm, source)
    return alone, await _ours(folder / "shared", lines, {}), theirs


async def _ours(folder: Path, lines: Sequence[tuple[Path, int]], env: dict[str, str]) -> Run:
    async with place(folder, simulator=False, env=env) as at:
        for path, count in lines:
            job = Job(at, count)
            await job.create(path)
            run = await job.over()
    return run


async def _theirs(folder: Path, warm: Path, source: Path) -> Theirs:
    flags = default_argv(str(TINY_WEIGHTS), MODEL, cpu=True, embed=False)
    argv = [
        str(LLM_BIN / "python"),
        "-m",
        "inferbus_bench.vllm_run_batch",
        str(warm),
        str(source),
        str(folder / "theirs.jsonl"),
        *flags,
    ]
    env = os.environ | engine_env(flags, cpu=True, offline=True) | {"PYTHONPATH": str(BENCHMARKS)}
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), _OVER_S)
    if process.returncode:
        raise RuntimeError(errors.decode()[-3000:])
    return msgspec.json.decode(output.splitlines()[-1], type=Theirs)

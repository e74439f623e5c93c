"""A batch through the whole platform, beside Ray Data driving the same simulated engine.

    .venv/bin/python benchmarks/batch.py [--rows 100000] [--paced-rows 4000] [--only free,paced,beside,ray,run-batch]

`free`: the engine costs nothing, so rows a second and CPU a row are batch's own; 10,000 rows first, then `--rows`, and the
memory of the batch process in both. `paced`: 5 ms a token, so that the engine is what limits (`--paced-rows`). `beside`: 20 ms a token, others
ask interactively meanwhile, and the batch process is killed once. `ray`: Ray Data with the same engine, lines and paces
(`inferbus_bench/ray_side.py`; `make bench-batch` installs it). 16 tokens, 32 slots everywhere. `run-batch`: the same
`--engine-rows` lines of `--engine-tokens` tokens through vLLM on the CPU, in a batch of ours and in vLLM's own `run-batch`;
it is not among what runs without `--only`.
Exit status 1 where a target was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

import msgspec
import uvloop

from inferbus.telemetry import logs
from inferbus_bench.batch_job import PATH, SLOTS, Job, Run, place, write_input
from inferbus_bench.beside_batch import ITL_S, beside
from inferbus_bench.beside_run_batch import beside_run_batch
from inferbus_bench.others import OtherPrograms, heading
from inferbus_bench.places import BENCHMARKS, BUILD, ROOT
from inferbus_bench.report import grid

PACED_S = 0.005
WARM_ROWS, PACED_ROWS = 10_000, 4_000
OVER_S = 900.0
RAY_PYTHON = BUILD / ".venv-ray/bin/python"
MAX_FIRST_S, MAX_WAIT_STEPS, MIN_BUSY, MIN_OF_RAY, MAX_GROWTH = 2.0, 2.0, 0.9, 1.0, 1.1
MIN_OF_ENGINE = 0.95


class RayRun(msgspec.Struct, frozen=True):
    """What `ray_side` prints."""

    rows: int
    start_s: float
    first_s: float
    seconds: float
    cpu_start_s: float
    cpu_s: float


async def batches(folder: Path, itl_s: float, all_rows: list[int]) -> list[Run]:
    """Run batches of so many rows, one after the other, on one platform."""
    runs = []
    async with place(folder, itl_s) as at:
        for rows in all_rows:
            path = folder / f"{rows}.jsonl"
            write_input(path, rows)
            job = Job(at, rows)
            await job.create(path)
            runs.append(await job.over())
            print(f"  {rows} rows in {runs[-1].seconds:.1f} s", file=sys.stderr)
    return runs


# --- the peer -----------------------------------------------------------------------------------------------------------


async def ray(folder: Path, itl_s: float, rows: int) -> RayRun:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ray.jsonl"
    write_input(path, rows)
    sources = ["libs/common/src", "services/llm-worker/src"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*(str(ROOT / one) for one in sources), str(BENCHMARKS)])}
    argv = [
        str(RAY_PYTHON),
        "-m",
        "inferbus_bench.ray_side",
        "--input",
        str(path),
        "--output",
        str(folder / f"out-{itl_s}"),
    ]
    argv += ["--slots", str(SLOTS), "--itl", str(itl_s), "--cpus", str(os.cpu_count())]
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), OVER_S)
    if process.returncode:
        raise RuntimeError(errors.decode()[-2000:])
    return msgspec.json.decode(output.splitlines()[-1], type=RayRun)


# --- what is said -------------------------------------------------------------------------------------------------------


def run_row(what: str, run: Run) -> list[str]:
    shares = " + ".join(f"{1e6 * run.cpu[role] / run.rows:.0f}" for role in PATH)
    per_core = run.rows / sum(run.cpu.values())
    return [what, str(run.rows), f"{run.rate:.0f}", f"{run.cpu_us:.0f}", shares, f"{per_core:.0f}", f"{run.first_s:.2f}",
            f"{run.memory_mib:.0f}"]  # fmt: skip


def ray_row(what: str, run: RayRun) -> list[str]:
    return [what, str(run.rows), f"{run.rows / run.seconds:.0f}", f"{1e6 * run.cpu_s / run.rows:.0f}", "",
            f"{run.rows / run.cpu_s:.0f}", f"{run.first_s:.2f}", ""]  # fmt: skip


HEAD = (
    "who",
    "rows",
    "rows/s",
    "CPU us/row",
    " + ".join(PATH),
    "rows/s per core",
    "s to the first result",
    "MiB of batch",
)


Judged = list[tuple[str, float, float, bool]]
"""What, its value, its bound, and whether it must be at least that."""


async def batch_side(args: argparse.Namespace, folder: Path, rows: list[list[str]], judged: Judged) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    if "free" in args.only:
        warm, many = await batches(folder / "free", 0.0, [WARM_ROWS, args.rows])
        runs["free"] = many
        rows += [run_row("batch, free", warm), run_row("batch, free", many)]
        judged.append(("seconds to the first result", max(warm.first_s, many.first_s), MAX_FIRST_S, False))
        grown = many.memory_mib / warm.memory_mib
        judged.append((f"memory at {args.rows} rows against {WARM_ROWS}", grown, MAX_GROWTH, False))
    if "paced" in args.only:
        runs["paced"] = (await batches(folder / "paced", PACED_S, [args.paced_rows]))[0]
        rows.append(run_row("batch, paced", runs["paced"]))
    return runs


async def ray_side(
    args: argparse.Namespace, folder: Path, runs: dict[str, Run], rows: list[list[str]], judged: Judged
) -> None:
    for what, itl_s, many in (("free", 0.0, args.rows), ("paced", PACED_S, args.paced_rows)):
        if what not in args.only:
            continue
        peer, ours = await ray(folder / "ray", itl_s, many), runs[what]
        rows.append(ray_row(f"Ray Data, {what} (+ {peer.start_s:.1f} s, {peer.cpu_start_s:.1f} CPU s to start)", peer))
        ratio = peer.cpu_s / peer.rows / (ours.cpu_us / 1e6)
        judged.append((f"rows/s per core against Ray Data, {what}", ratio, MIN_OF_RAY, True))
        ratio = ours.rate / (peer.rows / peer.seconds)
        judged.append((f"rows/s against Ray Data, {what}", ratio, MIN_OF_RAY, True))


async def run_batch_side(args: argparse.Namespace, folder: Path, judged: Judged) -> None:
    alone, shared, theirs = await beside_run_batch(folder / "run-batch", args.engine_rows, args.engine_tokens)
    rate = theirs.rows / theirs.seconds
    print(f"vLLM's run-batch, {theirs.rows} rows of {args.engine_tokens} tokens: {rate:.1f} rows/s in {theirs.seconds:.1f} s"
          f" ({1e3 * theirs.cpu_s / theirs.rows:.2f} ms of CPU a row), its start not counted.\n")  # fmt: skip
    for what, ours in (("no reserve", alone), ("a sixteenth reserved", shared)):
        worker = 1e3 * ours.cpu["worker"] / ours.rows
        print(f"A batch, {what}: {ours.rate:.1f} rows/s in {ours.seconds:.1f} s (ms of CPU a row: {worker:.2f} in the worker,"
              f" {ours.cpu_us / 1e3 - worker:.2f} in all others; first results after {ours.first_s:.2f} s).\n")  # fmt: skip
        judged.append((f"rows/s against vLLM's run-batch, {what}", ours.rate / rate, MIN_OF_ENGINE, True))


async def measure(args: argparse.Namespace, folder: Path) -> bool:
    rows: list[list[str]] = []
    judged: Judged = []
    runs = await batch_side(args, folder, rows, judged)
    if "ray" in args.only:
        await ray_side(args, folder, runs, rows, judged)
    if rows:
        print(grid(HEAD, rows) + "\n")
    if "beside" in args.only:
        found = await beside(folder / "beside")
        steps = found.p99_ms / 1000 / ITL_S
        judged.append((f"engine steps others waited, p99 of {found.asked}", steps, MAX_WAIT_STEPS, False))
        judged.append(("share of the time of the engine's slots", found.busy, MIN_BUSY, True))
        print(f"Others waited p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms for the engine (a step is"
              f" {1000 * ITL_S:g} ms). Of the engine's slots {found.sampled:.2f} ran by its beats. Killed, batch had rows in flight again after {found.resumed_s:.1f} s.\n")  # fmt: skip
    if "run-batch" in args.only:
        await run_batch_side(args, folder, judged)
    met = [value >= limit if at_least else value <= limit for _, value, limit, at_least in judged]
    print(grid(("target", "measured", "wanted", ""), [
        [what, f"{value:.2f}", f"{'>=' if at_least else '<='} {limit:g}", "met" if ok else "MISSED"]
        for (what, value, limit, at_least), ok in zip(judged, met, strict=True)
    ]))  # fmt: skip
    return all(met)


async def main(args: argparse.Namespace) -> int:
    logs.configure("benchmark", "error")
    async with OtherPrograms() as others:
        with tempfile.TemporaryDirectory(prefix="inferbus-bench-") as folder:
            met = await measure(args, Path(folder))
    print("\n" + heading(others.cores, "batch.py"))
    return 0 if met else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--paced-rows", type=int, default=PACED_ROWS)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["free", "paced", "beside", "ray"])
    parser.add_argument("--engine-rows", type=int, default=2000)
    parser.add_argument("--engine-tokens", type=int, default=64)
    sys.exit(uvloop.run(main(parser.parse_args())))

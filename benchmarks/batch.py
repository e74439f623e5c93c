"""A batch through the whole platform, beside Ray Data driving the same simulated engine.

    .venv/bin/python benchmarks/batch.py [--rows 100000] [--only free,paced,beside,ray]

`free`: the engine costs nothing, so rows a second and CPU a row are batch's own; 10,000 rows first, then `--rows`, and the
memory of the batch process in both. `paced`: 5 ms a token, so that the engine is what limits. `beside`: 20 ms a token, others
ask interactively meanwhile, and the batch process is killed once. `ray`: Ray Data with the same engine, lines and paces
(`inferbus_bench/ray_side.py`; `make bench-batch` installs it). 16 tokens, 32 slots everywhere.
Exit status 1 where a target was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import uvloop
from openai import AsyncOpenAI

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.stored import read_stored
from inferbus.codec import from_json
from inferbus.contracts.usage import UsageEvent
from inferbus.local.identities import settings_of
from inferbus.local.layout import Layout
from inferbus.local.state import read_state
from inferbus.process.presence import PresenceTable
from inferbus.telemetry import logs
from inferbus.testing import eventually
from inferbus_bench.cpu import cpu_of
from inferbus_bench.others import OtherPrograms, heading
from inferbus_bench.places import BENCHMARKS, BUILD, ROOT
from inferbus_bench.report import grid
from inferbus_bench.targets import Target, home_in, platform

MODEL, CHAT = "simulator", "/v1/chat/completions"
TOKENS, SLOTS = 16, 32
PACED_S, BESIDE_S = 0.005, 0.02
WARM_ROWS, PACED_ROWS, BESIDE_ROWS = 10_000, 4_000, 2_500
PATH = ("batch", "nats-server", "worker", "ledger", "gateway")
OVER_S = 600.0
RAY_PYTHON = BUILD / ".venv-ray/bin/python"
MAX_FIRST_S, MAX_WAIT_STEPS, MIN_BUSY, MIN_OF_RAY, MAX_GROWTH = 2.0, 2.0, 0.9, 1.0, 1.1
_STEP_S = 0.05
_ASKS_A_SECOND = 4.0


class Run(msgspec.Struct, frozen=True):
    """One batch: seconds from its creation to the first committed part, and to its end; CPU seconds by role meanwhile; the
    batch process's memory."""

    rows: int
    seconds: float
    first_s: float
    cpu: dict[str, float]
    memory_mib: float

    @property
    def rate(self) -> float:
        return self.rows / self.seconds

    @property
    def cpu_us(self) -> float:
        return 1e6 * sum(self.cpu.values()) / self.rows


class RayRun(msgspec.Struct, frozen=True):
    """What `ray_side` prints."""

    rows: int
    start_s: float
    first_s: float
    seconds: float
    cpu_start_s: float
    cpu_s: float


class Beside(msgspec.Struct, frozen=True):
    """What those who asked beside a batch waited for the engine (ms), how busy that was, and how long after a kill the batch
    process asked rows again."""

    asked: int
    p50_ms: float
    p99_ms: float
    busy: float
    resumed_s: float


class Place(msgspec.Struct, frozen=True):
    """A running platform, and somebody on its bus."""

    target: Target
    client: AsyncOpenAI
    bus: Bus
    parts: Bus
    presence: PresenceTable


def write_input(path: Path, rows: int) -> None:
    with path.open("w") as file:
        for n in range(1, rows + 1):
            body = {"model": MODEL, "messages": [{"role": "user", "content": f"row {n}"}], "max_tokens": TOKENS}
            file.write(json.dumps({"custom_id": f"row-{n}", "method": "POST", "url": CHAT, "body": body}) + "\n")


@asynccontextmanager
async def place(folder: Path, itl_s: float) -> AsyncIterator[Place]:
    """Run the platform with an engine of this pace."""
    env = {"INFERBUS_LLM_WORKER_SIMULATOR_SLOTS": str(SLOTS), "INFERBUS_LLM_WORKER_SIMULATOR_ITL_S": str(itl_s)}
    async with platform(folder, simulator=True, env=env) as target:
        layout = Layout(root=ROOT, home=home_in(folder))
        state = read_state(layout)
        assert state is not None
        bus, parts = [
            await Bus.connect(settings_of(layout, role, url=state.bus_url), name="benchmark")
            for role in ("admin", "batch")
        ]
        presence = PresenceTable(bus, bus.region)
        await presence.start()
        async with AsyncOpenAI(base_url=f"{state.url}/v1", api_key=target.key, timeout=120) as client:
            yield Place(target, client, bus, parts, presence)
        await presence.stop()
        await bus.close()
        await parts.close()


# --- one batch --------------------------------------------------------------------------------------------------------


class Job:
    """A batch that runs: `create` it, then `over`."""

    def __init__(self, at: Place, rows: int) -> None:
        self._at = at
        self.rows = rows
        self.id = ""
        self.first: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def create(self, path: Path) -> None:
        client = self._at.client
        file = await client.files.create(file=path, purpose="batch")
        await self._at.parts.listen(routes.batch_parts_of("dev", "*"), lambda _: self._on_part())
        self._before = self._cpu()
        self._began = time.monotonic()
        made = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        self.id = made.id

    def _on_part(self) -> None:
        if not self.first.done():
            self.first.set_result(time.monotonic())

    async def over(self) -> Run:
        """Wait for its end.

        Raises:
            RuntimeError: not every line was answered.
        """
        memory = 0.0
        while True:
            memory = max(memory, memory_mib(self._at.target.roots["batch"]))
            batch = await self._at.client.batches.retrieve(self.id)
            if batch.status in ("completed", "failed", "expired", "cancelled"):
                break
            await asyncio.sleep(5 * _STEP_S)
        ended, after = time.monotonic(), self._cpu()
        counts = batch.request_counts
        if batch.status != "completed" or counts is None or counts.completed != self.rows:
            raise RuntimeError(f"{batch.status}: {counts} {batch.errors}")
        cpu = {role: after[role] - self._before[role] for role in PATH}
        return Run(self.rows, ended - self._began, self.first.result() - self._began, cpu, memory)

    def _cpu(self) -> dict[str, float]:
        return cpu_of({role: self._at.target.roots[role] for role in PATH})


def memory_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


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


# --- beside others ------------------------------------------------------------------------------------------------------


async def beside(folder: Path) -> Beside:
    """Ask interactively while a batch fills the engine; then kill the batch process."""
    async with place(folder, BESIDE_S) as at:
        path = folder / "beside.jsonl"
        write_input(path, BESIDE_ROWS)
        job = Job(at, BESIDE_ROWS)
        await job.create(path)
        await job.first
        shares: list[float] = []
        watching = asyncio.create_task(_watch_engine(at, shares))
        asks = set[asyncio.Task[object]]()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            await asyncio.sleep(random.expovariate(_ASKS_A_SECOND))
            asks.add(asyncio.create_task(_ask(at)))
        await asyncio.gather(*asks)
        watching.cancel()
        resumed = await _resumed(at)
        await job.over()
        waits = sorted(1000 * event.queue_s for event in await _events(at) if event.lane == routes.INTERACTIVE)
    busy = sum(shares) / len(shares)
    return Beside(len(waits), waits[len(waits) // 2], waits[int(0.99 * (len(waits) - 1))], busy, resumed)


async def _ask(at: Place) -> object:
    message = {"role": "user", "content": "hello"}
    return await at.client.chat.completions.create(model=MODEL, messages=[message], max_tokens=TOKENS)  # type: ignore[list-item]


async def _watch_engine(at: Place, shares: list[float]) -> None:
    """Note at every beat which share of the engine's slots runs."""
    last = None
    while True:
        beat = at.presence.alive().get("llm-0")
        if beat is not None and beat is not last and beat.engine is not None:
            shares.append(beat.engine.running / beat.slots)
        last = beat
        await asyncio.sleep(_STEP_S)


async def _events(at: Place) -> list[UsageEvent]:
    found = await read_stored(at.bus, routes.STREAM_USAGE, routes.usage_filter("dev"))
    return [from_json(one.data, UsageEvent, what="event") for one in found]


async def _resumed(at: Place) -> float:
    """Kill the batch process; seconds until the one that comes after has rows in flight."""
    old = at.presence.alive()["batch-0"]
    began = time.monotonic()
    os.kill(old.pid, 9)

    def is_back() -> bool:
        beat = at.presence.alive().get("batch-0")
        return beat is not None and beat.incarnation != old.incarnation and beat.in_flight > 0

    await eventually(is_back, within_s=60)
    at.target.roots["batch"] = at.presence.alive()["batch-0"].pid
    return time.monotonic() - began


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
        runs["paced"] = (await batches(folder / "paced", PACED_S, [PACED_ROWS]))[0]
        rows.append(run_row("batch, paced", runs["paced"]))
    return runs


async def ray_side(
    args: argparse.Namespace, folder: Path, runs: dict[str, Run], rows: list[list[str]], judged: Judged
) -> None:
    for what, itl_s, many in (("free", 0.0, args.rows), ("paced", PACED_S, PACED_ROWS)):
        if what not in args.only:
            continue
        peer, ours = await ray(folder / "ray", itl_s, many), runs[what]
        rows.append(ray_row(f"Ray Data, {what} (+ {peer.start_s:.1f} s, {peer.cpu_start_s:.1f} CPU s to start)", peer))
        ratio = peer.cpu_s / peer.rows / (ours.cpu_us / 1e6)
        judged.append((f"rows/s per core against Ray Data, {what}", ratio, MIN_OF_RAY, True))
        ratio = ours.rate / (peer.rows / peer.seconds)
        judged.append((f"rows/s against Ray Data, {what}", ratio, MIN_OF_RAY, True))


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
        steps = found.p99_ms / 1000 / BESIDE_S
        judged.append((f"engine steps others waited, p99 of {found.asked}", steps, MAX_WAIT_STEPS, False))
        judged.append(("share of the engine's slots that ran", found.busy, MIN_BUSY, True))
        print(f"Others waited p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms for the engine (a step is"
              f" {1000 * BESIDE_S:g} ms). Killed, batch had rows in flight again after {found.resumed_s:.1f} s.\n")  # fmt: skip
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
    parser.add_argument("--only", type=lambda text: text.split(","), default=["free", "paced", "beside", "ray"])
    sys.exit(uvloop.run(main(parser.parse_args())))

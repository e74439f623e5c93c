"""One limit, many gateways, some of them killed: is it ever passed, how much of it is left unused, what does it cost?

    .venv/bin/python benchmarks/admission.py [--seconds 60] [--holders 8] [--callers 64] [--kill-every 3] [--limit 3000000]

Each holder is a process with a `Quota` on a real nats-server and callers that reserve, hold what they got for a moment and
settle less of it. What they were given is kept in a file that outlives a SIGKILL; what a killed one had not settled counts
as spent. It starts half a minute before a window's end, so that 60 s see two windows. Exit status 1 if the limit was
passed. `--kill-every 0` kills nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import random
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.settings import QuotaSettings
from inferbus.admission.quota.tokens import Estimate
from inferbus.bus import Bus
from inferbus.contracts.limits import LimitSet
from inferbus.contracts.step import Usage
from inferbus.errors import DependencyDown, RateLimited
from inferbus.settings import BusSettings
from inferbus.testing import NatsServer
from inferbus_bench.others import OtherPrograms, heading
from inferbus_bench.report import grid

CONFIG = Path(__file__).parents[1] / "deploy/nats/nats.conf"
ALONE, CROWDED = Identity(tenant="alone", key_id="k1"), Identity(tenant="crowded", key_id="k2")
"""Of two organisations: what the one has used in a minute must not be missing in the other's."""
_MANY = 10**12
COSTS = {
    "none": LimitSet(),
    "tokens/min": LimitSet(tokens_per_minute=_MANY),
    "all five": LimitSet(
        requests_per_minute=_MANY, tokens_per_minute=_MANY, concurrent=10**6, tokens_per_day=_MANY,
        money_per_month=_MANY,
    ),
}  # fmt: skip
_WINDOWS = 64
_CELL = struct.Struct("<q")
_HELD_S = 0.05
_REFUSED_S = 0.1
_ROUNDS = 20_000


class Given:
    """What one holder has given out, by window: in a mapped file, so that a kill loses nothing."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_CELL.size * _WINDOWS))
        with path.open("r+b") as file:
            self._cells = mmap.mmap(file.fileno(), 0)

    def add(self, window: int, amount: int) -> None:
        at = window % _WINDOWS * _CELL.size
        _CELL.pack_into(self._cells, at, _CELL.unpack_from(self._cells, at)[0] + amount)

    def of(self, window: int) -> int:
        return int(_CELL.unpack_from(self._cells, window % _WINDOWS * _CELL.size)[0])


async def hold(url: str, password: str, path: Path, callers: int, gateways: int, pause_s: float) -> None:
    """Be one holder until killed, or told to stop."""
    bus = await Bus.connect(BusSettings(url=url, user="gateway", password=password), name="holder")
    quota = Quota(bus, QuotaSettings(), gateways=lambda: gateways)
    await quota.start()
    await quota.loaded()
    given = Given(path)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)

    async def call() -> None:
        while not stopping.is_set():
            prompt, completion = random.randint(100, 400), random.randint(50, 800)
            try:
                reservation = await quota.reserve(CROWDED, "m", lambda: Estimate(prompt, completion))  # noqa: B023 - called at once
            except (RateLimited, DependencyDown):
                await asyncio.sleep(_REFUSED_S * (1 + random.random()))
                continue
            window = int(reservation.windows()[0])
            given.add(window, prompt + completion)
            await asyncio.sleep(random.random() * 2 * _HELD_S)
            spent = random.randint(completion // 4, completion)
            given.add(window, spent - completion)
            reservation.settle(Usage(prompt, spent))
            await asyncio.sleep(random.random() * 2 * pause_s)

    await asyncio.gather(*(call() for _ in range(callers)))
    await quota.stop()
    await bus.close()


async def crowd(server: NatsServer, folder: Path, args: argparse.Namespace) -> tuple[str, bool]:
    """Run the holders; tell what they were given. True: the limit was never passed."""
    settings = server.settings("gateway")
    processes: dict[int, asyncio.subprocess.Process] = {}
    killed = 0

    async def start(number: int) -> None:
        processes[number] = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--hold", settings.url, settings.password, str(folder / f"given-{number}"),
            "--callers", str(args.callers), "--holders", str(args.holders), "--pause", str(args.pause),
        )  # fmt: skip

    await asyncio.sleep((30 - time.time() % 60) % 60)
    first = int(time.time() // 60)
    end = time.monotonic() + args.seconds
    for number in range(args.holders):
        await start(number)
    while (left := end - time.monotonic()) > 0:
        if not args.kill_every:
            await asyncio.sleep(left)
            break
        await asyncio.sleep(min(left, args.kill_every))
        if end - time.monotonic() > 1:
            victim = random.randrange(args.holders)
            processes[victim].kill()
            await processes[victim].wait()
            killed += 1
            await start(victim)
    for process in processes.values():
        process.terminate()
    await asyncio.gather(*(process.wait() for process in processes.values()))
    books = [Given(folder / f"given-{number}") for number in range(args.holders)]
    about = f"{args.holders} processes x {args.callers} callers, limit {args.limit:,} tokens/min, {killed} killed"
    totals = {window: sum(book.of(window) for book in books) for window in range(first, int(time.time() // 60) + 1)}
    return f"{about}\n\n{window_table(totals, args.limit)}", max(totals.values()) <= args.limit


def window_table(totals: dict[int, int], limit: int) -> str:
    """Show what was given out in each window in which anything was."""
    rows = [
        [str(window), f"{total:,}", f"{max(0, total - limit):,}", f"{100 * (1 - total / limit):.2f} %"]
        for window, total in totals.items()
        if total
    ]
    return grid(["window", "given out", "over the limit", "under it"], rows)


async def limit(server: NatsServer, who: Identity, limits: LimitSet) -> None:
    """Set the limits of an organisation."""
    operator = await server.connect("operator")
    await operator.kv_put(routes.KV_LIMITS, f"org.{who.tenant}", msgspec.json.encode(limits))
    await operator.close()


async def cost(server: NatsServer, limits: LimitSet, name: str, callers: int) -> list[str]:
    """Measure what one reservation and its settling cost in this process."""
    await limit(server, ALONE, limits)
    bus = await server.connect("gateway")
    quota = Quota(bus, QuotaSettings(), gateways=lambda: 8)
    await quota.start()
    await quota.loaded()
    took: list[float] = []
    estimate: Callable[[], Estimate] = lambda: Estimate(200, 300)  # noqa: E731 - as the door hands it over
    used = Usage(200, 100)

    async def call(rounds: int) -> None:
        for _ in range(rounds):
            began = time.perf_counter()
            reservation = await quota.reserve(ALONE, "m", estimate)
            took.append(time.perf_counter() - began)
            reservation.settle(used)
            await asyncio.sleep(0)

    await call(1000)
    took.clear()
    calls, cpu = quota.counters.calls, time.process_time()
    idle = await _idle_cpu(callers, _ROUNDS // callers)
    cpu = time.process_time()
    await asyncio.gather(*(call(_ROUNDS // callers) for _ in range(callers)))
    each = (time.process_time() - cpu - idle) / len(took) * 1e6
    p50, p99 = statistics.median(took) * 1e6, statistics.quantiles(took, n=100)[98] * 1e6
    asked = (quota.counters.calls - calls) / len(took)
    await quota.stop()
    await bus.close()
    return [name, f"{each:.1f}", f"{p50:.1f}", f"{p99:.1f}", f"{asked:.4f}"]


async def _idle_cpu(callers: int, rounds: int) -> float:
    """Measure the loop's own CPU for the same tasks doing nothing."""

    async def nothing() -> None:
        for _ in range(rounds):
            time.perf_counter()
            time.perf_counter()
            await asyncio.sleep(0)

    began = time.process_time()
    await asyncio.gather(*(nothing() for _ in range(callers)))
    return time.process_time() - began


async def main(args: argparse.Namespace) -> int:
    """Measure, then print all of it at once. 0: the limit was never passed."""
    async with OtherPrograms() as others:
        with tempfile.TemporaryDirectory() as folder:
            async with NatsServer(Path(folder), CONFIG) as server:
                await server.reconcile()
                costs = [await cost(server, limits, name, args.callers) for name, limits in COSTS.items()]
                await limit(server, CROWDED, LimitSet(tokens_per_minute=args.limit))
                crowded, fine = await crowd(server, Path(folder), args)
    head = ["limits", "CPU us a reservation", "p50 us", "p99 us", "counter calls a reservation"]
    print(f"\n{heading(others.cores, 'admission.py')}\n\n{grid(head, costs)}\n\n{crowded}")
    return 0 if fine else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--holders", type=int, default=8)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--kill-every", type=float, default=3.0)
    parser.add_argument("--limit", type=int, default=3_000_000)
    parser.add_argument("--pause", type=float, default=0.5)
    parser.add_argument("--hold", nargs=3, metavar=("URL", "PASSWORD", "FILE"))
    arguments = parser.parse_args()
    if arguments.hold:
        url, password, file = arguments.hold
        uvloop.run(hold(url, password, Path(file), arguments.callers, arguments.holders, arguments.pause))
        sys.exit(0)
    sys.exit(uvloop.run(main(arguments)))

"""`make soak`: does anything grow? Memory and descriptors of every process under a mixed load, for 20 minutes.

nats-server has its full size only when every stream has filled a block (up to 8 MB of it are in memory) and what was
kept for clients that come back has begun to expire: at the pace of a steady load that takes hours. So what is kept is kept
for two minutes here, in smaller streams, and the first quarter of the time has six times the clients: as many requests as
an hour and a half brings later. After it the least-squares slope of each process must stay under 0.5 MB a minute, and its
descriptors must not grow. Ends with 1 otherwise, or if any answer was not what it must be.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.chaos.mixed_load import MixedLoad
from tests.chaos.report import table
from tests.chaos.slope import Sample, Trend, look_at, trend_of
from tests.main_path import CONFIG, MainPath

from inferbus.contracts.models import ModelEntry
from inferbus.testing import NatsServer
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import reconcile

MOST_MB_PER_MINUTE = 0.5
MOST_DESCRIPTORS = 3.0
"""Of noise: how many connections are open differs from look to look."""
CLIENTS = 8
CLIENTS_AT_FIRST = 48
ITL_S = 0.005
KEPT_SHORTLY = TopologySettings(
    pay_max_bytes=256 * 2**20,
    events_max_bytes=2 * 2**20,
    deltas_max_bytes=16 * 2**20,
    results_max_bytes=16 * 2**20,
    events_max_age_s=120,
    deltas_max_age_s=120,
    results_max_age_s=120,
)
_LOOK_S = 2.0
_SAY_S = 60.0
_WARM_UP = 0.25


class SoakNats(NatsServer):
    """Keeps for two minutes what is kept for clients that come back."""

    async def reconcile(self, *models: ModelEntry) -> None:
        bus = await self.connect("operator")
        await reconcile(bus, KEPT_SHORTLY, list(models))
        await bus.close()


async def soak(folder: Path, *, minutes: float, seed: int, say: Callable[[str], None]) -> bool:
    """Run it and print what was seen; says whether nothing grew and nothing was wrong."""
    path = MainPath(folder)
    path.nats = SoakNats(folder, CONFIG)
    async with path:
        pids = {"nats-server": path.nats.pid}
        for name in ("llm-0", "llm-1"):
            pids[name] = (await path.worker(name, simulator_itl_s=ITL_S)).pid
        pids["gateway-0"] = (await path.gateway()).pid
        draw = random.Random(seed)
        async with MixedLoad(path, clients=CLIENTS_AT_FIRST, draw=draw) as first:
            await _watch(pids, first, minutes * _WARM_UP, say)
        await path.settled()
        say(f"from now on {CLIENTS} clients, and what is seen counts")
        async with MixedLoad(path, clients=CLIENTS, draw=draw) as load:
            samples = await _watch(pids, load, minutes * (1 - _WARM_UP), say)
        await path.settled()
        trends = {name: trend_of(found) for name, found in samples.items()}
        failures = first.failures + load.failures
        say(_render(trends, first.counts + load.counts, failures))
        return not failures and all(map(_is_flat, trends.values()))


async def _watch(
    pids: dict[str, int], load: MixedLoad, minutes: float, say: Callable[[str], None]
) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {name: [] for name in pids}
    began = said = time.monotonic()
    while (now := time.monotonic()) < began + minutes * 60:
        for name, pid in pids.items():
            samples[name].append(look_at(pid))
        load.check()
        if now - said > _SAY_S:
            said = now
            sizes = ", ".join(f"{name} {found[-1].resident_bytes / 2**20:.1f} MB" for name, found in samples.items())
            say(f"{(now - began) / 60:4.0f} min  {load.counts.total()} requests  {sizes}")
        await asyncio.sleep(_LOOK_S)
    return samples


def _is_flat(trend: Trend) -> bool:
    return trend.mb_per_minute <= MOST_MB_PER_MINUTE and trend.descriptor_growth <= MOST_DESCRIPTORS


def _render(trends: dict[str, Trend], counts: Counter[str], failures: list[str]) -> str:
    head = ("process", "MB at first", "at last", "at most", "MB/min", "descriptors at first", "at last", "a minute", "")
    rows = [
        (
            name, f"{one.first_mb:.1f}", f"{one.last_mb:.1f}", f"{one.most_mb:.1f}", f"{one.mb_per_minute:+.3f}",
            str(one.first_descriptors), str(one.last_descriptors), f"{one.descriptors_per_minute:+.3f}",
            "flat" if _is_flat(one) else "GROWS",
        )
        for name, one in trends.items()
    ]  # fmt: skip
    minutes = next(iter(trends.values())).minutes
    done = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    lines = [f"over the last {minutes:.1f} minutes", *table([head, *rows]), "", f"requests: {done}"]
    lines += [f"answers that were not right: {len(failures)}", *(f"  {one}" for one in failures[:20])]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inferbus-soak-") as folder:
        flat = asyncio.run(soak(Path(folder), minutes=options.minutes, seed=options.seed, say=_say))
    _say("passed" if flat else "FAILED")
    return 0 if flat else 1


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

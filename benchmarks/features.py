"""Reads of features at the bus door, next to Feast's own SDK in the same run, on Redis. Run in .venv-features:

    .venv-features/bin/python benchmarks/features.py [--seconds 5] [--only narrow|wide]

One features process, alone on its core: it is pinned to the last one, and the generator, Redis and the bus share the
others (`--unpinned`: the system decides). CPU is that process's own. Loads are open: requests come at random times whether
the ones before were answered or not, and a latency begins when a request was due. Beside it: the same from when it was
sent (the generator may be late), which share of requests the service itself answered within so many ms of their receipt, by
its own histogram, and which share of the machine its host took away meanwhile. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop

from feature_definitions import NARROW, WIDE
from feature_load import Place, Result, fill, load
from inferbus.codec import to_json
from inferbus.contracts.features import GetRequest

USERS, ITEMS = 2000, 500


def sdk(
    store: Any, service: str, rows: Callable[[], dict[str, list[int]]], seconds: float
) -> tuple[float, float, float, float]:
    """Ask Feast's own front door in a closed loop: requests a CPU second, requests a second, p50 and p99 ms."""
    feast = store._feast
    definition = feast.get_feature_service(service)
    latencies = []
    feast.get_online_features(features=definition, entity_rows=rows()).to_dict()
    cpu, begun = time.process_time(), time.perf_counter()
    while time.perf_counter() < begun + seconds:
        at = time.perf_counter()
        feast.get_online_features(features=definition, entity_rows=rows()).to_dict()
        latencies.append(time.perf_counter() - at)
    took, used = time.perf_counter() - begun, time.process_time() - cpu
    latencies.sort()
    count = len(latencies)
    return count / used, count / took, latencies[count // 2] * 1000, latencies[int(count * 0.99)] * 1000


def row(what: str, result: Result, rows: int = 1) -> str:
    """Write one line of the table."""
    rate = len(result.latencies) / result.took_s
    per_cpu = len(result.latencies) / result.cpu_s if result.cpu_s else 0
    return (
        f"| {what} | {rate:.0f} | {rate * rows:.0f} | {result.at(0.5):.2f} / {result.at(0.99):.2f} "
        f"| {result.at(0.5, since_sent=True):.2f} / {result.at(0.99, since_sent=True):.2f} "
        f"| {' / '.join(f'{share * 100:.1f}' for share in result.inside)} | {result.stolen * 100:.0f} | {result.cpu_s / result.took_s:.2f} "
        f"| {result.cpu_s / max(1, len(result.latencies)) * 1e6:.0f} | {per_cpu:.0f} | {per_cpu * rows:.0f} | {result.failed} |"
    )


HEAD = (
    "| load | requests/s | rows/s | p50 / p99 ms | since sent | in the service within 2 / 5 / 10 ms, % | stolen % | core use | CPU us/request | requests per CPU s | rows per CPU s | failed |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


async def narrow(place: Place, seconds: float) -> None:
    store = await place.define(NARROW)
    for view, key, count in (("stats", "user_id", USERS), ("of_user", "user_id", USERS), ("of_item", "item_id", ITEMS)):
        fill(store, view, key, count)
    one = GetRequest(entities={"user_id": 1})
    await place.start("svc", one)

    def single() -> tuple[str, bytes]:
        return "svc", b'{"entities":{"user_id":%d}}' % random.randrange(USERS)

    def ranked() -> tuple[str, bytes]:
        items = random.sample(range(ITEMS), 100)
        return "candidates", to_json(GetRequest(entities={"user_id": random.randrange(USERS), "item_id": items}))

    print(f"\nstart to first answer {place.started_s:.1f} s, memory {place.memory_mb():.0f} MB\n\n{HEAD}")
    await load(place.bus, place, single, 500, 1.0)
    for _ in range(3):
        print(row("20 features, 1 row, 1,000/s", await load(place.bus, place, single, 1000, seconds)), flush=True)
    for rate in (3000, 5000, 6000, 7000, 8000):
        result = await load(place.bus, place, single, rate, seconds)
        print(row(f"20 features, 1 row, {rate:,}/s", result), flush=True)
        if result.at(0.99) > 50 or result.failed:
            break
    for rate in (50, 100, 150):
        result = await load(place.bus, place, ranked, rate, seconds)
        print(row(f"1 user x 100 items, 12 + 8 features, {rate}/s", result, 100), flush=True)
        if result.at(0.99) > 50:
            break
    for what, service, ask, rows in (
        ("20 features, 1 row", "svc", lambda: {"user_id": [random.randrange(USERS)]}, 1),
        ("20 features, 64 rows", "svc", lambda: {"user_id": random.sample(range(USERS), 64)}, 64),
        (
            "1 user x 100 items",
            "candidates",
            lambda: {"user_id": [7] * 100, "item_id": random.sample(range(ITEMS), 100)},
            100,
        ),
    ):
        per_cpu, rate, p50, p99 = sdk(store, service, ask, min(seconds, 3.0))
        print(
            f"| Feast's SDK, one after the other: {what} | {rate:.0f} | {rate * rows:.0f} | {p50:.2f} / {p99:.2f} | | | | 1 "
            f"| {1e6 / per_cpu:.0f} | {per_cpu:.0f} | {per_cpu * rows:.0f} | 0 |"
        )
    place.stop()


async def wide(place: Place, seconds: float) -> None:
    store = await place.define(WIDE)
    for n in range(20):
        fill(store, f"wide{n}", "user_id", 300)
    await place.start("svc0", GetRequest(entities={"user_id": 1}))

    def single() -> tuple[str, bytes]:
        return f"svc{random.randrange(100)}", b'{"entities":{"user_id":%d}}' % random.randrange(300)

    def some() -> tuple[str, bytes]:
        names = ",".join(f'"w{n}_{n}"' for n in range(20))
        return "svc7", f'{{"entities":{{"user_id":{random.randrange(300)}}},"features":[{names}]}}'.encode()

    print(
        f"\n100 services of 900 features over 20 views: compiled in {place.compiled_s:.1f} s of CPU, start to first answer "
        f"{place.started_s:.1f} s (CPU {place.cpu_s():.1f} s), memory {place.memory_mb():.0f} MB\n\n{HEAD}"
    )
    for rate in (25, 50, 100, 200, 400):
        result = await load(place.bus, place, single, rate, seconds)
        print(row(f"900 features, any of 100 services, {rate}/s", result), flush=True)
        if result.at(0.99) > 50 or result.failed:
            break
    print(row("20 of the 900, over 20 views, 500/s", await load(place.bus, place, some, 500, seconds)))
    per_cpu, rate, p50, p99 = sdk(store, "svc7", lambda: {"user_id": [random.randrange(300)]}, min(seconds, 3.0))
    print(
        f"| Feast's SDK, one after the other: 900 features | {rate:.0f} | {rate:.0f} | {p50:.2f} / {p99:.2f} | | | | 1 | {1e6 / per_cpu:.0f} | {per_cpu:.0f} | {per_cpu:.0f} | 0 |"
    )
    print(f"\nmemory afterwards {place.memory_mb():.0f} MB")
    place.stop()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", choices=["narrow", "wide"], default="")
    parser.add_argument("--unpinned", action="store_true")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    async with AsyncExitStack() as stack:
        place = Place(
            Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))),
            pinned=not chosen.unpinned,
        )
        await place.open(stack)
        stack.callback(place.stop)
        for name, part in (("narrow", narrow), ("wide", wide)):
            if chosen.only in ("", name):
                await part(place, chosen.seconds)


if __name__ == "__main__":
    uvloop.run(main())

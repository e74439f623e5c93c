"""Classic models through the whole path (HTTP, bus, worker, Triton), beside clients straight at the same Triton.

    .venv/bin/python benchmarks/triton.py [--seconds 2] [--rounds 3] [--connections 1,16,64] [--rows 16,100]
    .venv/bin/python benchmarks/triton.py --judged            # only what targets speak of: 16 short rounds, 4 minutes
    .venv/bin/python benchmarks/triton.py --embeddings        # MiniLM: vLLM beside ONNX in Triton, on the same platform

One platform, one worker with one Triton, the model `ranker` (LightGBM, 32 features). A round goes load by load through all
targets; figures are medians over rounds, and targets are judged by the median of what each round says (with its quartiles), since
the machine's own speed moves from one minute to the next. CPU is user and system time from /proc: `path` is gateway, nats-server and worker
without Triton. `gateway` and `triton HTTP` are asked by the same load generator with the same bytes (binary tensors);
`tritonclient` (gRPC, asyncio) and the SDK are Python programs, whose own CPU is part of what two cores have to give. One
connection also asks Triton with a pause of 1.5 ms before each request, which is about the pace of the path: a server that sleeps
in between wakes up slower, whoever asks.
The bare path (`inferbus_bench.bare_path`) is asked at 16 connections in every round, as the yardstick of ADR 20. *Added* CPU is that of all
processes, less what Triton takes when the same load asks it straight: who joins requests spares it some.
Exit status 1 where a target was missed or a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from inferbus.local.layout import Layout
from inferbus.local.state import read_state
from inferbus_bench.classic_clients import Answer
from inferbus_bench.classic_place import (
    BARE,
    CLIENT,
    GATEWAY,
    GATEWAY_DIRECT,
    PACED,
    SDK,
    TRITON,
    Place,
    add_direct,
    find_place,
    run_generator,
    run_one,
)  # fmt: skip
from inferbus_bench.cpu import ENGINE, cpu_of
from inferbus_bench.loadgen import build, run_load
from inferbus_bench.machine import describe_machine, describe_versions
from inferbus_bench.places import ROOT
from inferbus_bench.report import grid
from inferbus_bench.scenarios import chosen, simulator_scenarios
from inferbus_bench.targets import Target, bare_path, platform

SENTENCE = (
    "Wait until the lock is released by another thread, or until the timeout occurs, and say which of the two it was"
)
PATH = ("gateway", "nats-server", "worker")
JUDGED_AT, YARDSTICK = 16, "whole-16"
MET = "met"
MOST_CPU_US, MOST_TIMES_BARE = 350, 350 / 203  # 203 us took the bare path where the target was set (ADR 20)


Loads = tuple[int, int, tuple[str, ...]]
"""Connections, rows a request, and who is asked."""
JUDGED: list[Loads] = [
    (1, 1, (GATEWAY, GATEWAY_DIRECT, BARE, CLIENT)), (JUDGED_AT, 1, (GATEWAY, BARE, CLIENT)), (64, 1, (GATEWAY, CLIENT)),
]  # fmt: skip


class Times(msgspec.Struct, frozen=True):
    """Requests a second, latency in milliseconds, microseconds of CPU a request by role."""

    rate: float
    p50: float
    p99: float
    cpu: dict[str, float]


async def measured(place: Place, run: Callable[[], Awaitable[Answer]]) -> Times:
    before = cpu_of(place.roots)
    answer = await run()
    spent = {role: seconds - before[role] for role, seconds in cpu_of(place.roots).items()}
    if "worker" in spent:
        spent["worker"] -= spent[TRITON]  # which is its child
    return Times(answer.rate, answer.p50, answer.p99, {role: 1e6 * s / answer.ok for role, s in spent.items()})


def median(all_times: Sequence[Times]) -> Times:
    def middle(of: Callable[[Times], float]) -> float:
        return statistics.median(of(one) for one in all_times)

    cpu = {role: middle(lambda one, role=role: one.cpu[role]) for role in all_times[0].cpu}  # type: ignore[misc]  # bound now
    return Times(middle(lambda one: one.rate), middle(lambda one: one.p50), middle(lambda one: one.p99), cpu)


async def rank(args: argparse.Namespace, folder: Path) -> bool:
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(platform(folder, simulator=True, options=("--triton", "1")))
        yardstick = await stack.enter_async_context(bare_path(folder / "bare"))
        place = find_place(target, folder / "home")
        await add_direct(place.home)
        loads = JUDGED if args.judged else loads_of(numbers(args.connections), numbers(args.rows))
        seen: dict[tuple[int, int, str], list[Times]] = {}
        bare: list[float] = []
        for number in range(args.rounds + 1):  # the first warms up
            seconds = args.seconds if number else 0.5
            for connections, rows, names in loads:
                for name in names if number % 2 else reversed(names):
                    times = await measured(place, lambda: run_one(name, place, connections, rows, seconds))  # noqa: B023  # run at once
                    if number:
                        seen.setdefault((connections, rows, name), []).append(times)
                if (connections, rows) == (JUDGED_AT, 1):
                    bare += [await bare_us(yardstick, seconds)] if number else []
        found = {key: median(all_times) for key, all_times in seen.items()}
    print(
        grid(
            HEAD, [row_of(*key, times) for key, times in sorted(found.items(), key=lambda one: (one[0][1], one[0][0]))]
        )
    )
    return verdicts(seen, bare)


def loads_of(connections: Sequence[int], rows: Sequence[int]) -> list[Loads]:
    loads: list[Loads] = [
        (count, 1, (GATEWAY, GATEWAY_DIRECT, BARE, *([PACED] if count == 1 else []), CLIENT, SDK))
        for count in connections
    ]
    return loads + [(16, count, (GATEWAY, BARE, CLIENT)) for count in rows]


async def bare_us(yardstick: Target, seconds: float) -> float:
    """Give what a request over the bare path takes, in microseconds of CPU."""
    (scenario,) = chosen(simulator_scenarios(yardstick.model, seconds), YARDSTICK)
    before = cpu_of(yardstick.roots)
    result = await run_load(build(), yardstick.port, yardstick.key, scenario.load)
    after = cpu_of(yardstick.roots)
    return 1e6 * sum(after[role] - before[role] for role in yardstick.roots) / result.ok


HEAD = (
    "rows", "connections", "target", "requests/s", "rows/s", "p50 / p99 ms", "CPU us/request: path", "gateway + nats + worker", "triton",
)  # fmt: skip


def row_of(connections: int, rows: int, name: str, times: Times) -> list[str]:
    path = sum(times.cpu[role] for role in PATH)
    shares = " + ".join(f"{times.cpu[role]:.0f}" for role in PATH)
    return [
        str(rows), str(connections), name, f"{times.rate:.0f}", f"{times.rate * rows:.0f}",
        f"{times.p50:.2f} / {times.p99:.2f}", f"{path:.0f}", shares, f"{times.cpu[TRITON]:.0f}",
    ]  # fmt: skip


def verdicts(seen: dict[tuple[int, int, str], list[Times]], bare: Sequence[float]) -> bool:
    """Print what the issue asked for, and what came of it; True where all was met."""

    def each(figure: Callable[..., float], connections: int, *names: str) -> list[float]:
        """Compute a figure of these targets' times, round by round."""
        return [figure(*times) for times in zip(*(seen.get((connections, 1, name), []) for name in names), strict=True)]

    def path(durable: Times) -> float:
        return sum(durable.cpu[role] for role in PATH)

    def added(durable: Times, straight: Times) -> float:
        return path(durable) + durable.cpu[TRITON] - straight.cpu[TRITON]

    def p50(ours: Times, straight: Times) -> float:
        return ours.p50 - straight.p50

    def times_bare(figures: Sequence[float]) -> list[float]:
        return [figure / yardstick for figure, yardstick in zip(figures, bare, strict=True)]

    of_path, of_added = each(path, JUDGED_AT, GATEWAY), each(added, JUDGED_AT, GATEWAY, BARE)
    rows = [
        ("added p50 at one connection, durable, to triton HTTP (ms)", each(p50, 1, GATEWAY, BARE), 1.5, False),
        ("the same, to tritonclient's", each(p50, 1, GATEWAY, CLIENT), 1.5, False),
        ("added p50 at one connection, direct, to triton HTTP (ms)", each(p50, 1, GATEWAY_DIRECT, BARE), 0.8, False),
        ("the same, to tritonclient's", each(p50, 1, GATEWAY_DIRECT, CLIENT), 0.8, False),
        ("added CPU, durable, 16 connections, to triton HTTP (us/request)", of_added, MOST_CPU_US, False),
        ("the same, to tritonclient's", each(added, JUDGED_AT, GATEWAY, CLIENT), MOST_CPU_US, False),
        ("the same, to triton HTTP, in times of the bare path", times_bare(of_added), MOST_TIMES_BARE, False),
        ("CPU of gateway, nats-server and worker alone (us/request)", of_path, MOST_CPU_US, False),
        ("the same in times of the bare path", times_bare(of_path), MOST_TIMES_BARE, False),
        (
            "requests/s at 64 connections against tritonclient",
            each(lambda ours, client: ours.rate / client.rate, 64, GATEWAY, CLIENT), 0.6, True,
        ),
    ]  # fmt: skip
    if bare:
        print(f"\nThe bare path takes {statistics.median(bare):.0f} us of CPU a request at {JUDGED_AT} connections.")
    judged = [verdict(*row) for row in rows if row[1]]
    print()
    print(grid(("target", "median (quartiles)", "wanted", ""), judged))
    return all(line[-1] == MET for line in judged)


def verdict(what: str, values: Sequence[float], limit: float, at_least: bool) -> list[str]:  # a row of the table
    middle = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (middle,) * 3
    met = middle >= limit if at_least else middle <= limit
    wanted = f"{'>=' if at_least else '<='} {limit:.3g}"
    return [what, f"{middle:.2f} ({low:.2f} to {high:.2f})", wanted, MET if met else "MISSED"]


# --- embeddings -----------------------------------------------------------------------------------------------------------


async def embed(args: argparse.Namespace, folder: Path) -> bool:
    """One sentence a request to /v1/embeddings, the same model twice: in vLLM, and as ONNX in Triton."""
    async with platform(folder, simulator=False, options=("--embed", "--triton", "1")) as target:
        place = find_place(target, folder / "home")
        state = read_state(Layout(root=ROOT, home=place.home))
        assert state is not None
        vllm = next(one.pid for one in state.processes if one.name == "embed-0")
        place = msgspec.structs.replace(place, roots={"vllm": vllm, TRITON: place.roots[TRITON]})
        rows = []
        for connections in numbers(args.connections):
            seen: dict[str, list[Times]] = {}
            for number in range(args.rounds + 1):
                for model in ("all-minilm-l6-v2", "minilm-onnx"):
                    body = json.dumps({"model": model, "input": SENTENCE}).encode()

                    async def run(body: bytes = body, seconds: float = args.seconds if number else 0.5) -> Answer:
                        return await run_generator(place, target.port, "/v1/embeddings", body, ["Content-Type: application/json"], connections, seconds)  # noqa: B023  # run at once  # fmt: skip

                    times = await measured(place, run)
                    if number:
                        seen.setdefault(model, []).append(times)
            for model, all_times in seen.items():
                times = median(all_times)
                engine = times.cpu[TRITON] if model == "minilm-onnx" else times.cpu[ENGINE]
                rows.append(
                    [
                        str(connections),
                        model,
                        f"{times.rate:.0f}",
                        f"{times.p50:.1f} / {times.p99:.1f}",
                        f"{engine / 1000:.1f}",
                    ]
                )
        print(grid(("connections", "model", "sentences/s", "p50 / p99 ms", "CPU ms/sentence in the engine"), rows))
    return True


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",") if one]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--rows", default="16,100")
    parser.add_argument("--judged", action="store_true")
    parser.add_argument("--embeddings", action="store_true")
    args = parser.parse_args()
    args.seconds = args.seconds or (1.0 if args.judged else 2.0)
    args.rounds = args.rounds or (16 if args.judged else 3)
    print(f"{describe_machine()}; {describe_versions()}\n")
    with tempfile.TemporaryDirectory(prefix="inferbus-bench-") as folder:
        return 0 if asyncio.run((embed if args.embeddings else rank)(args, Path(folder) / "platform")) else 1


if __name__ == "__main__":
    sys.exit(main())

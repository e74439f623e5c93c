"""Measure the main path: the platform beside `vllm serve`, and the platform around an engine that costs nothing.

    .venv/bin/python benchmarks/main_path.py [--quick] [--only engine|simulator] [--write]
    .venv/bin/python benchmarks/main_path.py --limits      what limits, prices and the ledger add to it
    .venv/bin/python benchmarks/main_path.py --in-turn     what limits add to a request, in short turns

Exit status 1 if a target was missed or requests failed. README.md beside this file says what each figure means.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from inferbus_bench import admission_cost, keys_in_turn, loadgen, report, verdicts
from inferbus_bench.cpu import Seconds
from inferbus_bench.others import OtherPrograms, heading
from inferbus_bench.places import RESULTS
from inferbus_bench.rounds import Measurement, Table, measure_idle, measure_rounds
from inferbus_bench.scenarios import chosen, engine_scenarios, simulator_scenarios
from inferbus_bench.targets import DidNotStart, bare_path, platform, vllm_serve

_MARK = "<!-- below: written by benchmarks/main_path.py --write -->"
_SETTLE_S = 3.0
_TURNS = 20


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How long to measure; times in seconds, per load. `engine_loads`: only these, all if empty."""

    rounds: int
    engine_s: float
    simulator_s: float
    idle_s: float
    engine_loads: str = ""


FULL = Pace(rounds=3, engine_s=5.0, simulator_s=4.0, idle_s=20.0)
QUICK = Pace(rounds=1, engine_s=1.5, simulator_s=1.5, idle_s=5.0, engine_loads="direct-1,direct-32,asgi-32,whole-32")


class Part(msgspec.Struct, kw_only=True):
    """One part of the report and what it was judged by."""

    text: str
    verdicts: list[verdicts.Verdict]
    errors: int
    other_cores: float


async def measure_engine(program: Path, folder: Path, pace: Pace, loads: str, peer_args: list[str]) -> Part:
    """Measure the platform with real vLLM beside `vllm serve`, both up all the time, and both idle."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(platform(folder / "platform", simulator=False))
        peer = await stack.enter_async_context(vllm_serve(folder / "peer", extra=peer_args))
        scenarios = chosen(engine_scenarios(ours.model, pace.engine_s), loads or pace.engine_loads)
        table = await measure_rounds(program, [(ours, scenarios), (peer, scenarios)], rounds=pace.rounds, tell=_tell)
        await asyncio.sleep(_SETTLE_S)
        shares = await asyncio.gather(*(measure_idle(target, pace.idle_s) for target in (ours, peer)))
    idle: dict[str, Seconds] = {ours.name: shares[0], peer.name: shares[1]}
    text = (
        f"### Real engine: vLLM on CPU, inferbus-tiny, 64 tokens an answer\n\n{report.engine_table(table, peer.name)}\n\n"
        f"### Idle, over {pace.idle_s:g} s\n\n{report.idle_table(idle)}"
    )
    found = [*verdicts.engine_verdicts(table, ours.name, peer.name), verdicts.idle_verdict(idle[ours.name])]
    return _part(text, found, table)


async def measure_simulator(program: Path, folder: Path, pace: Pace, loads: str) -> Part:
    """Measure the platform around the simulator, with and without ledger, beside the bare path: all of the latency and
    CPU is the path's."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(platform(folder / "simulator", simulator=True))
        plain = await stack.enter_async_context(platform(folder / "unbilled", simulator=True, ledger=False))
        unbilled = msgspec.structs.replace(plain, name=f"{ours.name}, no ledger")
        bare = await stack.enter_async_context(bare_path(folder / "bare"))
        scenarios = chosen(simulator_scenarios(ours.model, pace.simulator_s), loads)
        whole = [one for one in scenarios if not one.load.streamed]
        plan = [(ours, scenarios), (unbilled, whole), (bare, whole)]
        table = await measure_rounds(program, plan, rounds=pace.rounds, tell=_tell)
    text = f"### Simulator engine: what the path adds\n\n{report.simulator_table(table)}"
    return _part(text, verdicts.simulator_verdicts(table, ours.name, unbilled.name, bare.name), table)


async def measure_limits(program: Path, folder: Path, pace: Pace, loads: str) -> Part:
    """Measure what limits, prices and the ledger add, around the simulator: three platforms up all the time, in turn."""
    async with admission_cost.three_platforms(folder) as targets:
        whole = [one for one in simulator_scenarios(targets[0].model, pace.simulator_s) if not one.load.streamed]
        plan = [(target, chosen(whole, loads)) for target in targets]
        table = await measure_rounds(program, plan, rounds=pace.rounds, tell=_tell)
    text = f"### What limits and ledger add: simulator, unstreamed, 16 tokens\n\n{admission_cost.tables(table)}"
    return _part(text, admission_cost.verdicts(table), table)


async def measure_in_turn(program: Path, folder: Path, turns: int) -> Part:
    """Measure what limits add to a request, around the simulator: one platform, its keys in turn."""
    async with OtherPrograms() as others:
        text, found, errors = await keys_in_turn.measure(program, folder, turns)
    title = f"### What limits add to a request: simulator, unstreamed, 16 tokens, {turns} turns"
    return Part(text=f"{title}\n\n{text}", verdicts=found, errors=errors, other_cores=others.cores)


def _part(text: str, found: list[verdicts.Verdict], table: Table) -> Part:
    measurements = [one for figures in table.values() for one in figures.measurements]
    return Part(
        text=text,
        verdicts=found,
        errors=sum(one.result.errors for one in measurements),
        other_cores=max(one.other_cores for one in measurements),
    )


def _tell(measurement: Measurement) -> None:
    print(report.line_of(measurement), flush=True)


async def measure(options: argparse.Namespace) -> list[Part]:
    pace = QUICK if options.quick else FULL
    pace = msgspec.structs.replace(pace, rounds=options.rounds or pace.rounds)
    if options.seconds:
        pace = msgspec.structs.replace(pace, engine_s=options.seconds, simulator_s=options.seconds)
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    program = loadgen.build()
    parts = []
    with tempfile.TemporaryDirectory(prefix="inferbus-bench-") as folder:
        if options.in_turn:
            return [await measure_in_turn(program, Path(folder), options.rounds or _TURNS)]
        if options.limits:
            return [await measure_limits(program, Path(folder), pace, options.loads)]
        if options.only != "engine":
            parts.append(await measure_simulator(program, Path(folder), pace, options.loads))
        if options.only != "simulator":
            peer_args = shlex.split(options.peer_args)
            parts.append(await measure_engine(program, Path(folder), pace, options.loads, peer_args))
    return parts


def summary(parts: list[Part]) -> str:
    """Give the whole result as Markdown."""
    found = [one for part in parts for one in part.verdicts]
    arguments = [argument for argument in sys.argv[1:] if argument != "--write"]
    sections = [heading(max(part.other_cores for part in parts), "main_path.py", arguments)]
    if found:
        sections.append(f"### Targets\n\n{report.verdict_table(found)}")
    return "\n\n".join([*sections, *(part.text for part in parts)]) + "\n"


def write(text: str) -> None:
    """Replace what follows the mark in RESULTS.md."""
    before = RESULTS.read_text().split(_MARK)[0]
    RESULTS.write_text(f"{before}{_MARK}\n\n{text}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works, too noisy to quote")
    parser.add_argument("--only", choices=["engine", "simulator"], help="measure only this part")
    parser.add_argument("--limits", action="store_true", help="measure what limits and ledger add instead")
    parser.add_argument("--in-turn", action="store_true", help="measure what limits add to a request, in short turns")
    parser.add_argument("--loads", default="", help="measure only these loads, such as direct-32,asgi-32,whole-16")
    parser.add_argument("--rounds", type=int, default=0, help="rounds over all loads (3)")
    parser.add_argument("--seconds", type=float, default=0.0, help="seconds of each load (5; simulator 4)")
    parser.add_argument("--peer-args", default="", help="further flags for `vllm serve`, such as --disable-log-stats")
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/RESULTS.md")
    options = parser.parse_args()
    if (options.limits or options.in_turn) and (options.write or options.only):
        parser.error("--limits and --in-turn go with neither --write (it is another section of RESULTS.md) nor --only")
    return options


def main() -> int:
    options = parse_options()
    try:
        parts = asyncio.run(measure(options))
    except (DidNotStart, admission_cost.NotWhatItSays, loadgen.LoadFailed) as exc:
        print(f"main_path: {exc}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("main_path: stopped", file=sys.stderr)
        return 130
    text = summary(parts)
    print("\n" + text)
    if options.write:
        write(text)
    missed = [one for part in parts for one in part.verdicts if not one.met]
    return 1 if missed or any(part.errors for part in parts) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What limits add to a request: one platform, one key without limits and some with, asked in turn in short slices.

The CPU a request takes differs by a third from one minute to the next on a machine that others use as well, most of all
where requests come one by one. Three platforms in rounds of seconds (`admission_cost`) drown in that; here a slice of each key
follows the other within a second, and the differences are many. What limits cost a second, however few requests come, is
shown apart: the same keys, asked ten times a second.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from statistics import mean, median

import msgspec

from inferbus_bench import report
from inferbus_bench.admission_cost import MAX_ADDED_MS, MAX_ADDED_US
from inferbus_bench.loadgen import Load, run_load
from inferbus_bench.operator import Operator, id_of
from inferbus_bench.scenarios import Scenario, simulator_scenarios
from inferbus_bench.targets import Target, home_in, platform
from inferbus_bench.verdicts import Verdict

NO_LIMITS, TWO, FIFTEEN = "no limits", "two limits", "fifteen limits"
ROLES = ("gateway", "worker", "nats-server", "ledger")
CONNECTIONS = (1, 16)
_LEAD_S, _SLICE_S, _SETTLE_S = 0.2, 0.8, 0.05
_SLOW_S, _EVERY_S = 6.0, 0.1
_RESAMPLES = 1000
_MANY, _MANY_OPEN = 10**12, 10**6
_PROC = Path("/proc")


class Slice(msgspec.Struct, frozen=True):
    """One key's turn: microseconds of CPU a request by role, p50 and p99 in milliseconds."""

    cpu_us: dict[str, float]
    p50: float
    p99: float

    @property
    def all_us(self) -> float:
        return sum(self.cpu_us.values())


Slices = dict[tuple[int, str], list[Slice]]
"""By (connections, key's name), in the order in which they were measured."""


async def measure(program: Path, folder: Path, pairs: int) -> tuple[str, list[Verdict], int]:
    """Measure it all; give a report, what it is judged by, and how many requests failed.

    Raises:
        DidNotStart: the platform was not ready in time. LoadFailed: not one request of a slice succeeded.
    """
    async with platform(folder / "in-turn", simulator=True) as target:
        keys = make_keys(Operator(home_in(folder / "in-turn")), target.model)
        slices: Slices = {}
        errors = 0
        for connections in CONNECTIONS:
            load = _load(target.model, connections)
            for number in range(pairs):
                for name in _turned(list(keys), number):
                    one, failed = await _slice(program, target, keys[name], load)
                    slices.setdefault((connections, name), []).append(one)
                    errors += failed
        slow = {name: await _slow(target, key) for name, key in keys.items()}
    return f"{_table(slices)}\n\n{_slow_table(slow)}", _verdicts(slices), errors


def make_keys(operator: Operator, model: str) -> dict[str, str]:
    """Make a key without limits; one with tokens per minute, its organisation's too; one with all five limits on key, team
    and organisation. (A model's limits would hold for all three.)"""
    operator.command("prices", "set", model, "--input", "0.15", "--output", "0.60")
    none, two = operator.new_key("--tenant", "free"), operator.new_key("--tenant", "small")
    for scope, name in (("key", id_of(two)), ("org", "small")):
        operator.set_limits(scope, name, tokens_per_minute=_MANY)
    operator.command("orgs", "create", "acme")
    operator.command("teams", "create", "research", "--tenant", "acme")
    many = operator.new_key("--tenant", "acme", "--team", "research")
    for scope, name in (("key", id_of(many)), ("team", "acme/research"), ("org", "acme")):
        operator.set_limits(
            scope, name, requests_per_minute=_MANY, tokens_per_minute=_MANY, concurrent=_MANY_OPEN, tokens_per_day=_MANY,
            money_per_month=_MANY,
        )  # fmt: skip
    return {NO_LIMITS: none, TWO: two, FIFTEEN: many}


def _load(model: str, connections: int) -> Load:
    scenario: Scenario = next(
        one
        for one in simulator_scenarios(model, _SLICE_S)
        if one.load.connections == connections and not one.load.streamed
    )
    return scenario.load


def _turned(names: list[str], number: int) -> list[str]:
    first = number % len(names)
    return names[first:] + names[:first]


async def _slice(program: Path, target: Target, key: str, load: Load) -> tuple[Slice, int]:
    """Ask with one key; the shares of its limits have been asked for when it begins."""
    await run_load(program, target.port, key, msgspec.structs.replace(load, seconds=_LEAD_S))
    before = _run_us(target.roots)
    result = await run_load(program, target.port, key, load)
    await asyncio.sleep(_SETTLE_S)  # acknowledgements follow the last byte
    after = _run_us(target.roots)
    cpu = {role: (after[role] - before[role]) / result.ok for role in ROLES}
    return Slice(cpu, result.latency.p50, result.latency.p99), result.errors


async def _slow(target: Target, key: str) -> dict[str, float]:
    """Ask ten times a second; give the microseconds of CPU a second by role."""
    before, began = _run_us(target.roots), time.monotonic()
    await asyncio.to_thread(_ask_slowly, target, key)
    after, took = _run_us(target.roots), time.monotonic() - began
    return {role: (after[role] - before[role]) / took for role in ROLES}


def _ask_slowly(target: Target, key: str) -> None:
    connection = HTTPConnection("127.0.0.1", target.port, timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = json.dumps(_load(target.model, 1).body)
    for _ in range(int(_SLOW_S / _EVERY_S)):
        connection.request("POST", "/v1/chat/completions", body, headers)
        connection.getresponse().read()
        time.sleep(_EVERY_S)
    connection.close()


def _run_us(roots: Mapping[str, int]) -> dict[str, float]:
    """Give how long each process has run, in microseconds: what /proc/<pid>/stat has is in hundredths of seconds."""
    return {role: sum(map(_thread_us, (_PROC / str(roots[role]) / "task").iterdir())) for role in ROLES}


def _thread_us(thread: Path) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        return int((thread / "schedstat").read_text().split()[0]) / 1000
    return 0.0


# --- what came of it --------------------------------------------------------------------------------------------------


def differences(slices: Slices, connections: int, name: str) -> list[float]:
    """Compare a key's CPU with that of the one without limits, turn by turn. Pure."""
    pairs = zip(slices[connections, NO_LIMITS], slices[connections, name], strict=True)
    return [one.all_us - other.all_us for other, one in pairs]


def likely(values: Sequence[float]) -> tuple[float, float]:
    """Say between which two values the median lies, 19 times of 20 (by resampling). Pure, and the same every time."""
    chance = random.Random(1)
    found = sorted(median(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return found[_RESAMPLES // 40], found[-_RESAMPLES // 40]


def _verdicts(slices: Slices) -> list[Verdict]:
    found = []
    for connections in CONNECTIONS:
        for name in (TWO, FIFTEEN):
            added = median(differences(slices, connections, name))
            what = f"{connections} at once, {name}"
            found.append(Verdict(what=f"{what}: CPU", value=added, limit=MAX_ADDED_US, unit="us/request"))
            if connections == 1:
                later = median(_later(slices, connections, name))
                found.append(Verdict(what=f"{what}: p50", value=later, limit=MAX_ADDED_MS, unit="ms"))
    return found


def _later(slices: Slices, connections: int, name: str) -> list[float]:
    pairs = zip(slices[connections, NO_LIMITS], slices[connections, name], strict=True)
    return [one.p50 - other.p50 for other, one in pairs]


def _table(slices: Slices) -> str:
    rows = []
    for (connections, name), found in slices.items():
        row = [
            str(connections),
            name,
            f"{median(one.p50 for one in found):.2f} / {median(one.p99 for one in found):.2f}",
            f"{median(one.all_us for one in found):.0f}",
            " + ".join(f"{median(one.cpu_us[role] for one in found):.0f}" for role in ROLES),
        ]
        if name == NO_LIMITS:
            rows.append([*row, "", "", ""])
            continue
        added = differences(slices, connections, name)
        low, high = likely(added)
        without = slices[connections, NO_LIMITS]
        by_role = (
            median(one.cpu_us[role] - other.cpu_us[role] for other, one in zip(without, found, strict=True))
            for role in ROLES
        )
        rows.append([
            *row,
            f"{median(added):+.0f} ({low:+.0f} to {high:+.0f}), mean {mean(added):+.0f}",
            " ".join(f"{value:+.0f}" for value in by_role),
            f"{median(_later(slices, connections, name)):+.2f}",
        ])  # fmt: skip
    roles = " + ".join(ROLES)
    head = [
        "at once",
        "key",
        "p50 / p99 ms",
        "CPU us/request",
        f"= {roles}",
        "CPU added (19 of 20)",
        ", ".join(ROLES),
        "p50 added",
    ]
    return report.grid(head, rows)


def _slow_table(slow: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        [name, f"{sum(cpu.values()) / 1000:.1f}", " + ".join(f"{cpu[role] / 1000:.1f}" for role in ROLES)]
        for name, cpu in slow.items()
    ]
    return report.grid(["ten requests a second with", "CPU ms/second", "= " + " + ".join(ROLES)], rows)

"""Rounds: every scenario on every target, again and again, so that what the machine does besides hits all alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

from inferbus_bench.cpu import ENGINE, Seconds, busy_seconds, cpu_of
from inferbus_bench.loadgen import LoadResult, run_load
from inferbus_bench.scenarios import Scenario
from inferbus_bench.targets import Target

_SETTLE_S = 0.2


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one target. `cpu_s`: CPU seconds by process role, engine apart; `other_cores`: cores that were busy
    with neither the targets nor the load generator."""

    target: str
    scenario: Scenario
    result: LoadResult
    cpu_s: Seconds
    other_cores: float


class Figures(msgspec.Struct, frozen=True):
    """All measurements of one scenario on one target; every figure is the median over the rounds."""

    measurements: list[Measurement]

    def median(self, figure: Callable[[Measurement], float]) -> float:
        return median(figure(measurement) for measurement in self.measurements)

    def of(self, figure: Callable[[LoadResult], float]) -> float:
        return self.median(lambda measurement: figure(measurement.result))

    def us_per_request(self, roles: Iterable[str]) -> float:
        """Give the CPU of some roles per request that succeeded, in microseconds."""
        return self.median(lambda one: _sum(one.cpu_s, roles) * 1e6 / one.result.ok)

    def us_per_token(self, roles: Iterable[str]) -> float:
        return self.median(lambda one: _sum(one.cpu_s, roles) * 1e6 / max(1, one.result.tokens))

    @property
    def outside(self) -> list[str]:
        """Roles outside the engine process."""
        return [role for role in self.measurements[0].cpu_s if role != ENGINE]

    @property
    def errors(self) -> int:
        return sum(one.result.errors for one in self.measurements)


Table = dict[tuple[str, str], Figures]
"""By (scenario's name, target's name)."""


async def measure_rounds(
    program: Path,
    plan: Sequence[tuple[Target, Sequence[Scenario]]],
    *,
    rounds: int,
    tell: Callable[[Measurement], None],
) -> Table:
    """Run `rounds` rounds; within one, scenario by scenario, all targets one after the other, the first one changing.

    All targets must have the scenarios in the same order; a target may have fewer of the last ones. The first load of each target is a warm-up and not counted.
    """
    targets = [target for target, _ in plan]
    for target, scenarios in plan:
        await measure(program, target, max(scenarios, key=lambda one: one.load.connections), targets)
    table: dict[tuple[str, str], list[Measurement]] = {}
    for number in range(rounds):
        for index in range(max(len(scenarios) for _, scenarios in plan)):
            pairs = [(target, scenarios[index]) for target, scenarios in plan if index < len(scenarios)]
            first = number % len(pairs)
            for target, scenario in (*pairs[first:], *pairs[:first]):
                measurement = await measure(program, target, scenario, targets)
                table.setdefault((scenario.name, target.name), []).append(measurement)
                tell(measurement)
    return {key: Figures(measurements) for key, measurements in table.items()}


async def measure(program: Path, target: Target, scenario: Scenario, targets: Sequence[Target]) -> Measurement:
    """Run one scenario on one target, with the CPU of everything from before its first to after its last request.

    Raises:
        LoadFailed: not one request succeeded.
    """
    began, busy, before = time.monotonic(), busy_seconds(), [cpu_of(one.roots) for one in targets]
    result = await run_load(program, target.port, target.key, scenario.load)
    await asyncio.sleep(_SETTLE_S)  # acknowledgements follow the last byte
    after = [cpu_of(one.roots) for one in targets]
    seconds = time.monotonic() - began
    spent = [_difference(then, now) for then, now in zip(before, after, strict=True)]
    ours = sum(sum(one.values()) for one in spent) + result.cpu_s
    return Measurement(
        target=target.name,
        scenario=scenario,
        result=result,
        cpu_s=spent[[one.name for one in targets].index(target.name)],
        other_cores=max(0.0, (busy_seconds() - busy - ours) / seconds),
    )


async def measure_idle(target: Target, seconds: float) -> Seconds:
    """Give the share of a core each role takes while nothing is asked of it, over `seconds`."""
    before = cpu_of(target.roots)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - began
    return {role: spent / elapsed for role, spent in _difference(before, cpu_of(target.roots)).items()}


def _difference(before: Mapping[str, float], after: Mapping[str, float]) -> Seconds:
    return {role: after[role] - before[role] for role in before}


def _sum(cpu_s: Mapping[str, float], roles: Iterable[str]) -> float:
    return sum(cpu_s[role] for role in roles)

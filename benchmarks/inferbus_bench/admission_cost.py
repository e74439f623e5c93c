"""What limits and the ledger add to the main path: three platforms at once, asked in turn.

`nothing`: no limits, no prices, and workers that write no ledger (`unbilled`). `ledger`: the platform as it comes. `everything`:
prices, and a key of a team of an organisation, with all five limits on key, team, organisation and model, 20 in all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import msgspec

from inferbus.contracts.limits import LimitSet
from inferbus_bench import report
from inferbus_bench.operator import Operator, events_of, id_of
from inferbus_bench.rounds import Measurement, Table
from inferbus_bench.targets import Target, home_in, platform
from inferbus_bench.verdicts import Verdict

NOTHING, LEDGER, EVERYTHING = "nothing", "ledger", "everything"
ROLES = ("gateway", "worker", "nats-server", "ledger")
MAX_ADDED_US, MAX_ADDED_MS = 120.0, 0.4
_JUDGED = (("prices and limits", LEDGER, EVERYTHING), ("all of it", NOTHING, EVERYTHING))
"""What the goals are held against: a name, without it, with it."""
_ORG, _TEAM = "acme", "research"
_MANY, _MANY_OPEN = 10**12, 10**6
_ALL_FIVE = LimitSet(
    requests_per_minute=_MANY, tokens_per_minute=_MANY, concurrent=_MANY_OPEN, tokens_per_day=_MANY, money_per_month=_MANY
)  # fmt: skip


class NotWhatItSays(Exception):
    """A platform that should write no ledger wrote one, or the other way about: its figures mean nothing."""


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of one target less the same of another, round by round: the median, the least and the most."""

    middle: float
    least: float
    most: float

    def text(self, digits: int = 0) -> str:
        return f"{self.middle:+.{digits}f} ({self.least:+.{digits}f} to {self.most:+.{digits}f})"


@asynccontextmanager
async def three_platforms(folder: Path) -> AsyncIterator[list[Target]]:
    """Run them, in the order nothing, ledger, everything. At the end it looks whether they were what they say.

    Raises:
        DidNotStart: one was not ready in time. NotWhatItSays: see there.
    """
    async with AsyncExitStack() as stack:
        targets = []
        for name in (NOTHING, LEDGER, EVERYTHING):
            target = await stack.enter_async_context(platform(folder / name, simulator=True, ledger=name != NOTHING))
            if name == EVERYTHING:
                target = msgspec.structs.replace(target, key=limit_all(Operator(home_in(folder / name)), target.model))
            targets.append(msgspec.structs.replace(target, name=name))
        yield targets
        for target in targets:
            await _check(target, Operator(home_in(folder / target.name)))


def limit_all(operator: Operator, model: str) -> str:
    """Set a price and every limit there is, too high to bind; give a key that falls under them all."""
    operator.command("prices", "set", model, "--input", "0.15", "--output", "0.60")
    operator.command("orgs", "create", _ORG)
    operator.command("teams", "create", _TEAM, "--tenant", _ORG)
    key = operator.new_key("--tenant", _ORG, "--team", _TEAM)
    limits = msgspec.structs.asdict(_ALL_FIVE)
    for scope, name in (("key", id_of(key)), ("team", f"{_ORG}/{_TEAM}"), ("org", _ORG), ("model", model)):
        operator.set_limits(scope, name, **limits)
    return key


async def _check(target: Target, operator: Operator) -> None:
    async with operator.bus() as bus:
        events = await events_of(bus, _ORG if target.name == EVERYTHING else "dev")
    if bool(events) != (target.name != NOTHING):
        raise NotWhatItSays(f"{target.name}: {len(events)} events of usage")
    if target.name == EVERYTHING and not all(event.cost and event.team for event in events):
        raise NotWhatItSays(f"{target.name}: events without price or team")


def added(table: Table, scenario: str, figure: Callable[[Measurement], float], *, to: str, by: str) -> Added:
    """Compare two targets round by round. Pure."""
    ours, theirs = (table[scenario, name].measurements for name in (by, to))
    each = [figure(one) - figure(other) for one, other in zip(ours, theirs, strict=True)]
    return Added(middle=median(each), least=min(each), most=max(each))


def cpu_us(roles: Sequence[str] = ROLES) -> Callable[[Measurement], float]:
    """Give what some processes take for a request, in microseconds of CPU."""
    return lambda one: sum(one.cpu_s[role] for role in roles) * 1e6 / one.result.ok


def verdicts(table: Table) -> list[Verdict]:
    """Judge the CPU of every load, and p50 where one connection asks: with more, the two cores are full, and how long
    a closed loop waits is what a request costs once more."""
    found = []
    for scenario in dict.fromkeys(scenario for scenario, _ in table):
        for what, to, by in _JUDGED:
            more = added(table, scenario, cpu_us(), to=to, by=by).middle
            found.append(Verdict(what=f"{scenario}: CPU, {what}", value=more, limit=MAX_ADDED_US, unit="us/request"))
            if table[scenario, by].measurements[0].scenario.load.connections == 1:
                later = added(table, scenario, _p50_ms, to=to, by=by).middle
                found.append(Verdict(what=f"{scenario}: p50, {what}", value=later, limit=MAX_ADDED_MS, unit="ms"))
    return found


def _p50_ms(one: Measurement) -> float:
    return one.result.latency.p50


def _p99_ms(one: Measurement) -> float:
    return one.result.latency.p99


def tables(table: Table) -> str:
    """Show the three side by side, and what is added by each."""
    return f"{_side_by_side(table)}\n\n{_differences(table)}"


def _side_by_side(table: Table) -> str:
    rows = []
    for (_, target), one in report.by_scenario(table):
        rows.append([
            one.measurements[0].scenario.title,
            target,
            f"{one.of(lambda r: r.latency.p50):.2f} / {one.of(lambda r: r.latency.p99):.2f}",
            f"{one.of(lambda r: r.requests_per_s):.0f}",
            f"{one.median(cpu_us()):.0f}",
            " + ".join(f"{one.median(cpu_us([role])):.0f}" for role in ROLES),
            str(one.errors),
        ])  # fmt: skip
    head = ["load", "with", "p50 / p99 ms", "requests/s", "CPU us/request", "= " + " + ".join(ROLES), "errors"]
    return report.grid(head, rows)


def _differences(table: Table) -> str:
    rows = []
    for scenario in dict.fromkeys(scenario for scenario, _ in table):
        title = table[scenario, NOTHING].measurements[0].scenario.title
        for what, to, by in (("the ledger", NOTHING, LEDGER), *_JUDGED):
            difference = [added(table, scenario, cpu_us([role]), to=to, by=by).middle for role in ROLES]
            rows.append([
                title,
                what,
                added(table, scenario, cpu_us(), to=to, by=by).text(),
                " ".join(f"{value:+.0f}" for value in difference),
                added(table, scenario, _p50_ms, to=to, by=by).text(2),
                added(table, scenario, _p99_ms, to=to, by=by).text(2),
            ])  # fmt: skip
    head = ["load", "what adds", "CPU us/request", ", ".join(ROLES), "p50 ms", "p99 ms"]
    return report.grid(head, rows)

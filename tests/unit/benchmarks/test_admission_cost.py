"""What `benchmarks/main_path.py --limits` makes of its measurements."""

from __future__ import annotations

import pytest

from inferbus_bench.admission_cost import EVERYTHING, LEDGER, NOTHING, added, cpu_us, verdicts
from inferbus_bench.loadgen import Load, LoadResult, Times
from inferbus_bench.rounds import Figures, Measurement, Table
from inferbus_bench.scenarios import Scenario

SCENARIO = Scenario(name="whole-1", title="one", load=Load(body={}, connections=1, seconds=1))


def measured(target: str, p50_ms: float, gateway_s: float) -> Measurement:
    times = Times(count=1, p50=p50_ms, p95=p50_ms, p99=p50_ms, max=p50_ms)
    result = LoadResult(
        ok=1000, errors=0, first_error_status=0, error_text="", requests_per_s=1, tokens_per_s=1, tokens=1, events=0,
        cpu_s=0, latency=times, ttft=times, itl=times, tpot=times,
    )  # fmt: skip
    cpu_s = {"gateway": gateway_s, "worker": 0.1, "nats-server": 0.1, "ledger": 0.0, "topology": 9.0}
    return Measurement(target=target, scenario=SCENARIO, result=result, cpu_s=cpu_s, other_cores=0)


@pytest.fixture
def table() -> Table:
    """The machine became twice as slow from round to round; what is added is 100 us and 0.5 ms in each."""
    return {
        ("whole-1", NOTHING): Figures([measured(NOTHING, p50, p50 / 10) for p50 in (1, 2, 4)]),
        ("whole-1", LEDGER): Figures([measured(LEDGER, p50 + 0.3, p50 / 10 + 0.03) for p50 in (1, 2, 4)]),
        ("whole-1", EVERYTHING): Figures([measured(EVERYTHING, p50 + 0.5, p50 / 10 + 0.1) for p50 in (1, 2, 4)]),
    }


def test_what_is_added_is_told_from_what_the_machine_does_between_rounds(table: Table) -> None:
    found = added(table, "whole-1", cpu_us(), to=NOTHING, by=EVERYTHING)
    assert [round(value) for value in (found.middle, found.least, found.most)] == [100, 100, 100]


def test_both_goals_are_judged_for_limits_alone_and_for_all(table: Table) -> None:
    found = [(one.unit, round(one.value, 1), one.met) for one in verdicts(table)]
    assert found == [("us/request", 70, True), ("ms", 0.2, True), ("us/request", 100, True), ("ms", 0.5, False)]

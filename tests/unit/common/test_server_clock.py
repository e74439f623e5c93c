"""The one clock that everything which must end everywhere at once goes by."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from inferbus.bus.server_clock import ServerClock
from inferbus.errors import DependencyDown

TOLD = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Machine:
    """A machine's two clocks."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 50.0, 7000.0

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(time, "time", lambda: machine.wall)
    monkeypatch.setattr(time, "monotonic", lambda: machine.monotonic)
    return machine


def test_until_it_is_told_it_guesses_only_where_that_is_wanted(machine: Machine) -> None:
    clock = ServerClock()
    assert not clock.known
    assert clock.now() == machine.wall
    with pytest.raises(DependencyDown):
        clock()


@pytest.mark.parametrize("told", [TOLD, TOLD.isoformat(), TOLD.isoformat().replace("+00:00", "Z")])
def test_it_counts_on_whatever_the_machine_s_clock_is_set_to(machine: Machine, told: datetime | str) -> None:
    clock = ServerClock()
    clock.learn(told)
    machine.pass_s(3.5)
    machine.wall += 3600
    assert clock() == clock.now() == TOLD.timestamp() + 3.5


def test_an_answer_is_half_of_its_round_trip_old(machine: Machine) -> None:
    clock, asked = ServerClock(), machine.monotonic
    machine.pass_s(2.0)
    clock.learn(TOLD, asked=asked)
    assert clock() == TOLD.timestamp() + 1.0


@pytest.mark.parametrize("told", ["", "noon", "2026-11-22T12:00:00"])
def test_what_cannot_be_read_teaches_nothing(machine: Machine, told: str) -> None:
    clock = ServerClock()
    clock.learn(told)
    assert not clock.known
    clock.learn(TOLD)
    clock.learn(told)
    assert clock() == TOLD.timestamp()


async def test_the_quickest_of_several_answers_counts(machine: Machine) -> None:
    clock = ServerClock()
    trips: Iterator[tuple[float, float]] = iter([(2.0, 0.3), (0.2, 0.1), (1.0, -5.0)])  # how long, and how wrong

    async def ask() -> datetime:
        took, wrong = next(trips)
        real = TOLD.timestamp() + machine.monotonic - 7000.0 + took / 2
        machine.pass_s(took)
        return datetime.fromtimestamp(real, UTC) + timedelta(seconds=wrong)

    await clock.measure(ask)
    assert clock() == pytest.approx(TOLD.timestamp() + 3.2 + 0.1)


async def test_a_measurement_that_fails_leaves_what_was_known(machine: Machine) -> None:
    clock = ServerClock()
    clock.learn(TOLD)

    async def ask() -> datetime:
        raise DependencyDown("away")

    with pytest.raises(DependencyDown):
        await clock.measure(ask)
    assert clock() == TOLD.timestamp()

"""Bounds: never over, counted back exactly, and a hint one can follow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.admission import bounds as bounds_module
from inferbus.admission.bounds import Bounds
from inferbus.contracts.models import Limits
from inferbus.errors import Overloaded, TenantOverloaded

LIMITS = Limits(max_pending=5, max_pending_per_tenant=3)


def test_a_tenant_s_share_and_the_pool() -> None:
    bounds = Bounds()
    for _ in range(3):
        bounds.take("p", "a", LIMITS)
    with pytest.raises(TenantOverloaded, match="limit is 3"):
        bounds.take("p", "a", LIMITS)
    for _ in range(2):
        bounds.take("p", "b", LIMITS)
    with pytest.raises(Overloaded, match="limit is 5"):
        bounds.take("p", "b", LIMITS)
    bounds.take("other", "a", LIMITS)
    bounds.give("p", "b")
    bounds.take("p", "c", LIMITS)
    assert bounds.open("p") == 5


def test_a_refusal_counts_nothing() -> None:
    bounds = Bounds()
    for _ in range(10):
        with pytest.raises(Overloaded):
            bounds.take("p", "a", LIMITS, reported=5)
    assert bounds.open("p") == 0
    bounds.take("p", "a", LIMITS, reported=4)


def test_what_workers_report_counts_too() -> None:
    bounds = Bounds()
    bounds.take("p", "a", LIMITS, reported=4)
    with pytest.raises(Overloaded):
        bounds.take("p", "a", LIMITS, reported=5)


@given(
    st.lists(st.tuples(st.sampled_from(["take", "give"]), st.sampled_from("pq"), st.sampled_from("abc")), max_size=200)
)
def test_never_over_never_below_zero(steps: list[tuple[str, str, str]]) -> None:
    bounds = Bounds()
    open_: dict[tuple[str, str], int] = {}
    for what, pool, tenant in steps:
        held = open_.get((pool, tenant), 0)
        if what == "give":
            if held:
                bounds.give(pool, tenant)
                open_[pool, tenant] = held - 1
            continue
        try:
            bounds.take(pool, tenant, LIMITS)
        except TenantOverloaded:
            assert held == 3
        except Overloaded:
            assert sum(count for (name, _), count in open_.items() if name == pool) == 5
        else:
            open_[pool, tenant] = held + 1
        for name in "pq":
            assert bounds.open(name) == sum(count for (other, _), count in open_.items() if other == name) <= 5
    assert all(count <= 3 for count in open_.values())
    assert len(bounds._tenant) == sum(count > 0 for count in open_.values()), (
        "tenants without open requests are forgotten"
    )


class Clock:
    """Time that stands until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(bounds_module.time, "monotonic", lambda: self.now)

    def serve(self, bounds: Bounds, count: int, each_s: float, tenant: str = "a") -> None:
        """One request after the other, each of `each_s` seconds."""
        for _ in range(count):
            bounds.take("p", tenant, LIMITS)
            self.now += each_s
            bounds.give("p", tenant)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class TestRetryAfter:
    def refused(self, bounds: Bounds, reported: int = 5) -> float:
        with pytest.raises(Overloaded) as caught:
            bounds.take("p", "z", LIMITS, reported=reported)
        return caught.value.retry_after_s

    def test_one_second_where_nothing_is_known(self) -> None:
        assert self.refused(Bounds()) == 1.0

    @pytest.mark.parametrize(
        ("every_s", "reported", "hint"), [(2.0, 5, 2.0), (2.0, 14, 20.0), (0.001, 5, 1.0), (3600.0, 5, 60.0)]
    )
    def test_from_how_fast_the_pool_drained(self, every_s: float, reported: int, hint: float, clock: Clock) -> None:
        bounds = Bounds()
        clock.serve(bounds, 10, every_s)
        assert self.refused(bounds, reported) == pytest.approx(hint)

    def test_idle_time_is_not_slowness(self, clock: Clock) -> None:
        bounds = Bounds()
        for _ in range(5):
            clock.serve(bounds, 3, 2.0)
            clock.now += 3600
        assert self.refused(bounds, 9) == pytest.approx(10.0)

    def test_a_pool_that_stands_still_with_work_is_slow(self, clock: Clock) -> None:
        bounds = Bounds()
        clock.serve(bounds, 11, 0.1)
        bounds.take("p", "a", LIMITS)
        clock.now += 44
        assert self.refused(bounds, 5) == pytest.approx(45 / 11)

    def test_ends_of_long_ago_are_forgotten(self, clock: Clock) -> None:
        bounds = Bounds()
        clock.serve(bounds, 30, 100.0)
        clock.serve(bounds, 30, 2.0)
        clock.serve(bounds, 30, 3.0)
        assert self.refused(bounds, 14) == pytest.approx(30, rel=0.2)

    def test_a_cancelled_request_frees_a_place_and_is_no_sign_of_speed(self, clock: Clock) -> None:
        bounds = Bounds()
        clock.serve(bounds, 10, 4.0)
        for _ in range(100):
            bounds.take("p", "a", LIMITS)
            bounds.give("p", "a", drained=False)
        assert bounds.open("p") == 0
        assert self.refused(bounds) == pytest.approx(4.0)

    def test_a_tenant_waits_for_its_own_share_of_the_ends(self, clock: Clock) -> None:
        bounds, limits = Bounds(), Limits(max_pending=100, max_pending_per_tenant=2)
        clock.serve(bounds, 10, 3.0)
        for tenant in "aabbcd":
            bounds.take("p", tenant, limits)
        with pytest.raises(TenantOverloaded) as caught:
            bounds.take("p", "a", limits)
        assert caught.value.retry_after_s == pytest.approx(9.0), "every third end is one of its two among six"

    def test_many_ends_are_not_kept(self) -> None:
        bounds = Bounds()
        for _ in range(500):
            bounds.take("p", "a", LIMITS)
            bounds.give("p", "a")
        assert len(bounds._drains["p"]._ends) <= 64

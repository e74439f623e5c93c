"""Choosing: nobody starves, weights count, and what must not run is not chosen."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.batch.lines import Row
from inferbus.contracts.batch import BY_USER, CANCELLED, CANCELLING, IN_PROGRESS, STATES, JobRecord, Pause
from inferbus.errors import InvalidRequest
from inferbus_batch.domain.choosing import FairShares, choose
from inferbus_batch.domain.prefix_order import by_prefix
from inferbus_batch.domain.quiet_hours import QuietHours, quiet_hours_from

NEVER = QuietHours()
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def job(name: str, tenant: str = "dev", **changes: object) -> JobRecord:
    base = JobRecord(
        id=name, tenant=tenant, endpoint="/v1/completions", input_file_id="f", created=1.0, expires_at=9e9,
        state=IN_PROGRESS, plan="p", chunks=9,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def chosen(jobs: list[JobRecord], shares: FairShares | None = None, *, now: float = NOW, **given: object) -> str:
    options: dict[str, object] = {"quiet": NEVER, "own_quiet": {}, "resting": {}} | given
    found = choose(jobs, shares or FairShares(), now=now, **options)  # type: ignore[arg-type]  # options, as they are
    return "" if found is None else found.id


def test_within_a_tenant_priority_then_deadline_then_age() -> None:
    old, soon, urgent = job("old"), job("soon", expires_at=5.0, created=2.0), job("urgent", priority=1, created=3.0)
    assert chosen([old, soon, urgent]) == "urgent"
    assert chosen([old, soon]) == "soon"
    assert chosen([job("new", created=2.0), old]) == "old"


def test_a_priority_is_nothing_to_another_tenant() -> None:
    shares = FairShares()
    assert shares.first(["loud", "quiet"]) == ["loud", "quiet"]
    shares.charge("loud", 100)
    assert chosen([job("a", "loud", priority=100), job("b", "quiet")], shares) == "b"


@pytest.mark.parametrize("state", STATES)
def test_only_what_may_run_is_chosen(state: str) -> None:
    can_run = state in (IN_PROGRESS, CANCELLING)
    assert bool(chosen([job("a", state=state)])) == can_run
    assert not chosen([job("a", state=state, plan="")])
    assert not chosen([job("a", state=state, paused=Pause(reason=BY_USER))])


def test_what_is_ending_goes_first_whatever_the_hour() -> None:
    day = quiet_hours_from("08:00-18:00")
    ending = job("ending", state=CANCELLING, ending=CANCELLED)
    assert chosen([job("a", priority=9), ending], quiet=day) == "ending"
    assert chosen([job("a", priority=9)], quiet=day) == ""
    assert chosen([job("a")], quiet=day, own_quiet={"a": NEVER}) == "a"
    assert chosen([job("a")], own_quiet={"a": day}) == ""
    assert chosen([job("a"), ending], resting={"ending": NOW + 1, "a": NOW - 1}) == "a"


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=2),
    st.lists(st.integers(1, 64), min_size=50, max_size=200),
)
def test_who_always_waits_gets_rows_by_weight(weights: dict[str, int], sizes: list[int]) -> None:
    shares, had = FairShares(), dict.fromkeys(weights, 0)
    jobs = [job(f"job-{tenant}", tenant) for tenant in weights]
    for rows in sizes:
        tenant = chosen(jobs, shares).removeprefix("job-")
        shares.charge(tenant, rows, weights[tenant])
        had[tenant] += rows
    each = [had[tenant] / weight for tenant, weight in weights.items()]
    assert max(each) - min(each) <= max(sizes), "nobody is further behind than one chunk"


@given(st.lists(st.tuples(st.sets(st.sampled_from("abc"), min_size=1), st.integers(1, 64)), max_size=100))
def test_nobody_saves_up_while_away(turns: list[tuple[set[str], int]]) -> None:
    shares = FairShares()
    for waiting, rows in turns:
        shares.charge(shares.first(waiting)[0], rows)
    had = dict.fromkeys("abc", 0)
    for _ in range(64 * 4):
        tenant = shares.first("abc")[0]
        shares.charge(tenant, 1)
        had[tenant] += 1
    assert min(had.values()) > 0, "whatever was before, within four chunks everybody has had something"


@pytest.mark.parametrize("text", ["8-18", "08:00", "08:00-25:00", "x", "00:00-00:00", "00:00-12:00,12:00-00:00"])
def test_quiet_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        quiet_hours_from(text)


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 2_000_000))
def test_quiet_hours_end_when_they_say(begin: int, end: int, second: int) -> None:
    if begin == end:
        return
    hours = quiet_hours_from(f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}")
    left = hours.ends_in_s(second)
    assert (left > 0) == hours.rests_at(second)
    assert not hours.rests_at(second + left)
    if left:
        assert (second + left) % 86_400 == end * 60


def test_rows_that_begin_alike_are_asked_together() -> None:
    def row(line: int, model: str, words: str) -> Row:
        body = b'{"messages":[{"role":"user","content":"%s"}]}' % words.encode()
        return Row(line=line, custom_id=str(line), path="/", task="chat", model=model, body=body)

    rows = [
        row(1, "m", "tell a"),
        row(2, "m", "ask b"),
        row(3, "l", "tell a"),
        row(4, "m", "tell b"),
        row(5, "m", "ask b"),
    ]
    assert [one.line for one in by_prefix(rows)] == [3, 2, 5, 1, 4]

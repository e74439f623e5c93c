"""Which rows go together, what a group's outcome means for each, and what is reserved for them."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.admission.admit import Admission, Ask, Checked
from inferbus.admission.admit_rows import admit_rows
from inferbus.admission.identity import Identity
from inferbus.admission.quota.reservation import Reservation
from inferbus.answers.exchange import Exchange
from inferbus.batch.lines import Row
from inferbus.bus import Bus
from inferbus.contracts.batch import JobRecord
from inferbus.contracts.durable import Outcome
from inferbus.contracts.groups import (
    ABORTED,
    ANSWERED,
    GIVEN_BACK,
    NOT_BEGUN,
    ROWS_TYPE,
    GroupRow,
    RowAnswer,
    answers_to,
    rows_from,
)
from inferbus.contracts.models import VECTORS, ModelEntry
from inferbus.contracts.step import Finished, Usage
from inferbus.durable.outcomes import failed_outcome
from inferbus.errors import DeadlineWhileQueued, InferbusError, InvalidRequest, NotFound, Overloaded, RateLimited
from inferbus_batch.asking import Asking, Given
from inferbus_batch.gate import Gate
from inferbus_batch.groups import MOST_BYTES, MOST_ROW_BYTES, Ends, Groups, answers_of, ends_from, grouped

ENTRY = ModelEntry(name="m", pool="m")
WHO = Identity(tenant="dev")


def row(line: int, *, model: str = "m", size: int = 10, task: str = "chat") -> Row:
    return Row(line=line, custom_id=str(line), path="/v1/x", task=task, model=model, body=b"x" * size)


# --- cutting ----------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 2 * MOST_ROW_BYTES), max_size=60),
    models=st.lists(st.sampled_from(["a", "b"]), min_size=60, max_size=60),
    size=st.integers(1, 20),
)
def test_every_row_is_in_one_group_that_is_not_too_large(sizes: list[int], models: list[str], size: int) -> None:
    rows = [row(n, model=models[n], size=each) for n, each in enumerate(sizes)]
    groups = list(grouped(rows, size))
    assert sorted(one.line for group in groups for one in group) == list(range(len(rows)))
    for group in groups:
        assert 1 <= len(group) <= size
        assert len({one.model for one in group}) == 1
        assert len(group) == 1 or sum(len(one.body) for one in group) <= MOST_BYTES
        assert len(group) == 1 or max(len(one.body) for one in group) <= MOST_ROW_BYTES


def test_rows_of_a_collection_are_no_group() -> None:
    assert [len(group) for group in grouped([row(1, task=VECTORS), row(2, task=VECTORS)], 16)] == [1, 1]


@pytest.mark.parametrize(
    ("slots", "alone", "shared"),
    [
        ({}, 32, 32),
        ({"m": 64}, 32, 32),
        ({"m": 32}, 32, 16),
        ({"m": 8}, 8, 4),
        ({"m": 64, "n": 6}, 6, 3),
        ({"m": 1}, 1, 1),
    ],
)
def test_a_group_is_what_the_smallest_worker_runs_or_half_beside_others(
    slots: dict[str, int], alone: int, shared: int
) -> None:
    groups = Groups(
        cast("Bus", None), cast("Admission", None), cast("Asking", None), slots_of=lambda p: slots.get(p, 0)
    )
    assert groups.size(["m", "n"], 32, is_shared=False) == alone
    assert groups.size(["m", "n"], 32, is_shared=True) == shared


# --- what an outcome means --------------------------------------------------------------------------------------------

LINES = {"j-1": 1, "j-2": 2, "j-3": 3, "j-4": 4}


def test_each_row_gets_what_its_group_says_of_it() -> None:
    answers = [
        RowAnswer("j-1", ANSWERED, 200, Usage(1, 2), b"{}", "application/json"),
        RowAnswer("j-2", GIVEN_BACK),
        RowAnswer("j-3", NOT_BEGUN),
        RowAnswer("j-4", ABORTED, usage=Usage(1, 1)),
        RowAnswer("another", ANSWERED, 200),
    ]
    outcome = Outcome(status=200, content_type=ROWS_TYPE, body=answers_to(answers))
    ends = ends_from(outcome, answers_of(outcome), LINES)
    assert ends.outcomes == {1: Outcome(status=200, usage=Usage(1, 2), body=b"{}")}
    assert (ends.not_begun, ends.is_open) == (frozenset({3}), False)


def test_a_group_that_failed_failed_for_each_row() -> None:
    outcome = failed_outcome(DeadlineWhileQueued("late"))
    assert set(ends_from(outcome, answers_of(outcome), LINES).outcomes.values()) == {outcome}


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(status=400, body=b'{"error":"what is this?"}'),  # a worker that knows no groups
        Outcome(status=200, content_type=ROWS_TYPE, body=b"\xc1"),
    ],
)
def test_what_says_nothing_of_rows_leaves_them_to_be_asked_alone(outcome: Outcome) -> None:
    ends = ends_from(outcome, answers_of(outcome), LINES)
    assert (dict(ends.outcomes), ends.not_begun, ends.is_open) == ({}, frozenset(), False)


def test_without_an_outcome_nothing_is_known() -> None:
    assert ends_from(None, None, LINES).is_open


# --- admission --------------------------------------------------------------------------------------------------------


class Noted(Reservation):
    """A reservation that says what became of it."""

    __slots__ = ("said",)

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Any] = []

    def settle(self, usage: Usage) -> None:
        self.said.append(usage)

    def refund(self) -> None:
        self.said.append("refund")

    def close(self, exchange: Exchange | None) -> None:
        self.said.append(exchange)


class Door:
    """Admission that refuses what it is told to."""

    def __init__(self, refusals: dict[str, InferbusError], full: bool = False) -> None:
        self._refusals = refusals
        self._full = full
        self.reserved: dict[str, Noted] = {}
        self.accepted: Ask | None = None
        self.close: Any = None

    async def check(self, _: Identity, ask: Ask) -> Checked:
        name = ask.request_id or ""
        if name in self._refusals:
            raise self._refusals[name]
        self.reserved[name] = Noted()
        return Checked(msgspec.structs.replace(ask, bound=3), ENTRY, self.reserved[name])

    async def accept(self, _: Identity, ask: Ask, entry: ModelEntry, close: Any) -> Exchange:
        assert entry is ENTRY
        if self._full:
            close(None)
            raise Overloaded("full")
        self.accepted, self.close = ask, close
        return Exchange(
            request_id=ask.request_id or "", tag=1, tenant="dev", pool="m", deadline_s=9, on_close=lambda _: None
        )


def asks(count: int) -> list[Ask]:
    return [Ask(model="m", task="chat", path="/v1/x", body=b"%d" % n, request_id=f"j-{n}") for n in range(1, count + 1)]


async def test_a_row_that_is_refused_is_left_to_itself() -> None:
    door = Door({"j-2": NotFound("no")})
    assert await admit_rows(cast("Admission", door), WHO, "g", asks(3)) is not None
    assert door.accepted is not None
    assert (door.accepted.request_id, door.accepted.rows) == ("g", 2)
    assert rows_from(door.accepted.body) == [GroupRow("j-1", b"1", 3), GroupRow("j-3", b"3", 3)]


async def test_over_a_limit_the_group_is_what_there_was_room_for() -> None:
    door = Door({"j-3": RateLimited("minute")})
    await admit_rows(cast("Admission", door), WHO, "g", asks(5))
    assert list(door.reserved) == ["j-1", "j-2"]
    assert await admit_rows(cast("Admission", Door({"j-1": RateLimited("minute")})), WHO, "g", asks(2)) is None


async def test_what_was_reserved_is_settled_row_by_row() -> None:
    door = Door({})
    begun = await admit_rows(cast("Admission", door), WHO, "g", asks(4))
    assert begun is not None
    exchange, group = begun
    exchange.feed(Finished(1, 1, 1, 200, Usage(9, 9), b"x"))
    door.close(exchange)
    assert all(not one.said for one in door.reserved.values()), "the sum of the group is no row's"
    group.settle([
        RowAnswer("j-1", ANSWERED, 200, Usage(1, 2)), RowAnswer("j-2", ABORTED, usage=Usage(1, 1)),
        RowAnswer("j-3", GIVEN_BACK),
    ])  # fmt: skip
    group.settle([RowAnswer("j-1", ANSWERED, 200, Usage(1, 2))])
    assert [one.said for one in door.reserved.values()] == [[Usage(1, 2)], [Usage(1, 1)], [None], [None]]


async def test_what_ended_in_an_error_is_charged_by_it() -> None:
    door = Door({})
    begun = await admit_rows(cast("Admission", door), WHO, "g", asks(2))
    assert begun is not None
    begun[0].fail(DeadlineWhileQueued("late"))
    door.close(begun[0])
    assert [one.said for one in door.reserved.values()] == [[begun[0]], [begun[0]]]


async def test_what_is_not_accepted_is_refunded() -> None:
    door = Door({}, full=True)
    with pytest.raises(Overloaded):
        await admit_rows(cast("Admission", door), WHO, "g", asks(2))
    assert [one.said for one in door.reserved.values()] == [[None], [None]]
    broken = Door({"j-2": cast("InferbusError", RuntimeError("a bug"))})
    with pytest.raises(RuntimeError):
        await admit_rows(cast("Admission", broken), WHO, "g", asks(2))
    assert broken.reserved["j-1"].said == ["refund"]


def test_malformed_rows_are_an_error_of_the_table() -> None:
    for data in (b"", b"\xc1", b"{}", b"\x91\x01"):
        with pytest.raises(InvalidRequest):
            rows_from(data)


# --- asking -----------------------------------------------------------------------------------------------------------


class Waiting:
    """Whoever waits for a group gets this."""

    def __init__(self, outcome: Outcome | None) -> None:
        self._outcome = outcome

    async def wait(self, _given: Given, _exchange: Exchange, _group_id: str) -> Outcome | None:
        return self._outcome


async def ends_with(outcome: Outcome | None, gate: Gate, *, door: Door | None = None) -> Ends:
    job = JobRecord(id="j", tenant="dev", endpoint="/v1/x", input_file_id="f", created=0, expires_at=9)
    groups = Groups(
        cast("Bus", None), cast("Admission", door or Door({})), cast("Asking", Waiting(outcome)), slots_of=lambda _: 0
    )
    return await groups.ends_of(Given(job, gate, lambda: WHO, 60.0), [row(1), row(2)], "g")


def bundle(*names: str) -> Outcome:
    return Outcome(
        status=200, content_type=ROWS_TYPE, body=answers_to([RowAnswer(name, ANSWERED, 200) for name in names])
    )  # fmt: skip


async def test_a_group_is_asked_and_settled() -> None:
    gate, door = Gate(), Door({})
    ends = await ends_with(bundle("j-1", "j-2"), gate, door=door)
    assert (set(ends.outcomes), gate.is_shut) == ({1, 2}, False)
    assert [one.said for one in door.reserved.values()] == [[Usage()], [Usage()]]


async def test_a_group_of_somebody_else_hands_the_chunk_back() -> None:
    """The same delivery twice, cut otherwise: asking the rest alone would ask what the other has in another group."""
    gate = Gate()
    ends = await ends_with(bundle("j-2", "j-3"), gate)
    assert (dict(ends.outcomes), ends.is_open, gate.held) == ({}, True, "has_it_twice")


async def test_whose_lease_may_be_over_begins_nothing() -> None:
    gate, door = Gate(), Door({})
    gate.leased(-1.0)
    ends = await ends_with(bundle("j-1", "j-2"), gate, door=door)
    assert (ends.is_open, gate.held, door.reserved) == (True, "lease_lost", {})

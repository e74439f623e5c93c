"""The rows of a chunk on their way: in groups while all is ordinary, else each by itself; none twice, none forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from inferbus.admission.identity import Identity
from inferbus.batch.lines import Row
from inferbus.contracts.batch import IN_PROGRESS, JobRecord
from inferbus.contracts.durable import Outcome
from inferbus.contracts.step import Usage
from inferbus.errors import Forbidden
from inferbus_batch.asking import Asking, Given
from inferbus_batch.chunk_rows import ChunkRows
from inferbus_batch.domain.row_end import RowEnd
from inferbus_batch.gate import Gate
from inferbus_batch.groups import Ends, Groups, Left
from inferbus_batch.metrics import BatchMetrics

JOB = JobRecord(
    id="j", tenant="dev", endpoint="/v1/x", input_file_id="f", created=0, expires_at=9, state=IN_PROGRESS
)  # fmt: skip
GOOD = Outcome(status=200, usage=Usage(1, 2))
BUSY = Outcome(status=503, usage=Usage(1, 1))
Answer = Callable[[Sequence[int]], Ends]


def all_good(lines: Sequence[int]) -> Ends:
    return Ends(dict.fromkeys(lines, GOOD))


class Bus:
    """Both ways to ask; notes what was asked how."""

    def __init__(self, *answers: Answer, begun: frozenset[int] = frozenset()) -> None:
        self._answers = list(answers)
        self._begun = begun
        self.groups: list[tuple[str, list[int]]] = []
        self.alone: list[tuple[int, Outcome | None, bool]] = []
        self.at_once = self.most = 0

    async def ends_of(self, _: Given, rows: Sequence[Row], group_id: str) -> Ends:
        lines = [row.line for row in rows]
        self.groups.append((group_id, lines))
        answer = self._answers.pop(0) if self._answers else all_good
        return await self._counted(len(rows), answer(lines))

    async def taken_up(self, given: Given, group_id: str, lines: Sequence[int]) -> Ends:
        return await self.ends_of(given, [row(line) for line in lines], group_id)

    async def end_of(self, _: Given, row: Row, first: Outcome | None, *, taken: bool) -> RowEnd:
        self.alone.append((row.line, first, taken))
        return RowEnd(request_id=f"alone-{row.line}", outcome=GOOD)

    async def begun(self, _: Given, lines: Sequence[int]) -> frozenset[int]:
        return self._begun & frozenset(lines)

    async def _counted(self, count: int, ends: Ends) -> Ends:
        self.at_once += count
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= count
        return ends


def row(line: int) -> Row:
    return Row(line=line, custom_id=str(line), path="/v1/x", task="chat", model="m", body=b"{}")


async def ask(
    bus: Bus, count: int, *, left: Left | None = None, gate: Gate | None = None, at_once: int = 12, size: int = 4
) -> dict[int, RowEnd]:
    ends: dict[int, RowEnd] = {}
    rows = ChunkRows(
        cast("Asking", bus), cast("Groups", bus), BatchMetrics(CollectorRegistry()),
        Given(JOB, gate or Gate(), lambda: Identity(tenant="dev"), 60.0), ends,
        chunk=3, attempt=2, at_once=at_once, group_rows=size,
    )  # fmt: skip
    await asyncio.wait_for(rows.ask([row(line) for line in range(1, count + 1)], left or Left()), 10)
    return ends


async def test_rows_go_in_groups_with_names_of_their_own() -> None:
    bus = Bus()
    ends = await ask(bus, 10)
    assert {line: end.request_id for line, end in ends.items()} == {n: f"j-{n}" for n in range(1, 11)}
    assert bus.groups == [("j-c3-2-0", [1, 2, 3, 4]), ("j-c3-2-1", [5, 6, 7, 8]), ("j-c3-2-2", [9, 10])]
    assert bus.alone == []


@pytest.mark.parametrize(("at_once", "most"), [(4, 2), (8, 4), (100, 16)])
async def test_two_groups_fit_into_what_is_asked_at_once(at_once: int, most: int) -> None:
    bus = Bus()
    await ask(bus, 64, at_once=at_once, size=16)
    assert max(len(lines) for _, lines in bus.groups) == most
    assert most <= bus.most <= at_once


async def test_what_came_to_no_ordinary_end_is_asked_by_itself() -> None:
    bus = Bus(lambda _: Ends({1: GOOD, 2: BUSY}))
    ends = await ask(bus, 4)
    assert set(ends) == {1, 2, 3, 4}
    assert sorted(bus.alone, key=lambda one: one[0]) == [(2, BUSY, False), (3, None, False), (4, None, False)]


async def test_what_was_not_begun_goes_into_another_group() -> None:
    bus = Bus(lambda _: Ends({1: GOOD}, frozenset({2, 3, 4})), lambda _: Ends({2: GOOD, 3: GOOD}, frozenset({4})))
    ends = await ask(bus, 4)
    assert [lines for _, lines in bus.groups] == [[1, 2, 3, 4], [2, 3, 4]]
    assert [line for line, _, _ in bus.alone] == [4], "a row is no group"
    assert set(ends) == {1, 2, 3, 4}


async def test_nothing_is_known_of_a_group_nobody_waits_for() -> None:
    gate = Gate()

    def shut(_: Sequence[int]) -> Ends:
        gate.end("cancelled")
        return Ends(is_open=True)

    bus = Bus(shut)
    assert await ask(bus, 40, gate=gate, at_once=4) == {}
    assert bus.alone == []
    assert [lines for _, lines in bus.groups] == [[1, 2]], "nothing is begun behind a shut gate"


async def test_what_earlier_deliveries_left_is_taken_up_and_not_asked_again() -> None:
    bus = Bus(lambda _: Ends({3: GOOD}), begun=frozenset({7}))
    ends = await ask(bus, 8, left=Left({1: GOOD, 2: BUSY}, {"j-c3-1-5": frozenset({3, 4})}))
    assert set(ends) == set(range(1, 9))
    assert bus.groups[0] == ("j-c3-1-5", [3, 4])
    assert [lines for _, lines in bus.groups[1:]] == [[5, 6, 8]]
    assert sorted(bus.alone, key=lambda one: one[0]) == [
        (1, GOOD, True), (2, BUSY, True), (4, None, True), (7, None, False),
    ]  # fmt: skip


async def test_what_keeps_rows_from_being_asked_is_the_chunk_s() -> None:
    def refuse(_: Sequence[int]) -> Ends:
        raise Forbidden("the key is gone")

    gate = Gate()
    with pytest.raises(Forbidden):
        await ask(Bus(refuse), 40, gate=gate, at_once=4)
    assert gate.held == "failed"

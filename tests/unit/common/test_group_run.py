"""A group's rows at its worker: a slot each, one outcome, and what is not ordinary is given back."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from tests.recording_sink import RecordingSink
from tests.unit.common.fakes import FakeBus, message

from inferbus.bus import Bus
from inferbus.contracts.groups import (
    ABORTED,
    ANSWERED,
    FENCED,
    GIVEN_BACK,
    NOT_BEGUN,
    ROWS_TYPE,
    GroupRow,
    answers_from,
)
from inferbus.contracts.step import Usage
from inferbus.errors import Cancelled, EngineDead, InvalidRequest
from inferbus.queue.delivery import Delivery
from inferbus.queue.slots import Slots, once
from inferbus.routes import BATCH
from inferbus.worker.group_run import GroupRun
from inferbus.worker.ports import Engine, Sink, Work

WORK = Work(key="g", request_id="job-c0-1-0", path="/v1/x", body=b"", streamed=False, created=1)


class Calls:
    """An engine that notes what it is given."""

    def __init__(self) -> None:
        self.open: dict[str, tuple[Work, Sink]] = {}
        self.begun: list[str] = []
        self.refusal: Exception | None = None

    async def submit(self, work: Work, sink: Sink) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.begun.append(work.request_id)
        self.open[work.key] = (work, sink)

    def abort(self, key: str) -> None:
        if key in self.open:
            _, sink = self.open.pop(key)
            sink.failed(Cancelled("stopped"), Usage(3, 1))

    def answer(self, request_id: str, status: int = 200) -> None:
        (key,) = [key for key, (work, _) in self.open.items() if work.request_id == request_id]
        work, sink = self.open.pop(key)
        sink.finished(status, Usage(2, 5), work.body, "application/json")

    def die(self) -> None:
        calls, self.open = self.open, {}
        for _, sink in calls.values():
            sink.failed(EngineDead("boom"))


class Place:
    """A worker's slots with one group in them."""

    def __init__(self, rows: int, *, slots: int = 4, attempt: int = 1) -> None:
        self.slots = Slots(slots, reserve=1)
        self.engine = Calls()
        reply = f"$JS.ACK.S.C.{attempt}.1.1.1.0"
        sent = message("infer.r.llm.m.batch.0.dev", reply=reply, headers={"Ib-Rows": str(rows)})
        self.delivery = Delivery(cast("Bus", FakeBus()), sent)
        self.slots.take()
        self.delivery.free_slot, self.delivery.slots = once(self.slots.give), self.slots
        given = [GroupRow(f"r{n}", b"%d" % n, n) for n in range(rows)]
        self.run = GroupRun(cast("Engine", self.engine), given, self.delivery)
        self.sink = RecordingSink()
        self.task = asyncio.create_task(self.run.run(WORK, self.sink))

    async def ended(self) -> dict[str, Any]:
        await asyncio.wait_for(self.task, 5)
        finish = await self.sink.finish()
        assert (finish.status, finish.content_type) == (200, ROWS_TYPE)
        assert (self.slots.busy, self.delivery.rows) == (0, 0), "every slot was given back"
        return {answer.request_id: answer for answer in answers_from(finish.data)}


async def ticks(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_rows_begin_as_slots_come_free_and_are_one_outcome() -> None:
    place = Place(5)
    await ticks()
    assert (place.engine.begun, place.slots.busy) == (["r0", "r1", "r2"], 3), "the reserve is not a batch's"
    assert place.slots.free_for(BATCH, BATCH) == 0, "nothing is pulled while rows wait here"
    place.engine.answer("r1")
    await ticks()
    assert place.engine.begun[3:] == ["r3"]
    place.engine.answer("r0", 400)
    await ticks()
    for row in ("r2", "r3", "r4"):
        place.engine.answer(row)
    answers = await place.ended()
    assert {name: (one.how, one.status, one.body) for name, one in answers.items()} == {
        f"r{n}": (ANSWERED, 400 if n == 0 else 200, b"%d" % n) for n in range(5)
    }
    assert place.run.usage == Usage(10, 25)
    assert all(one.engine_s >= 0 and one.waited_s >= 0 for one in answers.values())


async def test_a_row_is_a_request_with_id_body_and_bound_of_its_own() -> None:
    place = Place(2)
    await ticks()
    works = [work for work, _ in place.engine.open.values()]
    assert [(work.key, work.request_id, work.body, work.bound) for work in works] == [
        ("g.0", "r0", b"0", 0), ("g.1", "r1", b"1", 1),
    ]  # fmt: skip
    for row in ("r0", "r1"):
        place.engine.answer(row)
    await place.ended()


async def test_when_the_engine_dies_what_it_had_is_given_back_and_the_rest_was_not_begun() -> None:
    place = Place(5)
    await ticks()
    place.engine.answer("r1")
    place.engine.die()
    answers = await place.ended()
    hows = {name: one.how for name, one in answers.items()}
    assert hows == {"r0": GIVEN_BACK, "r1": ANSWERED, "r2": GIVEN_BACK, "r3": NOT_BEGUN, "r4": NOT_BEGUN}
    assert place.run.usage == Usage(2, 5), "what a dead engine computed nobody knows"


@pytest.mark.parametrize("refusal", [InvalidRequest("no"), EngineDead("gone")])
async def test_what_the_engine_does_not_take_is_given_back(refusal: Exception) -> None:
    place = Place(2)
    place.engine.refusal = refusal
    assert GIVEN_BACK in {one.how for one in (await place.ended()).values()}


async def test_stopped_it_aborts_what_runs_and_begins_nothing() -> None:
    place = Place(5)
    await ticks()
    place.engine.answer("r0")
    place.run.stop()
    early = {one.request_id: one.how for one in answers_from(place.run.outcome().body)}
    answers = await place.ended()
    hows = {name: one.how for name, one in answers.items()}
    assert hows == {"r0": ANSWERED, "r1": ABORTED, "r2": ABORTED, "r3": NOT_BEGUN, "r4": NOT_BEGUN}
    assert answers["r1"].usage == Usage(3, 1)
    assert set(early) == set(hows), "an early outcome speaks of every row"
    assert answers_from(place.run.outcome().body) == list(answers.values())


async def test_delivered_again_no_row_is_begun() -> None:
    place = Place(3, attempt=2)
    place.delivery.rows = 0
    await asyncio.wait_for(place.task, 5)
    answers = answers_from((await place.sink.finish()).data)
    assert {one.how for one in answers} == {GIVEN_BACK}
    assert place.engine.begun == []


async def test_what_waits_for_a_slot_can_be_turned_away() -> None:
    place = Place(5)
    await ticks()
    place.slots.turn_away()
    for row in ("r0", "r1", "r2"):
        place.engine.answer(row)
    hows = {name: one.how for name, one in (await place.ended()).items()}
    assert {name for name, how in hows.items() if how == NOT_BEGUN} == {"r3", "r4"}
    assert not await place.slots.want()
    place.slots.reopen()
    assert await place.slots.want()


async def test_cancelled_it_gives_every_slot_back() -> None:
    place = Place(5)
    await ticks()
    place.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await place.task
    assert place.slots.busy == 0
    assert place.engine.open == {}, "what ran was aborted"


async def test_what_a_later_delivery_asks_is_not_begun() -> None:
    place = Place(2)
    place.task.cancel()
    sink, run = (
        RecordingSink(),
        GroupRun(cast("Engine", place.engine), [GroupRow("r", b"")], place.delivery, is_fenced=True),
    )
    await run.run(WORK, sink)
    assert [one.how for one in answers_from((await sink.finish()).data)] == [FENCED]
    assert place.engine.begun == []

"""Groups of rows over a real server: asked as one message, answered as one outcome, each row in the ledger once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import cast

import pytest
from tests.connected.conftest import MODEL, Connect
from tests.connected.rig import Call, GatewaySide, Rig, WorkerSide

from inferbus import routes, testing
from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.batch.fence import is_behind, raise_fence
from inferbus.batch.lines import Row
from inferbus.bus.stored import read_stored
from inferbus.contracts.batch import IN_PROGRESS, JobRecord
from inferbus.contracts.control import CANCEL
from inferbus.contracts.envelope import RESULTS
from inferbus.contracts.groups import ANSWERED, FENCED, GroupRow, answers_from, rows_to
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.step import Usage
from inferbus.contracts.usage import CANCELLED, FINISHED, UsageEvent, events_in
from inferbus.durable import attempt as durable_attempt
from inferbus.durable.outcomes import failed_outcome, store_outcome
from inferbus.errors import Cancelled, DeadlineWhileQueued, DependencyDown
from inferbus.ledger.names import OF, request_of
from inferbus.models import apply_model
from inferbus.testing import NatsServer
from inferbus.worker import serving
from inferbus.worker.rows_bill import RowsBill
from inferbus_batch.adapters.work_queue import queued_requests
from inferbus_batch.asking import Asking, Given
from inferbus_batch.gate import LEASE_LOST, Gate
from inferbus_batch.groups import Ends, Groups
from inferbus_batch.vector_rows import VectorRows

JOB = JobRecord(
    id="batch_1", tenant="dev", endpoint="/v1/chat/completions", input_file_id="f", created=0, expires_at=9,
    state=IN_PROGRESS,
)  # fmt: skip
GROUP = routes.group_request(JOB.id, 0, 1, 0)


@pytest.fixture
async def rig(server: NatsServer) -> AsyncIterator[Rig]:
    admin = await server.connect("admin")
    await apply_model(admin, MODEL)
    await admin.close()
    async with AsyncExitStack() as stack:
        yield Rig(server, stack)


class Batch:
    """Who asks for a chunk's rows: on a gateway's connection, whose rights are wider."""

    def __init__(self, gateway: GatewaySide) -> None:
        self.gateway = gateway
        self.asking = Asking(gateway.bus, gateway.admission, cast("VectorRows", None), attempts=3)
        self.groups = Groups(gateway.bus, gateway.admission, self.asking, slots_of=gateway.presence.least_slots)
        self.gate = Gate()
        self.given = Given(JOB, self.gate, lambda: Identity(tenant="dev"), 60.0)

    def ask(self, count: int, group_id: str = GROUP) -> asyncio.Task[Ends]:
        return asyncio.create_task(self.groups.ends_of(self.given, rows(count), group_id))


def rows(count: int) -> list[Row]:
    return [
        Row(
            line=n, custom_id=f"row-{n}", path=JOB.endpoint, task="chat", model=MODEL.name,
            body=b'{"model":"m","messages":[{"role":"user","content":"%d"}]}' % n,
        )
        for n in range(1, count + 1)
    ]  # fmt: skip


async def worker_of(rig: Rig, process: str = "worker-0") -> WorkerSide:
    worker = await rig.worker(process, lane=routes.BATCH)
    worker.engine.answer = lambda call: call.sink.finished(200, Usage(4, 2), call.work.body, "application/json")
    return worker


async def events_of(connect: Connect) -> list[UsageEvent]:
    bus = await connect("ledger")
    stored = await read_stored(bus, routes.STREAM_USAGE, routes.usage_filter("dev"))
    return [event for one in stored for event in events_in(one.data)]


async def recorded(connect: Connect, count: int) -> list[UsageEvent]:
    """Wait until so many events are stored."""
    events: list[UsageEvent] = []

    async def are_there() -> bool:
        events[:] = await events_of(connect)
        return len(events) >= count

    await testing.eventually(are_there)
    return events


async def left_in_queue(connect: Connect) -> dict[str, frozenset[str]]:
    bus = await connect("batch")
    return (await queued_requests(bus, "dev", [MODEL])).groups


def calls_of(worker: WorkerSide) -> list[Call]:
    return worker.engine.calls


async def test_rows_are_requests_of_their_own_to_the_engine_and_the_ledger(rig: Rig, connect: Connect) -> None:
    batch, worker = Batch(await rig.gateway()), await worker_of(rig)
    ends = await asyncio.wait_for(batch.ask(20), 10)
    assert {line: (one.status, one.usage) for line, one in ends.outcomes.items()} == {
        line: (200, Usage(4, 2)) for line in range(1, 21)
    }
    assert ends.outcomes[7].body == rows(20)[6].body
    assert (ends.not_begun, ends.is_open) == (frozenset(), False)
    assert sorted(call.work.request_id for call in calls_of(worker)) == sorted(f"batch_1-{n}" for n in range(1, 21))

    async def is_over() -> bool:
        return not await left_in_queue(connect)

    await testing.eventually(is_over)
    events = await events_of(connect)
    assert sorted(event.request_id for event in events) == sorted(f"batch_1-{n}" for n in range(1, 21))
    assert {(event.outcome, event.prompt_tokens, event.completion_tokens) for event in events} == {(FINISHED, 4, 2)}


async def test_what_died_with_an_engine_is_for_whoever_asks_it_by_itself(rig: Rig, connect: Connect) -> None:
    batch, worker = Batch(await rig.gateway()), await worker_of(rig)
    worker.engine.answer = None
    asked = batch.ask(10)
    await testing.eventually(lambda: len(calls_of(worker)) == 7)  # eight slots, one is not for batches
    calls_of(worker)[2].sink.finished(200, Usage(4, 2), b"{}", "application/json")
    worker.engine.die()
    ends = await asyncio.wait_for(asked, 10)
    begun = {call.work.request_id for call in calls_of(worker)}
    assert list(ends.outcomes) == [3]
    assert {f"batch_1-{line}" for line in ends.not_begun}.isdisjoint(begun)
    assert len(ends.not_begun) >= 2
    assert [event.request_id for event in await recorded(connect, 1)] == ["batch_1-3"]


async def test_cancelled_it_leaves_what_was_done_and_charges_what_was_spent(rig: Rig, connect: Connect) -> None:
    batch, worker = Batch(await rig.gateway()), await worker_of(rig)
    worker.engine.answer = None

    def abort(key: str) -> None:
        for call in calls_of(worker):
            if call.work.key == key:
                call.sink.failed(Cancelled("stopped"), Usage(4, 1))

    worker.engine.abort = abort  # type: ignore[method-assign]
    asked = batch.ask(10)
    await testing.eventually(lambda: len(calls_of(worker)) == 7)
    calls_of(worker)[0].sink.finished(200, Usage(4, 2), b"{}", "application/json")
    batch.gate.end("cancelled")
    await asyncio.wait_for(asked, 10)
    await testing.eventually(lambda: not worker.intake.running)
    outcome = await batch.asking.outcome(batch.given, GROUP)
    assert outcome is not None, "what was done is kept for whoever takes the chunk up"
    left = await batch.groups.left_by(batch.given, 0, 2, {}, range(1, 11))
    assert list(left.outcomes) == [1]
    events = await events_of(connect)
    assert min((event.outcome, event.completion_tokens) for event in events) == (CANCELLED, 1)
    assert sum(event.completion_tokens for event in events) == 2 + (len(calls_of(worker)) - 1) * 1


async def test_a_group_whose_worker_is_lost_is_given_back_whole(rig: Rig, connect: Connect) -> None:
    batch, first = Batch(await rig.gateway()), await worker_of(rig)
    first.engine.answer = None
    asked = batch.ask(5)
    await testing.eventually(lambda: len(calls_of(first)) == 5)
    second = await worker_of(rig, "worker-1")
    await first.intake.stop()
    ends = await asyncio.wait_for(asked, 20)
    assert (dict(ends.outcomes), ends.not_begun) == ({}, frozenset())
    assert calls_of(second) == [], "it may be what ended its worker"
    assert await events_of(connect) == []


async def test_events_that_were_not_written_are_by_whoever_gets_the_message_again(
    rig: Rig, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, worker = Batch(await rig.gateway()), await worker_of(rig)
    settle, lost = RowsBill.settle, 0

    async def lose(bill: RowsBill) -> None:
        nonlocal lost
        lost += 1
        raise DependencyDown("killed here", retry_after_s=0.1)

    monkeypatch.setattr(RowsBill, "settle", lose)
    ends = await asyncio.wait_for(batch.ask(3), 10)
    assert len(ends.outcomes) == 3

    async def are_there() -> bool:
        return len(await events_of(connect)) == 3

    await testing.eventually(are_there)
    assert (lost, len(calls_of(worker))) == (1, 3)
    monkeypatch.setattr(RowsBill, "settle", settle)


async def test_of_two_attempts_the_first_outcome_counts_for_both(
    rig: Rig, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one's rows are not in the ledger: what is written is what is stored."""
    batch, worker = Batch(await rig.gateway()), await worker_of(rig)
    worker.engine.answer = None
    asked = batch.ask(3)
    await testing.eventually(lambda: len(calls_of(worker)) == 3)
    for call in calls_of(worker)[:2]:
        call.sink.finished(200, Usage(4, 2), b"{}", "application/json")
    (attempt,) = [one for one in worker.attempts if isinstance(one, durable_attempt.DurableAttempt)]
    assert attempt.group is not None
    group = attempt.group
    await testing.eventually(lambda: sum(one.how == ANSWERED for one in answers_from(group.outcome().body)) == 2)
    stolen = group.outcome()  # as another worker might have stored it
    assert await durable_attempt.store_outcome(worker.bus, "dev", GROUP, stolen)
    calls_of(worker)[2].sink.finished(200, Usage(4, 2), b"{}", "application/json")
    ends = await asyncio.wait_for(asked, 15)
    assert (set(ends.outcomes), ends.not_begun) == ({1, 2}, frozenset())
    await testing.eventually(lambda: not worker.intake.running)
    assert sorted(event.request_id for event in await events_of(connect)) == ["batch_1-1", "batch_1-2"]


async def test_rows_that_cannot_be_read_are_a_dead_letter_and_an_error(rig: Rig, connect: Connect) -> None:
    batch, _ = Batch(await rig.gateway()), await worker_of(rig)
    ask = Ask(
        model="m", task="chat", path=JOB.endpoint, body=b"no rows", lane=routes.BATCH, delivery=RESULTS, request_id=GROUP,
        rows=2,
    )  # fmt: skip
    exchange = await batch.gateway.admission.admit(Identity(tenant="dev"), ask)
    outcome = await batch.asking.wait(batch.given, exchange, GROUP)
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.code == "invalid_request"
    operator = await connect("operator")
    (letter,) = await read_stored(operator, routes.STREAM_DLQ, routes.SUBJECTS_DLQ)
    assert letter.data == b"no rows"


async def test_large_answers_of_a_group_come_whole(rig: Rig) -> None:
    batch, worker = Batch(await rig.gateway()), await worker_of(rig)
    large = b'{"text":"' + b"x" * 300_000 + b'"}'
    worker.engine.answer = lambda call: call.sink.finished(200, Usage(4, 2), large, "application/json")
    ends = await asyncio.wait_for(batch.ask(12), 20)
    assert [one.body for one in ends.outcomes.values()] == [large] * 12


async def test_what_a_chunk_left_is_found_by_its_next_delivery(rig: Rig, connect: Connect) -> None:
    """One group ended, one is in the queue: both are taken up, and no row is asked twice."""
    batch, worker = Batch(await rig.gateway()), await worker_of(rig)
    await asyncio.wait_for(batch.ask(3), 10)
    worker.engine.answer = None
    second = routes.group_request(JOB.id, 0, 1, 1)
    waiting = asyncio.create_task(batch.groups.ends_of(batch.given, rows(6)[3:], second))
    await testing.eventually(lambda: len(calls_of(worker)) == 6)
    waiting.cancel()  # its process is gone
    bus = await connect("batch")
    queued = await queued_requests(bus, "dev", [ModelEntry(name="m", pool="m")])
    later = Batch(await rig.gateway("gateway-1"))
    later.given = Given(JOB, later.gate, lambda: Identity(tenant="dev"), 60.0, queued.requests)
    left = await later.groups.left_by(later.given, 0, 2, queued.groups, range(1, 9))
    assert (set(left.outcomes), dict(left.queued)) == ({1, 2, 3}, {second: frozenset({4, 5, 6})})
    assert left.lines == frozenset(range(1, 7))
    taking_up = asyncio.create_task(later.groups.taken_up(later.given, second, [4, 5, 6]))
    for call in calls_of(worker)[3:]:
        call.sink.finished(200, Usage(4, 2), b"{}", "application/json")
    ends = await asyncio.wait_for(taking_up, 15)
    assert set(ends.outcomes) == {4, 5, 6}


async def test_what_an_overtaken_delivery_asks_is_not_begun(rig: Rig, connect: Connect) -> None:
    """A killed server may give a chunk to another while the first one goes on, sure of its lease."""
    batch, worker = Batch(await rig.gateway()), await worker_of(rig)
    bus, fence = await connect("batch"), routes.chunk_fence(JOB.id, 0)
    assert routes.fence_of(GROUP) == (fence, 1)
    assert not await is_behind(bus, "dev", fence, 1)
    assert await raise_fence(bus, "dev", fence, 3)
    assert not await raise_fence(bus, "dev", fence, 2), "it only rises"
    assert await raise_fence(bus, "dev", fence, 3)
    ends = await asyncio.wait_for(batch.ask(5), 10)
    assert (dict(ends.outcomes), ends.is_open, batch.gate.held) == ({}, True, FENCED)
    assert calls_of(worker) == []
    assert await events_of(connect) == []
    later = await asyncio.wait_for(
        Batch(batch.gateway).ask(5, routes.group_request(JOB.id, 0, 3, 0)), 10
    )  # fmt: skip
    assert len(later.outcomes) == 5
    batch.given = Given(JOB, Gate(), batch.given.identity, 60.0, fence=fence, attempt=2)
    assert await asyncio.wait_for(batch.asking.end_of(batch.given, rows(1)[0]), 10) is None
    assert batch.given.gate.held == LEASE_LOST


async def test_a_group_that_two_have_asked_is_charged_once(rig: Rig, connect: Connect) -> None:
    """Two messages of one group: a killed server forgot the first one's id. Whose the events are, a header says."""
    batch, worker = Batch(await rig.gateway()), await worker_of(rig)
    await asyncio.wait_for(batch.ask(3), 10)
    operator = await connect("operator")
    (first,) = await read_stored(operator, routes.STREAM_USAGE, routes.usage_filter("dev"))
    second = Batch(await rig.gateway("gateway-1"))
    ask = Ask(
        model="m", task="chat", path=JOB.endpoint, body=rows_to([GroupRow("batch_1-1", b"{}")]), lane=routes.BATCH,
        delivery=RESULTS, request_id=f"{GROUP}0", rows=1,
    )  # fmt: skip
    exchange = await second.gateway.admission.admit(Identity(tenant="dev"), ask)
    assert await second.asking.wait(second.given, exchange, f"{GROUP}0") is not None
    found = await recorded(connect, 4)
    assert len(found) == 4, "another group is another message"
    (_, other) = await read_stored(operator, routes.STREAM_USAGE, routes.usage_filter("dev"))
    assert first.headers["Nats-Msg-Id"] == f"usage:group:{GROUP}"
    assert request_of(first.headers[OF]) == (batch.gateway.asker.id, 1)
    assert request_of(other.headers[OF]) == (second.gateway.asker.id, 1)
    again = worker.usage_log.begin(first.headers["Nats-Msg-Id"], events_in(first.data), of=other.headers[OF])
    await worker.usage_log.settle(again, amend=False)
    assert len(await events_of(connect)) == 4


async def test_a_group_that_failed_as_a_whole_says_nothing_of_other_rows(rig: Rig) -> None:
    batch, _ = Batch(await rig.gateway()), await worker_of(rig)
    await asyncio.wait_for(batch.ask(3), 10)
    failed = failed_outcome(DeadlineWhileQueued("late"))
    assert await store_outcome(batch.gateway.bus, "dev", routes.group_request(JOB.id, 0, 1, 1), failed)
    left = await batch.groups.left_by(batch.given, 0, 2, {}, range(1, 9))
    assert {line: one.status for line, one in left.outcomes.items()} == {1: 200, 2: 200, 3: 200}


async def test_cancelled_while_its_fence_is_looked_at_no_row_is_begun(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, worker = Batch(await rig.gateway()), await worker_of(rig)

    async def cancel_meanwhile(*_: object) -> bool:
        for attempt in worker.attempts:
            attempt.stop(CANCEL)
        return False

    monkeypatch.setattr(serving, "is_behind", cancel_meanwhile)
    ends = await asyncio.wait_for(batch.ask(3), 20)
    assert dict(ends.outcomes) == {}
    assert calls_of(worker) == []

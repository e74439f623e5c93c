"""Durable attempts over a real server, with an engine on a string: order, fences, taking up, outcomes, slow readers."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec
import pytest
from tests.connected.conftest import MODEL
from tests.connected.rig import Call, GatewaySide, Rig

from inferbus import routes, testing
from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Chunk, Ended
from inferbus.bus.stored import read_stored
from inferbus.bus.tickets import INLINE_BYTES
from inferbus.contracts.control import STALE
from inferbus.contracts.durable import Claim, Deltas, DurableRequest
from inferbus.durable import attempt as durable_attempt_module
from inferbus.durable import reader as durable_reader_module
from inferbus.durable.delta_writer import Author, DeltaWriter, Fenced, decode_deltas
from inferbus.durable.event_ids import EventId
from inferbus.durable.outcomes import failed_outcome, load_outcome, store_outcome
from inferbus.durable.reader import DurableReader
from inferbus.durable.records import DurableRecords
from inferbus.errors import Cancelled, EngineDead, InferbusError, ResumeImpossible
from inferbus.models import apply_model
from inferbus.testing import NatsServer
from inferbus_gateway.durable import COMPLETED, FAILED, QUEUED, RUNNING, DurableRequests


@pytest.fixture
async def rig(server: NatsServer) -> AsyncIterator[Rig]:
    admin = await server.connect("admin")
    await apply_model(admin, MODEL)
    await admin.close()
    async with AsyncExitStack() as stack:
        yield Rig(server, stack)


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait as long as a loaded machine may need."""
    await testing.eventually(condition, within_s=20)


class Kept:
    """A gateway's durable requests, and readers of them."""

    def __init__(self, gateway: GatewaySide) -> None:
        self.gateway = gateway
        self.requests = DurableRequests(
            gateway.bus, gateway.admission, gateway.models, gateway.presence, asker=gateway.asker.id
        )

    async def ask(self, request_id: str = "r1", *, streamed: bool = True, body: bytes = b'{"model":"m"}') -> None:
        ask = Ask(
            model="m", task="chat", path="/v1/chat/completions", body=body, streamed=streamed, request_id=request_id,
            deadline_s=30,
        )  # fmt: skip
        await self.requests.open(Identity(tenant="dev"), ask)

    async def read(self, request_id: str = "r1", after: EventId | None = None) -> bytes:
        """Read to the end."""
        reader = await self.requests.read("dev", request_id, after)
        return await read_to_end(reader)

    async def state(self, request_id: str = "r1") -> str | None:
        return await self.requests.state_of("dev", request_id)


async def read_to_end(reader: DurableReader) -> bytes:
    data = b""
    try:
        async with asyncio.timeout(30):
            while True:
                event = await reader.next()
                if isinstance(event, Chunk):
                    data += event.data
                elif isinstance(event, Ended):
                    return data + event.data
    finally:
        await reader.close()


async def one_call(calls: list[Call], n: int = 0) -> Call:
    await eventually(lambda: len(calls) > n)
    return calls[n]


async def is_stored(kept: Kept, count: int) -> bool:
    """Whether so many deltas of the request are stored."""
    found = await read_stored(kept.gateway.bus, routes.STREAM_DELTAS, routes.deltas("dev", "r1"))
    messages = [decode_deltas(one.data) for one in found]
    return sum(len(message.items) for message in messages if isinstance(message, Deltas)) == count


def data_of(events: bytes) -> list[bytes]:
    return [line.removeprefix(b"data: ") for line in events.split(b"\n") if line.startswith(b"data: ")]


def event(text: bytes) -> bytes:
    return b"data: " + text + b"\n\n"


async def test_many_outputs_arrive_once_and_in_order_at_every_reader(rig: Rig) -> None:
    kept, other, worker = Kept(await rig.gateway()), Kept(await rig.gateway("gateway-1")), await rig.worker()
    await kept.ask()
    early = asyncio.create_task(kept.read())
    call = await one_call(worker.engine.calls)
    assert await eventually(lambda: _is(kept, RUNNING)) is None
    late: list[asyncio.Task[bytes]] = []
    for n in range(300):
        call.say(event(b"%d" % n))
        if n % 100 == 50:
            late.append(asyncio.create_task(other.read()))
        await asyncio.sleep(0)
    call.end()
    answers = await asyncio.gather(early, *late)
    assert all(answer == answers[0] for answer in answers)
    assert data_of(answers[0]) == [b"%d" % n for n in range(300)]
    assert await kept.state() == COMPLETED
    await eventually(rig.queue_is_empty)
    assert kept.gateway.asker.exchanges == []


async def test_the_next_attempt_goes_on_from_what_is_stored(rig: Rig) -> None:
    kept, worker = Kept(await rig.gateway()), await rig.worker()
    await kept.ask()
    reading = asyncio.create_task(kept.read())
    call = await one_call(worker.engine.calls)
    call.say(event(b"a"), event(b"b"))
    await eventually(lambda: is_stored(kept, 2))
    call.sink.failed(EngineDead("boom"))
    again = await one_call(worker.engine.calls, 1)
    assert again.work.resume is not None
    assert (again.work.resume.ids, again.work.resume.chunks) == ([(0, [1, 2])], [[1, 1]])
    assert again.work.created == call.work.created
    again.say(event(b"c"))
    again.end()
    assert data_of(await reading) == [b"a", b"b", b"c"]
    await eventually(rig.queue_is_empty)


async def test_without_its_asker_it_runs_on_and_is_taken_up(rig: Rig) -> None:
    kept, worker = Kept(await rig.gateway()), await rig.worker(ack_wait_s=20)
    await kept.ask()
    call = await one_call(worker.engine.calls)
    await kept.requests.stop()
    await kept.gateway.stop()
    other = Kept(await rig.gateway("gateway-1"))
    call.say(event(b"a"))
    await eventually(lambda: is_stored(other, 1))
    call.sink.failed(EngineDead("boom"))
    again = await one_call(worker.engine.calls, 1)
    again.say(event(b"b"))
    again.end()
    assert data_of(await other.read()) == [b"a", b"b"]
    await eventually(rig.queue_is_empty)


async def test_a_stale_writer_is_refused_without_any_asker(rig: Rig) -> None:
    bus = (await rig.worker()).bus
    lost: list[str] = []

    def writer(run: int, attempt: int, work: int = 1) -> DeltaWriter:
        author = Author(run=run, worker=f"w{run}", work=work, attempt=attempt)
        return DeltaWriter(bus, "dev", "r1", author, lambda: lost.append(author.worker))

    first, second = writer(1, 1), writer(2, 2)
    assert (await first.begin("f")).resume is None
    first.add([(0, [7])], event(b"a"), (), None)
    await first.flush()
    place = await second.begin("other")
    assert place.resume is not None
    assert (place.resume.ids, place.fingerprint) == ([(0, [7])], "f")
    first.add([(0, [8])], event(b"lost"), (), None)
    with pytest.raises(Fenced):
        await first.flush()
    second.add([(0, [9])], event(b"b"), (), None)
    await second.flush()
    with pytest.raises(Fenced):
        await writer(3, 1).begin("f")  # the first delivery, frozen before it began
    stored = [decode_deltas(one.data) for one in await read_stored(bus, "DELTAS", routes.deltas("dev", "r1"))]
    assert [type(one) for one in stored] == [Claim, Deltas, Claim, Deltas]
    assert [delta.data for one in stored if isinstance(one, Deltas) for delta in one.items] == [
        event(b"a"),
        event(b"b"),
    ]
    assert lost == ["w1"]
    await asyncio.gather(first.stop(), second.stop())


async def test_after_the_stream_was_lost_the_writer_writes_anew(rig: Rig, server: NatsServer) -> None:
    kept, worker = Kept(await rig.gateway()), await rig.worker()
    await kept.ask()
    reading = asyncio.create_task(kept.read())
    call = await one_call(worker.engine.calls)
    call.say(event(b"a"), event(b"b"))
    await eventually(lambda: is_stored(kept, 2))
    operator = await server.connect("operator")
    await operator.request(f"$JS.API.STREAM.DELETE.{routes.STREAM_DELTAS}")
    await operator.close()
    call.say(event(b"c"))
    await server.reconcile(MODEL)
    await eventually(lambda: is_stored(kept, 3))
    call.say(event(b"d"))
    call.end()
    assert data_of(await reading) == [b"a", b"b", b"c", b"d"]
    assert data_of(await kept.read()) == [b"a", b"b", b"c", b"d"]


async def test_an_answer_begun_anew_is_not_joined_to_another_one(rig: Rig) -> None:
    kept, worker = Kept(await rig.gateway()), await rig.worker()
    await kept.ask()
    call = await one_call(worker.engine.calls)
    call.say(event(b"a"), event(b"b"))
    call.end()
    answer = await kept.read()
    story = int(answer.split(b"\n", 1)[0].rsplit(b".", 1)[1])
    assert data_of(await kept.read(after=EventId(0, 0, story))) == [b"b"]
    with pytest.raises(ResumeImpossible):
        await kept.read(after=EventId(0, 0, story + 1))


async def test_several_events_of_one_output_have_ids_of_their_own(rig: Rig) -> None:
    kept, worker = Kept(await rig.gateway()), await rig.worker()
    await kept.ask()
    call = await one_call(worker.engine.calls)
    call.say(event(b"a") + event(b"b") + event(b"c"), event(b"d"))
    call.end()
    whole = await kept.read()
    story = int(whole.split(b"\n", 1)[0].rsplit(b".", 1)[1])
    places = [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert whole == b"".join(
        b"id: %d.%d.%d\ndata: %s\n\n" % (k, i, story, text)
        for (k, i), text in zip(places, b"a b c d".split(), strict=True)
    )
    for n, (k, i) in enumerate(places):
        assert data_of(await kept.read(after=EventId(k, i, story))) == [b"a", b"b", b"c", b"d"][n + 1 :]


async def test_who_comes_second_changes_no_outcome(rig: Rig) -> None:
    bus = (await rig.worker()).bus
    assert await store_outcome(bus, "dev", "r1", failed_outcome(Cancelled("first")))
    assert not await store_outcome(bus, "dev", "r1", failed_outcome(EngineDead("second")))
    found = await load_outcome(bus, "dev", "r1")
    assert found is not None
    assert found.failure is not None
    assert (found.failure.code, found.failure.message, found.status) == ("cancelled", "first", 499)


async def test_a_request_that_has_ended_is_not_run_again(rig: Rig) -> None:
    kept = Kept(await rig.gateway())
    await kept.ask(streamed=False)
    await store_outcome(kept.gateway.bus, "dev", "r1", failed_outcome(Cancelled("by somebody")))
    worker = await rig.worker()
    await eventually(rig.queue_is_empty)
    assert worker.engine.calls == []
    with pytest.raises(Cancelled):
        await kept.read()


async def test_a_large_answer_travels_by_ticket(rig: Rig) -> None:
    kept, worker = Kept(await rig.gateway()), await rig.worker()
    large = b'{"text":"' + b"x" * (2 * INLINE_BYTES) + b'"}'
    worker.engine.answer = lambda call: call.end(large)
    await kept.ask(streamed=False)
    assert await kept.read() == large
    assert await kept.read() == large


async def test_an_answer_larger_than_a_message_is_kept_whole(rig: Rig) -> None:
    kept, worker = Kept(await rig.gateway()), await rig.worker()
    body = b"x" * (9 * 1024 * 1024)
    worker.engine.answer = lambda call: call.end(body)
    await kept.ask(streamed=False)
    assert await kept.read() == body
    await eventually(rig.queue_is_empty)


async def test_an_answer_over_the_limit_fails(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable_attempt_module, "MAX_ANSWER_BYTES", 1024)
    kept, worker = Kept(await rig.gateway()), await rig.worker()
    worker.engine.answer = lambda call: call.end(b"x" * 1025)
    await kept.ask(streamed=False)
    with pytest.raises(InferbusError, match="limit is"):
        await kept.read()
    assert await kept.state() == FAILED
    await eventually(rig.queue_is_empty)


async def test_a_slow_reader_costs_a_bounded_buffer_and_loses_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable_reader_module, "_MAX_BUFFER_BYTES", 10_000)
    kept, worker = Kept(await rig.gateway()), await rig.worker()
    await kept.ask()
    reader = await kept.requests.read("dev", "r1")
    call = await one_call(worker.engine.calls)
    texts = [b"%d:" % n + b"x" * 1000 for n in range(200)]
    for text in texts:
        call.say(event(text))
        await asyncio.sleep(0)
    await eventually(lambda: is_stored(kept, 200))
    largest, data = 0, b""
    call.sink.delta([], event(b"more"))
    for _ in range(60):
        match await reader.next(0.5):
            case Chunk(chunk):
                largest, data = max(largest, len(chunk)), data + chunk
            case None:
                break
    assert largest < 15_000
    call.end()
    assert data_of(data + await read_to_end(reader)) == [*texts, b"more"]


async def test_a_stale_attempt_stores_and_acknowledges_nothing(rig: Rig) -> None:
    kept, worker = Kept(await rig.gateway()), await rig.worker()
    await kept.ask()
    call = await one_call(worker.engine.calls)
    (attempt,) = worker.attempts
    attempt.stop(STALE)
    call.end()
    await eventually(lambda: len(worker.attempts) == 0)
    assert await load_outcome(kept.gateway.bus, "dev", "r1") is None
    assert await rig.left() == 1


async def test_a_request_that_was_noted_by_a_gateway_and_never_accepted_is_begun_by_the_next(rig: Rig) -> None:
    kept, worker = Kept(await rig.gateway()), await rig.worker()
    worker.engine.answer = lambda call: call.end(b'{"ok":1}')
    body, path = b'{"model":"m"}', "/v1/chat/completions"
    ghost = DurableRequest(
        request_id="r1", digest=hashlib.sha256(path.encode() + b"\n" + body).hexdigest(), path=path, model="m",
        streamed=False, created=0.0, deadline_at=time.time() + 30, asker="dead",
    )  # fmt: skip
    assert await DurableRecords(kept.gateway.bus).create("dev", ghost) is None
    await kept.ask(streamed=False)
    assert await kept.read() == b'{"ok":1}'
    await kept.ask(streamed=False)
    await eventually(rig.queue_is_empty)
    assert len(worker.engine.calls) == 1


async def test_states_by_id(rig: Rig) -> None:
    kept = Kept(await rig.gateway())
    assert await kept.state() is None
    await kept.ask(streamed=False)
    assert await kept.state() == QUEUED
    worker = await rig.worker()
    call = await one_call(worker.engine.calls)
    await eventually(lambda: _is(kept, RUNNING))
    call.sink.failed(msgspec.ValidationError("a bug"))
    await eventually(lambda: _is(kept, FAILED))


async def _is(kept: Kept, state: str) -> bool:
    return await kept.state() == state

"""Asker: fencing, gaps, confirms, `ask`, and work of dead workers; on a bus in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.common.fakes import FakeBus, FakePresence, worker

from inferbus import routes
from inferbus.answers import asker as asker_module
from inferbus.answers.asker import Asker
from inferbus.answers.exchange import MAX_BUFFER_BYTES, Begun, Chunk, Ended, Exchange
from inferbus.codec import pack, unpacker
from inferbus.contracts.control import CANCEL, CONFIRM, DROP, EXPIRE, RESEND, STALE, Control
from inferbus.contracts.step import CONTINUE, FRESH, GONE, Answer, Ask, Delta, Failed, Finished, Frame, Started, Usage
from inferbus.errors import Cancelled, DeadlineWhileRunning, InferbusError, ResumeImpossible, SlowClient

CREATED = 1_763_750_000


class Side:
    """An asker on a bus in memory, and what it told workers."""

    def __init__(self) -> None:
        self.bus = FakeBus()
        self.presence = FakePresence(worker("w1"), worker("w2", "i2"))
        self.asker = Asker(self.bus, self.presence)  # type: ignore[arg-type]  # ports in memory

    def open(self, request_id: str = "r") -> Exchange:
        return self.asker.open(request_id=request_id, tenant="dev", pool="m", deadline_s=30)

    async def frames(self, *frames: Frame, reply: str = "") -> None:
        await self.bus.deliver(routes.step_of(self.asker.id), pack(list(frames)), reply=reply)

    async def told(self) -> list[tuple[str, str, int, int, int]]:
        """Give (worker, verb, tag, attempt, from_seq) of everything told since the last call."""
        self.asker.flush_control()
        decode = unpacker(Control).decode
        found = []
        for subject, data in self.bus.take():
            if subject.startswith("control."):
                control: Control = decode(data)
                assert control.asker == self.asker.id
                _, process, verb = subject.split(".")
                found += [(process, verb, item.tag, item.attempt, item.from_seq) for item in control.items]
        return found

    async def ask(self, tag: int, attempt: int, request_id: str = "r") -> Answer:
        await self.frames(Ask(tag, attempt, 0, request_id), reply="inbox")
        return next(unpacker(Answer).decode(data) for subject, data in self.bus.take() if subject == "inbox")


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    side = Side()
    await side.asker.start()
    yield side
    await side.asker.stop()


def started(
    tag: int, attempt: int = 1, process: str = "w1", incarnation: str = "i1", *, run: int = 0, resumed: int = 0
) -> Started:
    ack = f"$JS.ACK.S.C.{attempt}.7.1.1.0"
    return Started(tag, attempt, 0, ack, process, incarnation, run or attempt, CREATED, "f0", resumed)


def delta(tag: int, seq: int, attempt: int = 1, data: bytes = b"") -> Delta:
    return Delta(tag, attempt, seq, [(0, [seq])], data or b"%d." % seq, attempt)


def finished(tag: int, seq: int, attempt: int = 1) -> Finished:
    return Finished(tag, attempt, seq, 200, Usage(1, 2), b"", "text/event-stream", attempt)


def failed(tag: int, seq: int, attempt: int = 1, code: str = "engine_dead", *, final: bool = False) -> Failed:
    return Failed(tag, attempt, seq, code, "boom", final, attempt)


async def read(exchange: Exchange) -> bytes:
    """Read to the end; gives the bytes."""
    data = b""
    async with asyncio.timeout(5):
        while True:
            event = await exchange.next()
            if isinstance(event, Chunk):
                data += event.data
            elif isinstance(event, Ended):
                return data


async def test_frames_in_order_are_read_and_the_end_is_confirmed(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1), delta(1, 1), delta(1, 2), finished(1, 3))
    assert await read(exchange) == b"1.2."
    assert await side.told() == [("w1", CONFIRM, 1, 1, 0)]
    exchange.close()
    assert await side.told() == [], "a finished request needs no cancel"


async def test_a_repeated_end_is_confirmed_again(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1), finished(1, 1))
    await side.told()
    await side.frames(finished(1, 1))
    assert await side.told() == [("w1", CONFIRM, 1, 1, 0)]
    exchange.close()
    await side.frames(finished(1, 1))
    assert set(await side.told()) == {("w1", CONFIRM, 1, 1, 0), ("w2", CONFIRM, 1, 1, 0)}, "by tag only: all are told"


async def test_a_gap_is_asked_for_once_however_many_frames_show_it(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1), delta(1, 1))
    await side.frames(delta(1, 3), delta(1, 4))
    await side.frames(delta(1, 5))
    assert await side.told() == [("w1", RESEND, 1, 1, 2)]
    await side.frames(*(delta(1, seq) for seq in range(2, 6)), finished(1, 6))
    assert await read(exchange) == b"1.2.3.4.5."
    exchange.close()


async def test_a_gap_is_asked_for_again_when_nothing_came(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asker_module, "_ASK_AGAIN_S", 0.0)
    side.open()
    await side.frames(started(1), delta(1, 2))
    await side.frames(delta(1, 3))
    assert await side.told() == [("w1", RESEND, 1, 1, 1)] * 2


async def test_frames_whose_started_was_lost_are_asked_for(side: Side) -> None:
    exchange = side.open()
    await side.frames(delta(1, 1), delta(1, 2))
    assert set(await side.told()) == {("w1", RESEND, 1, 1, 0), ("w2", RESEND, 1, 1, 0)}
    await side.frames(started(1), delta(1, 1), delta(1, 2), finished(1, 3))
    assert await read(exchange) == b"1.2."
    exchange.close()


async def test_another_attempt_is_told_that_it_is_stale(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1))
    await side.frames(started(1, 1, "w2", "i2", run=9))
    assert await side.told() == [("w2", STALE, 1, 1, 0)]
    await side.frames(started(1, 2, "w2", "i2"))
    assert await side.told() == [("w2", STALE, 1, 2, 0)]
    await side.frames(delta(1, 1, attempt=2, data=b"wrong"))
    assert set(await side.told()) == {("w1", STALE, 1, 2, 0), ("w2", STALE, 1, 2, 0)}, "its `stale` was lost"
    await side.frames(delta(1, 2, attempt=2, data=b"wrong"))
    assert await side.told() == [], "not for every frame"
    await side.frames(delta(1, 1), finished(1, 2))
    assert await read(exchange) == b"1."
    exchange.close()


async def test_started_twice_is_one_attempt(side: Side) -> None:
    side.open()
    await side.frames(started(1), delta(1, 1), started(1))
    assert await side.told() == []


async def test_a_given_up_attempt_cannot_come_back(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1))
    side.presence.lose("w1")
    await side.told()
    await side.frames(started(1), delta(1, 1, data=b"old"), finished(1, 2))
    told = await side.told()
    assert set(told) == {("w1", STALE, 1, 1, 0)}, "its frames count no more, and it is not asked for others"
    assert len(told) == 2, "for its `started` and for what it went on to send, not for every frame"
    await side.frames(started(1, 2, "w2", "i2"), delta(1, 1, attempt=2, data=b"new"), finished(1, 2, attempt=2))
    assert await read(exchange) == b"new"
    exchange.close()


async def test_a_worker_that_gives_up_itself_is_not_told_stale(side: Side) -> None:
    """It is about to hand the message back; `stale` would have it say nothing, and the message wait for its lease."""
    exchange = side.open()
    await side.frames(started(1), failed(1, 1))
    assert await side.told() == []
    assert exchange.fence is None
    assert exchange.engine_deaths == 1
    assert not exchange.ended
    await side.frames(failed(1, 1))
    assert exchange.engine_deaths == 1, "repeated, not died twice"
    assert await side.told() == []


async def test_after_two_engine_deaths_it_runs_alone(side: Side) -> None:
    side.open()
    for attempt in (1, 2):
        await side.frames(started(1, attempt), failed(1, 1, attempt))
        answer = await side.ask(1, attempt + 1)
        assert (answer.verdict, answer.engine_deaths, answer.solo) == (FRESH, attempt, attempt == 2)


async def test_a_begun_stream_goes_on_where_the_client_is(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1), delta(1, 1), delta(1, 2), failed(1, 3))
    answer = await side.ask(1, 2)
    assert answer == Answer(CONTINUE, 1, False, [(0, [1, 2])], [[1, 1]], [], None, CREATED, "f0")
    resumed = started(1, 2, "w2", "i2", resumed=2)
    await side.frames(resumed, delta(1, 1, attempt=2, data=b"3."), finished(1, 2, attempt=2))
    assert await read(exchange) == b"1.2.3."
    exchange.close()


async def test_an_attempt_that_did_not_ask_cannot_go_on_in_a_begun_stream(side: Side) -> None:
    """A server killed just after it delivered counts anew: the message looks like a first delivery."""
    exchange = side.open()
    await side.frames(started(1), delta(1, 1))
    side.presence.lose("w1")
    await side.told()
    again = started(1, 1, "w2", "i2", run=9)
    await side.frames(again, Delta(1, 1, 1, [(0, [1])], b"1.", 9))
    assert (again.ack_subject, b"-NAK") in side.bus.sent
    assert ("w2", STALE, 1, 1, 0) in await side.told()
    assert exchange.fence is None
    await side.frames(started(1, 2, "w2", "i2", resumed=1), finished(1, 1, attempt=2))
    assert await read(exchange) == b"1."
    exchange.close()


async def test_bytes_without_a_token_cannot_be_continued(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1), Delta(1, 1, 1, [], b"x", 1), failed(1, 2))
    with pytest.raises(ResumeImpossible):
        await read(exchange)
    assert (await side.ask(1, 2)).verdict == GONE
    exchange.close()


async def test_what_ended_and_what_was_cached_is_told_too(side: Side) -> None:
    side.open()
    first = Delta(1, 1, 1, [(0, [7, 8]), (1, [9])], b"x", 1, [(1, "stop", 5)], (3, 16))
    await side.frames(started(1), first, Delta(1, 1, 2, [(0, [10])], b"y", 1), failed(1, 3))
    answer = await side.ask(1, 2)
    assert answer.ids == [(0, [7, 8, 10]), (1, [9])]
    assert answer.chunks == [[2, 1], [1]]
    assert answer.done == [(1, "stop", 5)]
    assert answer.cached == (3, 16)


async def test_a_final_failure_is_read_and_confirmed(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1), failed(1, 1, code="poison", final=True))
    with pytest.raises(InferbusError, match="boom"):
        await read(exchange)
    assert await side.told() == [("w1", CONFIRM, 1, 1, 0)]
    exchange.close()
    assert await side.told() == []


async def test_a_lost_worker_is_told_stale_and_its_message_handed_back(side: Side) -> None:
    side.open()
    await side.frames(started(1))
    side.presence.lose("w1")
    assert ("$JS.ACK.S.C.1.7.1.1.0", b"-NAK") in side.bus.sent
    assert await side.told() == [("w1", STALE, 1, 1, 0)]


async def test_a_lost_worker_s_begun_stream_is_handed_back(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1), delta(1, 1))
    side.presence.lose("w1")
    assert ("$JS.ACK.S.C.1.7.1.1.0", b"-NAK") in side.bus.sent
    assert not exchange.ended


async def test_a_lost_worker_s_stream_that_cannot_go_on_is_acknowledged(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1), Delta(1, 1, 1, [], b"x", 1))
    side.presence.lose("w1")
    assert ("$JS.ACK.S.C.1.7.1.1.0", b"+ACK") in side.bus.sent
    with pytest.raises(ResumeImpossible):
        await read(exchange)


async def test_losing_another_incarnation_changes_nothing(side: Side) -> None:
    exchange = side.open()
    await side.frames(started(1, 1, "w1", "i9"))
    side.presence.lose("w1")
    assert exchange.fence is not None
    assert side.bus.sent == []


class TestAsk:
    async def test_unknown_other_and_ended_requests_are_gone(self, side: Side) -> None:
        assert (await side.ask(99, 2)).verdict == GONE
        exchange = side.open()
        assert (await side.ask(1, 2, "another")).verdict == GONE
        exchange.fail(Cancelled("x"))
        assert (await side.ask(1, 2)).verdict == GONE

    async def test_a_waiting_request_is_fresh(self, side: Side) -> None:
        side.open()
        assert await side.ask(1, 1) == Answer(FRESH)

    async def test_a_later_attempt_takes_the_work(self, side: Side) -> None:
        exchange = side.open()
        await side.frames(started(1))
        assert (await side.ask(1, 2)).verdict == FRESH
        assert exchange.fence is None
        assert exchange.engine_deaths == 0, "a lease that ran out is no engine's death"
        assert await side.told() == [("w1", STALE, 1, 1, 0)]

    async def test_a_later_attempt_takes_a_begun_stream_and_goes_on(self, side: Side) -> None:
        exchange = side.open()
        await side.frames(started(1), delta(1, 1))
        assert (await side.ask(1, 2)).verdict == CONTINUE
        await side.frames(delta(1, 2), finished(1, 3))
        assert exchange.delivered_tokens == 1, "the answer to `ask` is what the next attempt goes on from"

    async def test_an_older_attempt_does_not_take_it_back(self, side: Side) -> None:
        exchange = side.open()
        await side.frames(started(1, 2, "w2", "i2"), delta(1, 1, attempt=2))
        assert (await side.ask(1, 1)).verdict != GONE, "`gone` would acknowledge the message under the newer attempt"
        assert exchange.fence is not None
        assert not exchange.ended
        await side.frames(started(1, 1))
        assert await side.told() == [("w1", STALE, 1, 1, 0)]


class TestClosing:
    async def test_a_running_request_is_cancelled(self, side: Side) -> None:
        exchange = side.open()
        await side.frames(started(1))
        exchange.close()
        assert await side.told() == [("w1", CANCEL, 1, 1, 0)]

    async def test_a_queued_request_that_was_cancelled_is_dropped_when_it_starts(self, side: Side) -> None:
        """Not `cancel`: that it was cancelled has been told."""
        side.open().cancel()
        assert await side.told() == []
        await side.frames(started(1))
        assert await side.told() == [("w1", DROP, 1, 1, 0)]

    async def test_a_deadline_is_told_as_one(self, side: Side) -> None:
        exchange = side.asker.open(request_id="r", tenant="dev", pool="m", deadline_s=0.01)
        await side.frames(started(1))
        with pytest.raises(DeadlineWhileRunning):
            await read(exchange)
        exchange.close()
        assert await side.told() == [("w1", EXPIRE, 1, 1, 0)]

    async def test_a_client_too_slow_for_its_stream_is_freed_without_its_reader(self, side: Side) -> None:
        exchange, freed = side.open(), []
        exchange.on_closed(lambda: freed.append(True))
        await side.frames(started(1), delta(1, 1, data=b"x" * MAX_BUFFER_BYTES), delta(1, 2))
        assert await side.told() == [("w1", CANCEL, 1, 1, 0)]
        assert (side.asker.exchanges, freed) == ([], [True])
        with pytest.raises(SlowClient):
            await read(exchange)

    async def test_how_the_last_requests_ended_is_remembered(self, side: Side) -> None:
        side.open("gone").cancel()
        done = side.open("done")
        assert side.asker.state_of("dev", "done") == "queued"
        await side.frames(started(2), finished(2, 1))
        assert side.asker.state_of("dev", "done") == "completed"
        done.close()
        assert side.asker.state_of("dev", "done") == "completed"
        assert side.asker.state_of("dev", "gone") == "cancelled"
        assert side.asker.state_of("other", "gone") is None
        assert side.asker.state_of("dev", "never") is None

    async def test_a_lost_cancel_is_said_again(self, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
        exchange = side.open()
        await side.frames(started(1))
        exchange.close()
        await side.told()
        await side.frames(delta(1, 1))
        assert await side.told() == [], "the cancel is on its way"
        monkeypatch.setattr(asker_module, "_STRAY_S", -1.0)
        await side.frames(delta(1, 2))
        assert set(await side.told()) == {("w1", CANCEL, 1, 1, 0), ("w2", CANCEL, 1, 1, 0)}

    async def test_strays_do_not_pile_up(self, side: Side) -> None:
        for tag in range(asker_module._MAX_STRAYS + 10):
            await side.frames(delta(tag, 1))
        assert len(side.asker._strays) <= asker_module._MAX_STRAYS

    async def test_nothing_is_kept_of_closed_requests(self, side: Side) -> None:
        exchanges = [side.open(f"r{n}") for n in range(100)]
        assert side.asker.find("dev", "r7") is exchanges[7]
        for exchange in exchanges:
            exchange.close()
        assert side.asker.exchanges == []
        assert side.asker.find("dev", "r7") is None
        assert side.asker._by_id == {}

    async def test_a_second_request_with_the_same_id_survives_the_first(self, side: Side) -> None:
        first, second = side.open("same"), side.open("same")
        first.close()
        assert side.asker.find("dev", "same") is second

    async def test_stop_cancels_what_runs(self) -> None:
        side = Side()
        await side.asker.start()
        exchange = side.open()
        await side.frames(started(1))
        await side.asker.stop()
        assert await side.told() == [("w1", CANCEL, 1, 1, 0)]
        with pytest.raises(Cancelled):
            await read(exchange)


async def test_after_a_reconnect_everything_open_is_asked_for(side: Side) -> None:
    side.open("queued")
    side.open("running")
    await side.frames(started(2), delta(2, 1))
    await side.bus.reconnect()
    assert set(await side.told()) == {
        ("w1", RESEND, 1, 0, 0),
        ("w2", RESEND, 1, 0, 0),
        ("w1", RESEND, 2, 1, 2),
    }


async def test_unreadable_frames_are_dropped(side: Side) -> None:
    exchange = side.open()
    await side.bus.deliver(routes.step_of(side.asker.id), b"\xc1 no msgpack")
    await side.bus.deliver(routes.step_of(side.asker.id), b'{"stream":"INFER","seq":3}')  # a forged reply subject
    await side.frames(started(1), finished(1, 1))
    assert await read(exchange) == b""


async def test_control_is_one_message_per_worker_and_verb(side: Side) -> None:
    for n in range(50):
        side.open(f"r{n}")
        await side.frames(started(n + 1), finished(n + 1, 1))
    side.asker.flush_control()
    assert len([subject for subject, _ in side.bus.take() if subject.startswith("control.")]) == 1


def chaotic(frames: Sequence[Frame], order: list[int]) -> list[Frame]:
    """Pick frames by index, any number of times: lost, doubled and out of order."""
    return [frames[index % len(frames)] for index in order]


@settings(max_examples=150, deadline=None)
@given(count=st.integers(0, 12), order=st.lists(st.integers(0, 100), max_size=60))
def test_whatever_order_frames_come_in_the_reader_gets_each_once(count: int, order: list[int]) -> None:
    """The worker's part is played exactly: whatever is asked for again comes again."""

    async def main() -> None:
        side = Side()
        await side.asker.start()
        exchange = side.open()
        sent: list[Frame] = [started(1), *(delta(1, seq) for seq in range(1, count + 1)), finished(1, count + 1)]
        for frame in chaotic(sent, order):
            await side.frames(frame)
        await side.told()
        for _ in range(count + 3):  # the worker repeats its end until it is confirmed
            exchange.asked_again = (-1, 0.0)  # as after half a second
            await side.frames(sent[-1])
            told = await side.told()
            for _, verb, _, _, from_seq in told:
                if verb == RESEND:
                    await side.frames(*sent[from_seq:])
            if any(verb == CONFIRM for _, verb, *_ in told):
                break
        assert [await exchange.next()] == [Begun()]
        assert await read(exchange) == b"".join(b"%d." % seq for seq in range(1, count + 1))
        assert exchange.delivered_tokens == count
        exchange.close()
        await side.asker.stop()

    asyncio.run(main())

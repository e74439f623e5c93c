"""Exchange: what its one reader sees, whatever comes in."""

from __future__ import annotations

import asyncio

import pytest

from inferbus.answers.exchange import MAX_BUFFER_BYTES, Begun, Chunk, Ended, Exchange
from inferbus.contracts.step import Delta, Failed, Finished, Started, Usage
from inferbus.errors import (
    Cancelled,
    DeadlineWhileQueued,
    DeadlineWhileRunning,
    EngineDead,
    InferbusError,
    Overloaded,
    SlowClient,
)


def make(*, deadline_s: float = 30.0, closed: list[Exchange] | None = None) -> Exchange:
    seen = [] if closed is None else closed
    return Exchange(request_id="r", tag=1, tenant="dev", pool="m", deadline_s=deadline_s, on_close=seen.append)


def started(attempt: int = 1, incarnation: str = "i1") -> Started:
    return Started(1, attempt, 0, "$JS.ACK.x", "w", incarnation)


def delta(seq: int, data: bytes = b"x") -> Delta:
    return Delta(1, 1, seq, [(0, [seq])], data)


def finished(seq: int, data: bytes = b"") -> Finished:
    return Finished(1, 1, seq, 200, Usage(1, 2), data, "text/event-stream")


async def test_a_streamed_answer_is_begun_chunks_end() -> None:
    exchange = make()
    assert not exchange.started
    exchange.begin(started())
    exchange.feed(delta(1, b"a"))
    exchange.feed(delta(2, b"b"))
    assert await exchange.next() == Begun()
    assert await exchange.next() == Chunk(b"ab"), "what came together is read together"
    exchange.feed(delta(3, b"c"))
    exchange.feed(finished(4))
    assert await exchange.next() == Chunk(b"c")
    end = await exchange.next()
    assert end == Ended(200, Usage(1, 2), b"", "text/event-stream")
    assert await exchange.next() == end, "the end is read as often as one likes"
    exchange.close()


async def test_an_empty_delta_is_no_event_but_counts_as_delivered() -> None:
    exchange = make()
    exchange.begin(started())
    await exchange.next()
    exchange.feed(delta(1, b""))
    assert await exchange.next(0.01) is None
    assert exchange.delivered_tokens == 1
    exchange.close()


async def test_next_gives_none_at_the_timeout_and_goes_on() -> None:
    exchange = make()
    assert await exchange.next(0.01) is None
    reader = asyncio.create_task(exchange.next(5))
    await asyncio.sleep(0)
    exchange.begin(started())
    assert await reader == Begun()
    exchange.close()


async def test_a_cancelled_reader_loses_nothing() -> None:
    exchange = make()
    reader = asyncio.create_task(exchange.next(5))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    exchange.begin(started())
    assert await exchange.next() == Begun()
    exchange.close()


async def test_a_timeout_inside_a_cancelled_task_is_still_a_timeout() -> None:
    """Code that cleans up after its cancellation reads on; a timeout must not look like another cancellation."""
    exchange = make()
    outcome: list[object] = []

    async def read() -> None:
        try:
            await exchange.next(5)
        finally:
            outcome.append(await exchange.next(0.01))

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert outcome == [None]
    exchange.close()


async def test_cancellation_and_event_together_cancel() -> None:
    exchange = make()
    reader = asyncio.create_task(exchange.next(5))
    await asyncio.sleep(0)
    exchange.begin(started())
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await exchange.next() == Begun(), "and the event is there for the next reader"
    exchange.close()


async def test_an_error_comes_after_what_was_delivered_before_it() -> None:
    exchange = make()
    exchange.begin(started())
    exchange.feed(delta(1, b"a"))
    exchange.feed(Failed(1, 1, 2, "engine_dead", "boom"))
    assert [await exchange.next(), await exchange.next()] == [Begun(), Chunk(b"a")]
    with pytest.raises(EngineDead, match="boom"):
        await exchange.next()
    assert exchange.finished, "the worker said so itself: nobody needs to tell it"
    exchange.close()


async def test_an_unknown_error_code_is_an_internal_error() -> None:
    exchange = make()
    exchange.begin(started())
    exchange.feed(Failed(1, 1, 1, "of_tomorrow", "?"))
    await exchange.next()
    with pytest.raises(InferbusError) as caught:
        await exchange.next()
    assert caught.value.code == "internal"


@pytest.mark.parametrize(("begun", "error"), [(False, DeadlineWhileQueued), (True, DeadlineWhileRunning)])
async def test_the_deadline_says_whether_it_was_queued_or_running(begun: bool, error: type[InferbusError]) -> None:
    exchange = make(deadline_s=0.02)
    if begun:
        exchange.begin(started())
        await exchange.next()
    async with asyncio.timeout(2):
        with pytest.raises(error):
            await exchange.next()
    assert exchange.ended
    assert not exchange.finished
    exchange.close()


async def test_no_deadline_after_the_end() -> None:
    exchange = make()
    exchange.begin(started())
    assert not exchange._timer.cancelled()
    exchange.feed(finished(1))
    assert exchange._timer.cancelled()


async def test_a_reader_that_does_not_read_is_a_slow_client() -> None:
    exchange = make()
    exchange.begin(started())
    exchange.feed(delta(1, b"a" * MAX_BUFFER_BYTES))
    assert not exchange.ended
    exchange.feed(delta(2, b"b"))
    assert exchange.ended
    assert await exchange.next() == Begun()
    assert await exchange.next() == Chunk(b"a" * MAX_BUFFER_BYTES)
    with pytest.raises(SlowClient):
        await exchange.next()


async def test_reading_makes_room() -> None:
    exchange = make()
    exchange.begin(started())
    await exchange.next()
    for seq in range(1, 6):
        exchange.feed(delta(seq, b"a" * (MAX_BUFFER_BYTES // 2)))
        assert isinstance(await exchange.next(), Chunk)
    assert not exchange.ended
    exchange.close()


async def test_close_closes_once_and_tells_a_waiting_reader() -> None:
    closed: list[Exchange] = []
    told: list[str] = []
    exchange = make(closed=closed)
    exchange.on_closed(lambda: told.append("closed"))
    reader = asyncio.create_task(exchange.next())
    await asyncio.sleep(0)
    exchange.close()
    exchange.close()
    exchange.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(Cancelled):
            await reader
    assert closed == [exchange]
    assert told == ["closed"]


async def test_closing_after_the_end_keeps_the_end() -> None:
    exchange = make()
    exchange.begin(started())
    exchange.feed(finished(1, b"{}"))
    exchange.close()
    assert await exchange.next() == Begun()
    assert isinstance(await exchange.next(), Ended)


async def test_only_the_first_error_counts() -> None:
    exchange = make()
    exchange.fail(Overloaded("first"))
    exchange.fail(EngineDead("second"))
    with pytest.raises(Overloaded):
        await exchange.next()


async def test_after_an_end_frames_only_move_the_sequence() -> None:
    exchange = make()
    exchange.begin(started())
    exchange.fail(Overloaded("x"))
    exchange.feed(delta(1, b"late"))
    assert exchange.next_seq == 2
    await exchange.next()
    with pytest.raises(Overloaded):
        await exchange.next()


async def test_requeue_waits_for_a_later_attempt() -> None:
    exchange = make()
    exchange.begin(started(2))
    exchange.requeue()
    assert exchange.fence is None
    assert exchange.next_seq == 0
    assert exchange.is_given_up(started(2)), "the attempt that was given up"
    assert exchange.is_given_up(started(1)), "and any before it"
    assert not exchange.is_given_up(started(3))
    assert not exchange.is_given_up(started(2, "i2")), "a server that forgot the delivery numbers it anew"
    exchange.begin(started(3))
    assert await exchange.next() == Begun()
    assert await exchange.next(0.01) is None, "the reader is told only once"
    exchange.close()


async def test_who_waits_for_the_whole_answer_is_woken_by_its_end_only() -> None:
    exchange = make()
    reading = asyncio.create_task(exchange.whole())
    await asyncio.sleep(0)
    waiter = exchange._waiter
    assert waiter is not None
    exchange.begin(started())
    exchange.accepted()
    assert (waiter.done(), exchange.started) == (False, True)
    exchange.feed(finished(1, b"all"))
    assert (await asyncio.wait_for(reading, 5)).data == b"all"


async def test_the_whole_answer_passes_over_parts() -> None:
    exchange = make()
    reading = asyncio.create_task(exchange.whole())
    await asyncio.sleep(0)
    exchange.begin(started())
    exchange.feed(delta(1))
    await asyncio.sleep(0)
    exchange.feed(finished(2, b"all"))
    assert (await asyncio.wait_for(reading, 5)).data == b"all"


async def test_what_the_bus_refuses_ends_in_why() -> None:
    closed: list[Exchange] = []
    exchange = make(closed=closed)
    reading = asyncio.create_task(exchange.whole())
    await asyncio.sleep(0)
    exchange.refuse(Overloaded("the queue is full"))
    with pytest.raises(Overloaded, match="full"):
        await asyncio.wait_for(reading, 5)
    assert (closed, exchange.refused, exchange.finished) == ([exchange], True, False)

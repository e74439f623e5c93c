"""What was spent on a request: told by the engine where it can, counted where it streams, else not known."""

from __future__ import annotations

import pytest

from inferbus.contracts.step import Resume, Usage
from inferbus.errors import Cancelled
from inferbus.worker.engine_sink import EngineSink, Spent


class Frames:
    """Stands where the attempt would."""

    is_storing = False

    def delta(self, *_: object) -> None: ...

    def finished(self, *_: object) -> None: ...


def sink(*, streamed: bool = True) -> EngineSink:
    return EngineSink(Frames(), streamed=streamed)  # type: ignore[arg-type]  # the two calls it makes


async def test_what_never_reached_the_engine_cost_nothing() -> None:
    assert sink().spent() == Spent("queued", 0, 0)


@pytest.mark.parametrize("streamed", [True, False])
async def test_nothing_made_yet_is_prefill(streamed: bool) -> None:
    one = sink(streamed=streamed)
    one.begin(None)
    one.failed(Cancelled("x"), Usage(12, 0))
    assert one.spent() == Spent("prefill", 12, 0)


async def test_a_stream_is_counted_also_where_the_engine_says_nothing() -> None:
    one = sink()
    one.begin(None)
    one.delta([(0, [1, 2]), (1, [3])], b"x")
    one.failed(Cancelled("x"))
    assert one.spent() == Spent("decode", None, 3)


async def test_what_an_earlier_attempt_delivered_counts() -> None:
    one = sink()
    one.begin(Resume(ids=[(0, [1, 2, 3, 4])], chunks=[[4]]))
    one.delta([(0, [5])], b"x")
    one.failed(Cancelled("x"), Usage(12, 1))
    assert one.spent() == Spent("decode", 12, 5)


async def test_the_engine_knows_of_tokens_that_no_delta_brought_yet() -> None:
    one = sink(streamed=False)
    one.begin(None)
    one.failed(Cancelled("x"), Usage(12, 7))
    assert one.spent() == Spent("decode", 12, 7)
    assert one.spent().usage == Usage(12, 7)


async def test_an_engine_that_says_nothing_of_an_unstreamed_answer() -> None:
    one = sink(streamed=False)
    one.begin(None)
    one.failed(Cancelled("x"))
    assert one.spent() == Spent("prefill", None, None)
    assert one.spent().usage == Usage()


async def test_a_finished_answer_nobody_took_cost_what_it_says() -> None:
    one = sink(streamed=False)
    one.begin(None)
    one.finished(200, Usage(12, 7, 3), b"{}", "application/json")
    assert one.spent() == Spent("decode", 12, 7)

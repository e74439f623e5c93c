"""Asking a row: what is waited for, what is a result, and what stops the chunk. Admission and the bus are stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from inferbus.admission.admit import Admission, Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Exchange
from inferbus.batch.lines import Row
from inferbus.bus import Bus
from inferbus.contracts.batch import IN_PROGRESS, JobRecord
from inferbus.contracts.step import Finished, Usage
from inferbus.errors import Forbidden, InferbusError, InvalidRequest, NotFound, Overloaded, RateLimited
from inferbus_batch.asking import Asking, Given
from inferbus_batch.domain.row_end import RowEnd
from inferbus_batch.gate import Gate
from inferbus_batch.vector_rows import VectorRows

JOB = JobRecord(
    id="batch_1",
    tenant="dev",
    endpoint="/v1/completions",
    input_file_id="f",
    created=0,
    expires_at=9,
    state=IN_PROGRESS,
)
ROW = Row(line=7, custom_id="a", path="/v1/completions", task="completions", model="m", body=b"{}")


class Answers:
    """Admission that refuses, in order, and then has the row answered."""

    def __init__(self, *refusals: InferbusError) -> None:
        self._refusals = list(refusals)
        self.asked: list[Ask] = []

    async def admit(self, _: Identity, ask: Ask) -> Exchange:
        self.asked.append(ask)
        if self._refusals:
            raise self._refusals.pop(0)
        exchange = Exchange(
            request_id=ask.request_id or "", tag=1, tenant="dev", pool="m", deadline_s=60, on_close=lambda _: None
        )
        exchange.feed(Finished(1, 1, 1, 200, Usage(2, 3), b'{"ok":1}'))
        return exchange


async def ask(
    answers: Answers, gate: Gate | None = None, identity: Callable[[], Identity] | None = None
) -> RowEnd | None:
    asking = Asking(cast("Bus", None), cast("Admission", answers), cast("VectorRows", None), attempts=3)
    known = identity or (lambda: Identity(tenant="dev"))
    return await asyncio.wait_for(asking.end_of(Given(JOB, gate or Gate(), known, 60.0), ROW), 30)


async def test_a_row_is_a_durable_request_on_the_batch_lane() -> None:
    answers = Answers()
    end = await ask(answers)
    assert end is not None
    assert (end.request_id, end.outcome.status, end.outcome.body, end.attempts) == ("batch_1-7", 200, b'{"ok":1}', 1)
    (asked,) = answers.asked
    assert (asked.lane, asked.delivery, asked.request_id, asked.deadline_s) == ("batch", "results", "batch_1-7", 60.0)


async def test_a_full_queue_is_waited_for_and_is_no_attempt() -> None:
    answers = Answers(Overloaded("full", retry_after_s=0.01), RateLimited("minute", retry_after_s=0.01))
    end = await ask(answers)
    assert end is not None
    assert (end.outcome.status, end.attempts, len(answers.asked)) == (200, 1, 3)


@pytest.mark.parametrize("error", [NotFound("no model"), InvalidRequest("bad"), Forbidden("not this model")])
async def test_a_refusal_is_the_row_s_result(error: InferbusError) -> None:
    end = await ask(Answers(error))
    assert end is not None
    assert end.outcome.status == error.row.http_status
    assert end.outcome.failure is not None
    assert end.outcome.failure.code == error.code


async def test_a_limit_no_waiting_helps_with_is_a_result() -> None:
    error = RateLimited("more than the whole limit")
    error.hopeless = True
    end = await ask(Answers(error))
    assert end is not None
    assert end.outcome.status == 429


async def test_a_limit_that_takes_long_hands_the_chunk_back() -> None:
    gate = Gate()
    assert await ask(Answers(RateLimited("minute", retry_after_s=40.0)), gate) is None
    assert (gate.held, gate.again_s) == ("over_a_limit", 40.0)


async def test_a_submitter_who_may_not_any_more_is_no_row_s_fault() -> None:
    def identity() -> Identity:
        raise Forbidden("the key is gone")

    with pytest.raises(Forbidden):
        await ask(Answers(), identity=identity)


async def test_nothing_is_begun_behind_a_shut_gate() -> None:
    answers = Answers()
    for shut in (lambda gate: gate.hold("paused"), lambda gate: gate.end("cancelled")):
        gate: Any = Gate()
        shut(gate)
        assert await ask(answers, gate) is None
    assert answers.asked == []

"""Whatever came of a chunk's rows, each of its lines has exactly one result, with its number and its reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.batch.lines import Row
from inferbus.contracts.batch import CANCELLED, EXPIRED, FAILED, IN_PROGRESS, JobRecord, LineFault
from inferbus.contracts.durable import Failure, Outcome
from inferbus.contracts.step import Usage
from inferbus_batch.chunk_input import ChunkLines
from inferbus_batch.chunk_output import results_of
from inferbus_batch.domain.row_end import RowEnd, backoff_s, is_of_the_moment, spent_by

JOB = JobRecord(
    id="batch_1",
    tenant="dev",
    endpoint="/v1/completions",
    input_file_id="f",
    created=0,
    expires_at=9,
    state=IN_PROGRESS,
)
GOOD = Outcome(status=200, usage=Usage(3, 4, 1), body=b'{"x":1}')
BAD = Outcome(status=400, usage=Usage(3, 0), body=b'{"error":1}')
DEAD = Outcome(status=503, failure=Failure("engine_dead", "it died"))
KINDS = ["good", "bad", "dead", "fault", "unasked"]


def chunk_of(kinds: list[str], first: int) -> tuple[ChunkLines, dict[int, RowEnd]]:
    lines, ends = ChunkLines([], {}, {}, {}), dict[int, RowEnd]()
    for number, kind in enumerate(kinds, first):
        lines.lines.append(number)
        lines.originals[number] = b'{"custom_id":"%d"}' % number
        if kind == "fault":
            lines.faults[number] = LineFault(number, "invalid_request", "no JSON")
            continue
        row = Row(line=number, custom_id=str(number), path="/", task="completions", model="m", body=b"{}")
        lines.rows[number] = row
        if kind != "unasked":
            outcome = {"good": GOOD, "bad": BAD, "dead": DEAD}[kind]
            ends[number] = RowEnd(request_id=f"batch_1-{number}", outcome=outcome, attempts=2, wasted=5)
    return lines, ends


@given(st.lists(st.sampled_from(KINDS)), st.integers(1, 10**9), st.sampled_from([EXPIRED, CANCELLED, FAILED]))
def test_each_line_has_one_result(kinds: list[str], first: int, ending: str) -> None:
    lines, ends = chunk_of(kinds, first)
    results = results_of(JOB, lines, ends, ending=ending)
    answered = [json.loads(one) for one in results.answers]
    found = {int(one["custom_id"]): "good" for one in answered}
    codes = {"http_400": "bad", "engine_dead": "dead", "invalid_request": "fault", f"batch_{ending}": "unasked"}
    for dead in results.dead:
        assert dead.line not in found, "a second result"
        found[dead.line] = codes[dead.code]
        assert (dead.custom_id, dead.original) == (str(dead.line), f'{{"custom_id":"{dead.line}"}}')
        assert dead.attempts == (2 if dead.line in ends else 0)
    assert found == dict(enumerate(kinds, first))
    assert all(one["response"]["request_id"] == f"batch_1-{one['custom_id']}" for one in answered)
    spent = spent_by(list(ends.values()))
    good, bad = kinds.count("good"), kinds.count("bad")
    assert (spent.prompt_tokens, spent.completion_tokens) == (3 * (good + bad), 4 * good)
    assert spent.wasted_tokens == 5 * len(ends)


def test_a_chunk_that_fails_always_says_so_of_each_row() -> None:
    lines, ends = chunk_of(["good", "unasked"], 1)
    results = results_of(JOB, lines, ends, failure="it failed 25 times")
    assert len(results.answers) == 1
    assert [(dead.line, dead.code, dead.message) for dead in results.dead] == [(2, "internal", "it failed 25 times")]


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (GOOD, False), (BAD, False), (DEAD, True), (Outcome(status=500), True), (Outcome(status=429), True),
        (Outcome(status=503, failure=Failure("deadline_queued", "")), True),
        (Outcome(status=500, failure=Failure("poison", "")), False),
        (Outcome(status=429, failure=Failure("rate_limit_exceeded", "")), False),
        (Outcome(status=499, failure=Failure("cancelled", "")), False),
        (Outcome(status=500, failure=Failure("of tomorrow", "")), False),
    ],
)  # fmt: skip
def test_what_is_asked_again(outcome: Outcome, again: bool) -> None:
    assert is_of_the_moment(outcome) == again


def test_attempts_come_less_and_less_often() -> None:
    assert all(0.25 <= backoff_s(1) <= 0.5 for _ in range(100))
    assert all(15 <= backoff_s(20) <= 30 for _ in range(100))

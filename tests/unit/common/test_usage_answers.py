"""Answers to events of usage: whose each is, and that a subject comes again only where nothing can be on its way to it."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.bus.pub_ack import PubAck
from inferbus.contracts.usage import UsageEvent
from inferbus.errors import DependencyDown
from inferbus.ledger.usage_log import Record, Tokens

EVENT = cast(UsageEvent, None)


@given(st.lists(st.sampled_from(("take", "answer oldest", "answer newest", "lose"))))
def test_a_token_is_nobody_else_s_while_an_answer_may_come(steps: list[str]) -> None:
    tokens, unanswered, late = Tokens(), [], set()
    for step in steps * 20:
        if step == "take":
            token = tokens.take()
            assert token not in unanswered
            assert token not in late
            unanswered.append(token)
        elif step == "lose":
            late.update(unanswered)
            unanswered.clear()
            tokens.begin_anew()
        elif unanswered:
            tokens.answered(unanswered.pop(0 if step == "answer oldest" else -1))


def test_a_token_comes_again_after_many_others() -> None:
    tokens, seen = Tokens(), []
    for _ in range(600):
        seen.append(tokens.take())
        tokens.answered(seen[-1])
    assert len(set(seen)) == 256
    assert seen[:256] == seen[256:512]


def test_what_is_not_answered_is_not_taken_again() -> None:
    tokens = Tokens()
    assert len({tokens.take() for _ in range(1000)}) == 1000


async def test_the_first_answer_counts() -> None:
    record = Record("n", EVENT, "t")
    waiting = asyncio.create_task(record.wait(5))
    await asyncio.sleep(0)
    record.answered(PubAck(seq=3))
    record.answered(DependencyDown("the bus connection was lost"))
    assert (await waiting).seq == 3
    assert (await record.wait(5)).seq == 3


async def test_no_answer_in_time_is_an_error_and_a_later_one_changes_nothing() -> None:
    record = Record("n", EVENT, "t")
    with pytest.raises(DependencyDown, match="not stored within"):
        await record.wait(0.01)
    record.answered(PubAck(seq=3))
    with pytest.raises(DependencyDown, match="not stored within"):
        await record.wait(0.01)


async def test_who_waits_may_be_cancelled() -> None:
    record = Record("n", EVENT, "t")
    waiting = asyncio.create_task(record.wait(5))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    record.answered(PubAck(seq=4))
    assert (await record.wait(5)).seq == 4

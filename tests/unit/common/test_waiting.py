"""Waiting: every question is answered once, whatever comes: its answer, nobody, the end of its time or of the connection."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from inferbus.bus.waiting import NoResponders, NotPermitted, Waiting
from inferbus.errors import DependencyDown

Answer = Msg | DependencyDown


def message(data: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
    return Msg(Client(), "inbox", "", data, headers)


@pytest.fixture
async def waiting() -> Waiting:
    return Waiting()


async def test_an_answer_is_given_once(waiting: Waiting) -> None:
    answers: list[Answer] = []
    token = waiting.add("a.b", answers.append, 60)
    waiting.answer(token, answer := message(b"1"))
    waiting.answer(token, message(b"2"))
    waiting.fail(DependencyDown("lost"))
    assert answers == [answer]
    assert not waiting


async def test_nobody_there_is_an_error(waiting: Waiting) -> None:
    answers: list[Answer] = []
    waiting.answer(waiting.add("a.b", answers.append, 60), message(headers={"Status": "503"}))
    (error,) = answers
    assert isinstance(error, NoResponders)
    assert "a.b" in error.message


async def test_time_is_over_once(waiting: Waiting) -> None:
    over: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    waiting.add("a.b", over.set_result, 0.001)
    error = await asyncio.wait_for(over, 5)
    assert isinstance(error, DependencyDown)
    assert error.message == "no answer on a.b within 0.001 s"
    assert not waiting


async def test_who_is_forgotten_hears_nothing(waiting: Waiting) -> None:
    answers: list[Answer] = []
    token = waiting.add("a.b", answers.append, 60)
    waiting.forget(token)
    waiting.forget(token)
    waiting.answer(token, message())
    waiting.fail(DependencyDown("lost"))
    assert answers == []


async def test_an_error_of_one_subject_ends_those_that_asked_there(waiting: Waiting) -> None:
    there: list[Answer] = []
    elsewhere: list[Answer] = []
    waiting.add("A.b", there.append, 60)
    waiting.add("c", elsewhere.append, 60)
    waiting.fail(NotPermitted("no"), "a.b")
    assert [type(error) for error in there] == [NotPermitted]
    assert (elsewhere, len(waiting)) == ([], 1)


async def test_who_asks_again_when_the_connection_ends_is_not_ended_with_the_others(waiting: Waiting) -> None:
    answers: list[Answer] = []

    def again(error: Answer) -> None:
        answers.append(error)
        waiting.add("a.b", answers.append, 60)

    waiting.add("a.b", again, 60)
    waiting.fail(DependencyDown("lost"))
    assert (len(answers), len(waiting)) == (1, 1)

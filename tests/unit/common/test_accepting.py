"""Accepting: nobody waits, and whoever wants to know is told once, what `Bus.accept` would have given or raised."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from inferbus.bus import Bus
from inferbus.bus.accepting import Accepting
from inferbus.bus.waiting import Answered, NotPermitted
from inferbus.errors import DependencyDown, InferbusError, TenantOverloaded, TooLarge

STORED = b'{"stream":"S","seq":7}'
FULL = b'{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"}}'
Answer = bytes | DependencyDown


class FakeBus:
    """Answers with what it is given, one thing after the other. What is to be raised is raised at once."""

    def __init__(self, *answers: Answer | Exception, away: int = 0) -> None:
        self.answers = list(answers)
        self.away = away
        self.asked: list[tuple[str, bytes, dict[str, str]]] = []

    def ask(
        self, subject: str, data: bytes, headers: dict[str, str], answered: Answered, *, timeout_s: float
    ) -> str:  # the bus's own signature, as far as it is used
        assert timeout_s > 0
        if self.away:
            self.away -= 1
            raise DependencyDown("the bus is not reachable")
        answer = self.answers.pop(0)
        self.asked.append((subject, data, dict(headers)))
        if isinstance(answer, DependencyDown | bytes):
            given = Msg(Client(), "inbox", "", answer) if isinstance(answer, bytes) else answer
            asyncio.get_running_loop().call_soon(answered, given)
            return "token"
        raise answer


async def told(bus: FakeBus, *, hold_s: float = 5.0) -> int | InferbusError:
    heard: asyncio.Future[int | InferbusError] = asyncio.get_running_loop().create_future()
    headers = {"Ib-Tag": "1"}
    Accepting(
        cast("Bus", bus), "infer.x", b"body", headers, heard.set_result, msg_id="dev:r", ttl_s=9, hold_s=hold_s
    ).begin()
    result = await asyncio.wait_for(heard, 10)  # a second call would raise in the loop
    await asyncio.sleep(0)
    assert headers == {"Ib-Tag": "1"}
    return result


SENT = ("infer.x", b"body", {"Ib-Tag": "1", "Nats-Msg-Id": "dev:r", "Nats-TTL": "9"})


async def test_what_is_stored_is_told_by_its_sequence() -> None:
    bus = FakeBus(STORED)
    assert await told(bus) == 7
    assert bus.asked == [SENT]


async def test_what_nobody_answered_is_sent_again_under_its_name() -> None:
    bus = FakeBus(DependencyDown("no answer"), b"not json", STORED)
    assert await told(bus) == 7
    assert bus.asked == [SENT] * 3


async def test_a_bus_that_is_away_is_waited_for() -> None:
    bus = FakeBus(STORED, away=2)
    assert await told(bus) == 7
    assert bus.asked == [SENT]


async def test_a_bus_that_stays_away_ends_it_when_it_was_held_long_enough() -> None:
    assert isinstance(await told(FakeBus(away=100), hold_s=0.12), DependencyDown)


@pytest.mark.parametrize(
    ("answer", "kind"), [(FULL, TenantOverloaded), (NotPermitted("not there"), NotPermitted)], ids=["full", "forbidden"]
)
async def test_a_refusal_is_told_at_once(answer: Answer, kind: type[InferbusError]) -> None:
    bus = FakeBus(answer)
    assert type(await told(bus)) is kind
    assert len(bus.asked) == 1


async def test_what_cannot_be_sent_is_raised_and_told_to_nobody() -> None:
    with pytest.raises(TooLarge):
        await told(FakeBus(TooLarge("9 bytes")))


async def test_what_can_no_longer_be_sent_is_told() -> None:
    assert isinstance(await told(FakeBus(DependencyDown("no answer"), TooLarge("9 bytes"))), TooLarge)

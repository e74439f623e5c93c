"""The SDK: which error a status and body become, and parts of an answer out of order."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from inferbus import replies
from inferbus.client import Client
from inferbus.errors import (
    ERROR_TABLE,
    DeadlineWhileQueued,
    EngineDead,
    Forbidden,
    InferbusError,
    InvalidRequest,
    NotFound,
    RateLimited,
    TenantOverloaded,
    TooLarge,
    error_from,
    openai_body,
)


@pytest.mark.parametrize("code", sorted(ERROR_TABLE))
def test_our_own_errors_come_back_as_themselves(code: str) -> None:
    error = error_from(code, "why")
    error.param = "model"
    body = msgspec.json.encode(openai_body(error))
    back = replies.error_of(replies.Reply(error.row.http_status, body, end=True))
    assert (type(back), back.message, back.param) == (type(error), "why", "model")


@pytest.mark.parametrize(
    ("status", "body", "cls"),
    [
        (400, b'{"error":{"message":"m","type":"BadRequestError","code":400}}', InvalidRequest),
        (404, b'{"error":{"message":"m","code":404}}', NotFound),
        (403, b'{"error":{"message":"m","code":null}}', Forbidden),
        (413, b'{"error":{"message":"m"}}', TooLarge),
        (429, b'{"error":{"message":"m","code":"slow_down"}}', TenantOverloaded),
        (429, b'{"error":{"message":"m","code":"rate_limit_exceeded"}}', RateLimited),
        (418, b'{"error":{"message":"m"}}', InvalidRequest),
        (500, b'{"error":{"message":"m"}}', InferbusError),
        (502, b"<html>", InferbusError),
        (500, b"", InferbusError),
    ],
)
def test_an_engine_s_errors_are_known_by_their_status(status: int, body: bytes, cls: type[InferbusError]) -> None:
    assert type(replies.error_of(replies.Reply(status, body, end=True))) is cls


def part(seq: int, data: bytes = b"{}") -> tuple[int, replies.Reply]:
    return seq, replies.Reply(200, data, end=False)


class TestParts:
    async def got(self, *parts: tuple[int, replies.Reply], expected: int, within_s: float = 5.0) -> replies.Reply:
        queue: asyncio.Queue[tuple[int, replies.Reply]] = asyncio.Queue()
        for one in parts:
            queue.put_nowait(one)
        return await replies.part(queue, expected, time.monotonic() + within_s)

    async def test_in_order(self) -> None:
        assert (await self.got(part(3, b"x"), expected=3)).data == b"x"

    async def test_a_lost_part_is_an_error(self) -> None:
        with pytest.raises(InferbusError, match="lost"):
            await self.got(part(4), expected=3)

    async def test_an_answer_begun_anew_is_not_joined_to_the_old_one(self) -> None:
        with pytest.raises(EngineDead, match="anew"):
            await self.got(part(0), expected=3)

    async def test_silence_ends_at_the_deadline(self) -> None:
        with pytest.raises(DeadlineWhileQueued):
            await self.got(expected=0, within_s=0.01)
        with pytest.raises(DeadlineWhileQueued):
            await self.got(expected=0, within_s=-1)


def test_a_tenant_is_checked_before_anything_is_sent() -> None:
    with pytest.raises(InvalidRequest):
        Client(tenant="a.b")


async def test_without_a_connection_the_error_says_how() -> None:
    with pytest.raises(InferbusError, match="async with"):
        await Client().chat("m", [])

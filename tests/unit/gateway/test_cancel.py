"""POST /v1/requests/{id}/cancel, and who is asked when a request is not here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from nats.aio.msg import Msg
from tests.unit.common.fakes import FakeBus, FakePresence, gateway
from tests.unit.gateway.fakes import Door

from inferbus import routes
from inferbus.answers.asker import Asker
from inferbus.answers.exchange import Exchange
from inferbus.errands import Errands
from inferbus.errors import Cancelled, DependencyDown, NotFound
from inferbus_gateway.cancelling import Cancelling

PATH = "/v1/requests/r1/cancel"


async def test_a_cancelled_request_says_so_as_often_as_one_asks(door: Door) -> None:
    door.canceller.states["dev", "r1"] = "cancelled"
    for _ in range(2):
        call = await door.post(PATH, b"").done()
        assert call.status == 200
        assert msgspec.json.decode(call.body) == {"id": "r1", "object": "inferbus.request", "status": "cancelled"}


async def test_another_tenant_s_request_is_not_there(door: Door) -> None:
    door.canceller.states["other", "r1"] = "cancelled"
    call = await door.post(PATH, b"").done()
    assert (call.status, call.error["code"], call.error["param"]) == (404, "not_found", "request_id")


@pytest.mark.parametrize("path", ["/v1/requests/r%201/cancel", "/v1/requests/a.b/cancel", "/v1/requests/*/cancel"])
async def test_an_id_that_can_be_none_is_not_there(door: Door, path: str) -> None:
    assert (await door.post(path, b"").done()).status == 404


async def test_without_a_key_nobody_cancels(door: Door) -> None:
    assert (await door.call("POST", PATH, b"", {}).done()).status == 401


async def test_reading_there_is_no_method(door: Door) -> None:
    assert (await door.get(PATH).done()).status == 405


class AnsweringBus(FakeBus):
    """A bus on which one other gateway answers, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: str | None = None
        self.asked: list[str] = []

    async def request(self, subject: str, data: bytes = b"", *, timeout_s: float = 2.0) -> Msg:
        self.asked.append(subject)
        if self.answer is None:
            raise DependencyDown("no answer")
        return Msg(None, "", "", msgspec.json.encode(self.answer))  # type: ignore[arg-type]  # nobody acknowledges it

    def is_inbox(self, subject: str) -> bool:
        return subject.startswith("_INBOX_gateway.")


class Shelf:
    """Stands for what was relayed under other ids, and for what is kept."""

    def __init__(self) -> None:
        self.relayed: dict[tuple[str, str], Exchange] = {}
        self.remembered: list[tuple[str, str]] = []
        self.orphans: set[tuple[str, str]] = set()
        self.states: dict[tuple[str, str], str] = {}

    def find(self, tenant: str, request_id: str) -> Exchange | None:
        return self.relayed.get((tenant, request_id))

    def remember_cancel(self, tenant: str, request_id: str) -> None:
        self.remembered.append((tenant, request_id))

    async def cancel_orphan(self, tenant: str, request_id: str, *, tell: bool = True) -> bool:
        found = (tenant, request_id) in self.orphans
        self.orphans.discard((tenant, request_id))
        if found:
            self.states[tenant, request_id] = "cancelled"
        return found

    async def state_of(self, tenant: str, request_id: str) -> str | None:
        return self.states.get((tenant, request_id))


class Side:
    def __init__(self) -> None:
        self.bus = AnsweringBus()
        self.presence = FakePresence()
        self.asker = Asker(self.bus, self.presence)  # type: ignore[arg-type]  # ports in memory
        self.presence.beats["gw"] = gateway(self.asker.id)
        self.shelf = Shelf()
        self.errands = Errands()
        self.cancelling = Cancelling(
            self.bus, self.asker, self.presence, self.shelf, self.shelf, self.errands  # type: ignore[arg-type]
        )  # fmt: skip

    def open(self, request_id: str) -> Exchange:
        return self.asker.open(request_id=request_id, tenant="dev", pool="m", deadline_s=30)

    async def heard(self, request_id: str, *, reply: str = "") -> None:
        await self.bus.deliver(routes.CANCEL_ALL.replace("*.*", f"dev.{request_id}"), b"", reply=reply)


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    side = Side()
    await side.cancelling.start()
    callback = side.bus._subscribers.pop(routes.CANCEL_ALL)
    side.bus._subscribers[routes.cancel("dev", "*")] = callback
    yield side
    await side.errands.stop()


async def test_what_is_here_is_cancelled_here_and_stays_so(side: Side) -> None:
    exchange = side.open("r1")
    assert await side.cancelling.cancel("dev", "r1") == "cancelled"
    assert isinstance(exchange.error, Cancelled)
    assert await side.cancelling.cancel("dev", "r1") == "cancelled"
    assert side.bus.asked == []


async def test_the_id_counts_that_the_producer_gave(side: Side) -> None:
    side.shelf.relayed["dev", "mine"] = side.open("mine.2")
    assert await side.cancelling.cancel("dev", "mine") == "cancelled"


async def test_another_tenant_s_is_not_found_and_goes_on(side: Side) -> None:
    exchange = side.open("r1")
    with pytest.raises(NotFound):
        await side.cancelling.cancel("other", "r1")
    assert not exchange.ended
    exchange.close()


async def test_alone_nobody_else_is_asked(side: Side) -> None:
    with pytest.raises(NotFound):
        await side.cancelling.cancel("dev", "never")
    assert side.bus.asked == []


async def test_another_gateway_is_asked_and_believed(side: Side) -> None:
    side.presence.beats["gw-1"] = msgspec.structs.replace(gateway("other"), process="gw-1")
    side.bus.answer = "completed"
    assert await side.cancelling.cancel("dev", "r1") == "completed"
    assert side.bus.asked == [routes.cancel("dev", "r1")]
    side.bus.answer = None
    with pytest.raises(NotFound):
        await side.cancelling.cancel("dev", "r1")


async def test_what_outlived_its_gateway_is_cancelled_once_and_known(side: Side) -> None:
    side.shelf.orphans.add(("dev", "r1"))
    assert await side.cancelling.cancel("dev", "r1") == "cancelled"
    assert await side.cancelling.cancel("dev", "r1") == "cancelled"


async def test_a_gateway_that_lives_and_says_nothing_is_to_be_asked_again(side: Side) -> None:
    side.shelf.states["dev", "r1"] = "running"
    with pytest.raises(DependencyDown, match="did not answer"):
        await side.cancelling.cancel("dev", "r1")


async def test_a_gateway_gets_an_answer_and_a_producer_none(side: Side) -> None:
    """A producer may name any subject; we would publish there with our rights."""
    exchange = side.open("r1")
    await side.heard("r1", reply="control.llm-0.cancel")
    assert exchange.ended
    assert [subject for subject, _ in side.bus.take()] == []
    await side.heard("r1", reply="_INBOX_gateway.x.1")
    assert side.bus.take() == [("_INBOX_gateway.x.1", b'"cancelled"')]


async def test_what_nobody_has_may_still_come_to_the_door(side: Side) -> None:
    side.shelf.orphans.add(("dev", "late"))
    await side.heard("late")
    assert side.shelf.remembered == [("dev", "late")]
    await side.errands.stop()
    assert side.shelf.states == {("dev", "late"): "cancelled"}


async def test_an_end_that_came_first_is_told(side: Side) -> None:
    exchange = side.open("r1")
    exchange.fail(DependencyDown("boom"))
    assert await asyncio.wait_for(side.cancelling.cancel("dev", "r1"), 1) == "failed"
    exchange.close()

"""Where a request stands: own ones in order, others in proportion, lanes apart, no faster than counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inferbus.admission.bounds import Bounds
from inferbus.answers.exchange import Exchange
from inferbus.contracts.models import Limits
from inferbus.contracts.step import Started
from inferbus_gateway import queue_view
from inferbus_gateway.queue_view import QueueView


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Queue:
    """Open requests of one gateway, and what workers say waits in all."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.exchanges: list[Exchange] = []
        self.reported: dict[tuple[str, str], int] = {}
        self.bounds = Bounds()
        self.counts = 0
        self.view = QueueView(self._open, self, self.bounds)  # type: ignore[arg-type]  # `queued` is all it reads

    def _open(self) -> list[Exchange]:
        self.counts += 1
        return self.exchanges

    def queued(self, pool: str, lane: str) -> int:
        return self.reported.get((pool, lane), 0)

    def add(self, *, pool: str = "m", lane: str = "interactive", running: bool = False) -> Exchange:
        tag = len(self.exchanges) + 1
        exchange = Exchange(
            request_id=f"r{tag}", tag=tag, tenant="dev", pool=pool, deadline_s=60, on_close=lambda _: None, lane=lane
        )
        if running:
            exchange.begin(Started(tag, 1, 0, "ack", "w", "i"))
        self.exchanges.append(exchange)
        self.clock.now += 1
        return exchange

    def position(self, exchange: Exchange) -> int:
        return self.view.place_of(exchange).position


@pytest.fixture
async def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    clock = Clock()
    monkeypatch.setattr(queue_view, "time", clock)
    monkeypatch.setattr("inferbus.admission.bounds.time", clock)
    return Queue(clock)


@pytest.fixture(autouse=True)
def closed(queue: Queue) -> Iterator[None]:
    yield
    for exchange in queue.exchanges:
        exchange.close()


async def test_own_requests_stand_in_order_and_running_ones_do_not_count(queue: Queue) -> None:
    queue.add(running=True)
    first, second, third = queue.add(), queue.add(), queue.add()
    queue.add(pool="other")
    assert [queue.position(one) for one in (first, second, third)] == [1, 2, 3]
    first.begin(Started(first.tag, 1, 0, "ack", "w", "i"))
    queue.clock.now += 1
    assert [queue.position(one) for one in (second, third)] == [1, 2]


async def test_of_others_the_same_part_is_ahead_as_of_our_own(queue: Queue) -> None:
    own = [queue.add() for _ in range(4)]
    queue.reported["m", "interactive"] = 44
    assert [queue.position(one) for one in own] == [11, 22, 33, 44]


async def test_alone_all_others_are_ahead(queue: Queue) -> None:
    queue.reported["m", "interactive"] = 7
    assert queue.position(queue.add()) == 7


async def test_a_report_older_than_our_own_requests_is_no_less_than_they_are(queue: Queue) -> None:
    own = [queue.add() for _ in range(3)]
    queue.reported["m", "interactive"] = 1
    assert queue.position(own[2]) == 3


async def test_a_report_may_count_ours_that_have_just_begun(queue: Queue) -> None:
    own = [queue.add() for _ in range(6)]
    queue.reported["m", "interactive"] = 6
    assert queue.position(own[5]) == 6
    for begun in own[:2]:
        begun.begin(Started(begun.tag, 1, 0, "ack", "w", "i"))
    queue.clock.now += 0.6
    assert queue.position(own[5]) == 4, "not six, though the workers have not said so yet"


async def test_batch_stands_behind_interactive_and_does_not_delay_it(queue: Queue) -> None:
    batch = [queue.add(lane="batch") for _ in range(5)]
    interactive = queue.add()
    queue.reported = {("m", "interactive"): 3, ("m", "batch"): 5}
    assert queue.position(interactive) == 3
    assert queue.position(batch[0]) == 3 + 1


async def test_the_wait_is_as_long_as_our_own_requests_take_to_end(queue: Queue) -> None:
    own = [queue.add() for _ in range(3)]
    assert queue.view.place_of(own[1]).expected_wait_s is None, "nothing has ended yet"
    for _ in range(10):
        queue.bounds.take("m", "dev", Limits())
        queue.clock.now += 0.5
        queue.bounds.give("m", "dev")
    assert [queue.view.place_of(one).expected_wait_s for one in own] == [0.5, 1.0, 1.5]


async def test_many_streams_share_one_count(queue: Queue) -> None:
    own = [queue.add() for _ in range(100)]
    for exchange in own:
        queue.position(exchange)
    assert queue.counts == 1
    late = queue.add()
    queue.clock.now -= 1  # between two counts
    assert queue.position(late) == 101, "it is behind all that were counted"

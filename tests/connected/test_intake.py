"""Intake: exactly the free slots, every message dealt with once or handed back, whatever happens in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg
from tests.connected.conftest import MODEL, Connect, barrier
from tests.connected.proxy import Proxy

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts import dead_letter
from inferbus.contracts.envelope import Envelope, envelope_from, headers_of
from inferbus.errors import Cancelled, DependencyDown, InvalidRequest, Overloaded
from inferbus.queue.delivery import Delivery
from inferbus.queue.intake import Intake, IntakeSettings
from inferbus.queue.slots import Slots
from inferbus.testing import NatsServer, eventually
from inferbus.topology.configs import ACK_WAIT_S

INTERACTIVE, BATCH = routes.LANES


class Bench:
    """Publishes work and pulls it with intakes whose handler the test steers."""

    def __init__(self, gateway: Bus, worker: Bus) -> None:
        self.gateway = gateway
        self.worker = worker
        self.seen: list[Delivery] = []
        self.running: dict[str, int] = dict.fromkeys(routes.LANES, 0)
        self.most: dict[str, int] = dict.fromkeys([*routes.LANES, "all"], 0)
        self.gate = asyncio.Event()
        self.gate.set()
        self.intakes: list[Intake] = []
        self._published = 0

    async def publish(self, count: int = 1, *, lane: str = INTERACTIVE, headers: dict[str, str] | None = None) -> None:
        subject = routes.infer(region="local", runtime="llm", pool="m", lane=lane, bucket=0, tenant="dev")
        for _ in range(count):
            self._published += 1
            n = self._published
            await self.gateway.accept(subject, b"%d" % n, headers or {}, msg_id=f"{n}", hold_s=10)

    async def intake(
        self,
        slots: Slots,
        handle: Callable[[Delivery], Awaitable[None]] | None = None,
        *,
        lane: str = INTERACTIVE,
        ack_wait_s: float = ACK_WAIT_S,
        bus: Bus | None = None,
    ) -> Intake:
        settings = IntakeSettings(
            stream=routes.stream_infer("local", "llm", lane),
            consumer=routes.durable_worker("m", 0),
            lane=lane,
            ack_wait_s=ack_wait_s,
        )
        intake = Intake(bus or self.worker, settings, slots, handle or self.work)
        self.intakes.append(intake)
        await intake.start()
        return intake

    async def work(self, delivery: Delivery) -> None:
        """Count, wait for the gate, ack."""
        lane = routes.parse_infer(delivery.subject).lane
        self.seen.append(delivery)
        self.running[lane] += 1
        self.most[lane] = max(self.most[lane], self.running[lane])
        self.most["all"] = max(self.most["all"], sum(self.running.values()))
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running[lane] -= 1
        delivery.ack()

    def bodies(self) -> list[int]:
        return [int(delivery.data) for delivery in self.seen]

    async def left(self, lane: str = INTERACTIVE) -> int:
        answer = await self.worker.request(
            f"$JS.API.CONSUMER.INFO.{routes.stream_infer('local', 'llm', lane)}.{routes.durable_worker('m', 0)}"
        )
        info = msgspec.json.decode(answer.data)
        return int(info["num_pending"] + info["num_ack_pending"])

    async def empty(self, lane: str = INTERACTIVE, *, within_s: float = 5.0) -> None:
        async def is_empty() -> bool:
            return await self.left(lane) == 0

        await eventually(is_empty, within_s=within_s)


@pytest.fixture
async def bench(connect: Connect) -> AsyncIterator[Bench]:
    bench = Bench(await connect("gateway"), await connect("worker"))
    yield bench
    await asyncio.gather(*(intake.stop() for intake in bench.intakes))


@pytest.fixture
async def letters(connect: Connect) -> list[Msg]:
    """Dead letters, as they come."""
    operator = await connect("operator")
    found: list[Msg] = []

    async def on_letter(message: Msg) -> None:
        found.append(message)

    await operator.subscribe(routes.SUBJECTS_DLQ, on_letter)
    await barrier(operator)
    return found


class TestPulling:
    async def test_alone_it_never_runs_more_than_its_slots(self, bench: Bench) -> None:
        await bench.publish(300)
        bench.gate.clear()
        await bench.intake(Slots(16))
        await eventually(lambda: bench.running[INTERACTIVE] == 16)
        bench.gate.set()
        await eventually(lambda: len(bench.seen) == 300)
        await bench.empty()
        assert bench.most["all"] == 16
        assert sorted(bench.bodies()) == list(range(1, 301))
        assert {delivery.attempt for delivery in bench.seen} == {1}

    async def test_one_slot_is_one_at_a_time_in_order(self, bench: Bench) -> None:
        await bench.publish(30)
        await bench.intake(Slots(1))
        await eventually(lambda: len(bench.seen) == 30)
        assert bench.most["all"] == 1
        assert bench.bodies() == list(range(1, 31))

    async def test_a_message_that_comes_later_is_there_at_once(self, bench: Bench) -> None:
        await bench.intake(Slots(4))
        waits = []
        for n in range(20):
            begun = time.monotonic()
            await bench.publish()
            await eventually(lambda n=n: len(bench.seen) == n + 1)
            waits.append(time.monotonic() - begun)
        assert sorted(waits)[10] < 0.1

    async def test_pulls_that_expire_leave_the_count_right(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("inferbus.queue.intake._EXPIRES_S", 0.2)
        monkeypatch.setattr("inferbus.queue.intake._HEARTBEAT_S", 0.1)
        intake = await bench.intake(Slots(8))
        statuses: list[str] = []
        on_status = intake._on_status
        monkeypatch.setattr(
            intake, "_on_status", lambda headers: (statuses.append(headers["Status"]), on_status(headers))
        )
        await eventually(lambda: statuses.count("408") >= 3)
        assert 0 <= intake.share.on_order <= 2, "a window of the eight, once"
        bench.gate.clear()
        await bench.publish(20)
        await eventually(lambda: bench.running[INTERACTIVE] == 8)
        await bench.publish(1)
        assert bench.most["all"] == 8
        bench.gate.set()
        await eventually(lambda: len(bench.seen) == 21)

    async def test_batch_leaves_the_reserve_free(self, bench: Bench) -> None:
        slots = Slots(8, reserve=2)
        bench.gate.clear()
        await bench.publish(30, lane=BATCH)
        await bench.intake(slots, lane=BATCH)
        await bench.intake(slots)
        await eventually(lambda: bench.running[BATCH] == 6)
        await bench.publish(10)
        await eventually(lambda: bench.running[INTERACTIVE] == 2)
        assert bench.running[BATCH] == 6
        bench.gate.set()
        await eventually(lambda: len(bench.seen) == 40)
        assert bench.most[BATCH] <= 6
        assert bench.most["all"] <= 8 + 1, "the batch lane's standing pull may bring one more"

    async def test_while_interactive_waits_it_gets_what_batch_frees(self, bench: Bench) -> None:
        slots = Slots(4, reserve=1)
        ends: list[asyncio.Event] = []

        async def handle(delivery: Delivery) -> None:
            bench.seen.append(delivery)
            ends.append(asyncio.Event())
            await ends[-1].wait()
            delivery.ack()

        def lanes() -> list[str]:
            return [routes.parse_infer(delivery.subject).lane for delivery in bench.seen]

        await bench.publish(9, lane=BATCH)
        await bench.intake(slots, handle, lane=BATCH)
        await eventually(lambda: len(ends) == 3)
        await bench.publish(9)
        await bench.intake(slots, handle)
        await eventually(lambda: len(ends) == 4)
        for n in range(3):
            ends[n].set()
            await eventually(lambda n=n: len(ends) == 5 + n)
        assert lanes() == [BATCH] * 3 + [INTERACTIVE] * 4

    async def test_two_workers_share_a_queue(self, bench: Bench, connect: Connect) -> None:
        other = Bench(bench.gateway, await connect("worker"))
        await bench.publish(200)
        await bench.intake(Slots(4))
        await other.intake(Slots(4))
        await eventually(lambda: len(bench.seen) + len(other.seen) == 200)
        assert sorted(bench.bodies() + other.bodies()) == list(range(1, 201))
        await asyncio.gather(*(intake.stop() for intake in other.intakes))

    async def test_a_consumer_that_comes_later(self, server: NatsServer, bench: Bench, connect: Connect) -> None:
        operator = await connect("operator")
        stream = routes.stream_infer("local", "llm", INTERACTIVE)
        await operator.request(f"$JS.API.CONSUMER.DELETE.{stream}.{routes.durable_worker('m', 0)}")
        await bench.intake(Slots(4))
        await bench.publish()
        await server.reconcile(MODEL)
        await eventually(lambda: bench.bodies() == [1])

    async def test_ages_are_by_the_server_s_clock(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker whose clock is an hour ahead must not take new requests for old ones, not even the first."""
        real = time.time
        await bench.publish(5)
        monkeypatch.setattr("inferbus.queue.intake.time.time", lambda: real() + 3600)
        await bench.intake(Slots(4))
        await eventually(lambda: len(bench.seen) == 5)
        assert all(0 <= delivery.age_s < 5 for delivery in bench.seen)

    async def test_a_delivery_the_server_forgot_is_not_run_twice(self, bench: Bench) -> None:
        """Killed within milliseconds of a delivery, a server delivers it again under the same number."""
        bench.gate.clear()
        await bench.publish()
        intake = await bench.intake(Slots(4))
        await eventually(lambda: len(bench.seen) == 1)
        first = bench.seen[0]
        redelivered = first.reply.replace(".1.1.1.", ".2.1.2.", 1)
        for reply in (first.reply, redelivered):  # a client may not send such replies, so not over the bus
            intake._on_message(
                Msg(bench.worker.nc, first.subject, reply, first.data, dict(first.headers)), intake._generation
            )
        await eventually(lambda: len(bench.seen) == 2)
        assert [delivery.attempt for delivery in bench.seen] == [1, 2], "a new attempt is another matter"
        bench.gate.set()
        await bench.empty()


class TestOutcomes:
    async def run_one(self, bench: Bench, *errors: Exception | None) -> list[float]:
        """Handle one message; each attempt raises the next error, None acks. Gives the times of the attempts."""
        times: list[float] = []

        async def handle(delivery: Delivery) -> None:
            times.append(time.monotonic())
            bench.seen.append(delivery)
            error = errors[min(len(times), len(errors)) - 1]
            if error is not None:
                raise error
            delivery.ack()

        await bench.publish(headers={"Ib-Request": "r1", "Nats-Expected-Stream": "INFER_local_llm_interactive"})
        await bench.intake(Slots(2), handle)
        await bench.empty(within_s=15)
        return times

    async def test_a_permanent_error_is_a_dead_letter_at_once(self, bench: Bench, letters: list[Msg]) -> None:
        assert len(await self.run_one(bench, InvalidRequest("no\nsuch field"))) == 1
        await eventually(lambda: len(letters) == 1)
        assert letters[0].subject == "dlq.infer.local.llm.m.interactive.0.dev"
        assert letters[0].data == b"1"
        headers = letters[0].headers or {}
        assert headers["Ib-Request"] == "r1"
        assert headers[dead_letter.CODE] == "invalid_request"
        assert headers[dead_letter.REASON] == "no such field"
        assert "Nats-Expected-Stream" not in headers

    async def test_a_bug_is_tried_five_times_then_a_dead_letter(
        self, bench: Bench, letters: list[Msg], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        delays: list[float] = []
        nak = Delivery.nak

        def soon(delivery: Delivery, delay_s: float = 0.0) -> None:
            delays.append(delay_s)
            nak(delivery, delay_s / 20)

        monkeypatch.setattr(Delivery, "nak", soon)
        assert len(await self.run_one(bench, KeyError("oops"))) == 5
        assert delays == [0.4, 0.8, 1.6, 3.2]
        await eventually(lambda: len(letters) == 1)
        headers = letters[0].headers or {}
        assert headers[dead_letter.CODE] == "internal"
        assert headers[dead_letter.REASON] == "KeyError: 'oops'"
        assert headers[dead_letter.DELIVERIES] == "5"

    async def test_the_letter_is_stored_before_the_message_ends(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stored: list[int] = []
        accept = bench.worker.accept
        terminate = Delivery.terminate

        async def counted(*args: Any, **named: Any) -> int:
            sequence = await accept(*args, **named)
            stored.append(sequence)
            return sequence

        def watched(delivery: Delivery) -> None:
            assert stored
            terminate(delivery)

        monkeypatch.setattr(bench.worker, "accept", counted)
        monkeypatch.setattr(Delivery, "terminate", watched)
        await self.run_one(bench, InvalidRequest("x"))
        assert len(stored) == 1

    async def test_a_transient_error_comes_back_after_its_delay(self, bench: Bench, letters: list[Msg]) -> None:
        times = await self.run_one(bench, Overloaded("later", retry_after_s=0.3), None)
        assert [delivery.attempt for delivery in bench.seen] == [1, 2]
        assert 0.25 < times[1] - times[0] < 2
        assert letters == []

    async def test_an_end_is_acknowledged_and_never_comes_back(self, bench: Bench, letters: list[Msg]) -> None:
        assert len(await self.run_one(bench, Cancelled("gone"))) == 1
        assert letters == []

    async def test_something_cancelled_inside_a_handler_is_a_bug_not_a_loop(self, bench: Bench) -> None:
        times = await self.run_one(bench, asyncio.CancelledError(), None)  # type: ignore[arg-type]  # raised all the same
        assert times[1] - times[0] > 0.3, "with a pause"

    async def test_a_header_that_cannot_be_read_is_a_dead_letter(self, bench: Bench, letters: list[Msg]) -> None:
        async def handle(delivery: Delivery) -> None:
            envelope_from(delivery.headers)
            raise AssertionError("unreachable")

        good = headers_of(Envelope(request_id="r", tag_no=1, asker="a", path="/", deadline_ms=1))
        await bench.publish(headers={})
        await bench.publish(headers=good | {"Ib-Tag": "one"})
        await bench.publish(headers={name: value for name, value in good.items() if name != "Ib-Asker"})
        await bench.intake(Slots(2), handle)
        await bench.empty()
        await eventually(lambda: len(letters) == 3)
        codes = {(letter.headers or {})[dead_letter.CODE] for letter in letters}
        assert codes == {"invalid_request"}

    async def test_slots_come_back_whatever_happens(self, bench: Bench) -> None:
        slots = Slots(3)

        async def handle(delivery: Delivery) -> None:
            match delivery.seq % 4:
                case 0:
                    raise InvalidRequest("x")
                case 1:
                    raise Cancelled("x")
                case 2:
                    delivery.terminate()
                case _:
                    delivery.ack()

        await bench.publish(40)
        intake = await bench.intake(slots, handle)
        await bench.empty()
        await eventually(lambda: slots.busy == 0)
        assert intake.running == 0
        assert intake._attempts == {}


class TestStopping:
    async def test_a_pause_hands_back_what_was_on_the_way(self, bench: Bench, connect: Connect) -> None:
        """Nothing may wait for a lease of 20 s: all of it is run by another worker at once."""
        other = Bench(bench.gateway, await connect("worker"))
        intake = await bench.intake(Slots(64))
        publisher = asyncio.create_task(bench.publish(400))
        await eventually(lambda: len(bench.seen) > 50)
        await intake.pause()
        seen = len(bench.seen)
        await other.intake(Slots(64))
        await publisher
        await bench.empty(within_s=10)
        assert len(bench.seen) <= seen + 64
        assert set(bench.bodies()) | set(other.bodies()) == set(range(1, 401))
        await asyncio.gather(*(intake.stop() for intake in other.intakes))

    async def test_paused_takes_nothing_and_resumed_all(self, bench: Bench) -> None:
        intake = await bench.intake(Slots(4))
        await bench.publish(2)
        await eventually(lambda: len(bench.seen) == 2)
        await intake.pause()
        await bench.publish(5)
        assert await bench.left() == 5
        assert len(bench.seen) == 2
        await intake.resume()
        await eventually(lambda: len(bench.seen) == 7)

    async def test_drain_waits_for_what_runs(self, bench: Bench) -> None:
        bench.gate.clear()
        await bench.publish(6)
        intake = await bench.intake(Slots(4))
        await eventually(lambda: intake.running == 4)
        assert not await intake.drain(0.05)
        assert intake.running == 4
        bench.gate.set()
        assert await intake.drain(5)
        assert intake.running == 0
        await barrier(bench.worker)
        assert await bench.left() == 2

    async def test_stop_hands_back_what_runs_at_once(self, bench: Bench, connect: Connect) -> None:
        bench.gate.clear()
        await bench.publish(4)
        slots = Slots(4)
        intake = await bench.intake(slots)
        await eventually(lambda: intake.running == 4)
        await intake.stop()
        assert slots.busy == 0
        other = Bench(bench.gateway, await connect("worker"))
        await other.intake(Slots(4))
        await eventually(lambda: len(other.seen) == 4)  # not when their lease of 20 s is over
        assert {delivery.attempt for delivery in other.seen} == {2}
        await asyncio.gather(*(intake.stop() for intake in other.intakes))

    async def test_stop_hands_back_what_had_not_begun(self, bench: Bench, connect: Connect) -> None:
        """A task that is cancelled before its first step never sees the cancellation."""
        slots = Slots(4)
        intake = await bench.intake(slots)
        await bench.publish()
        on_message = intake._on_message
        stopped = asyncio.Event()

        def stop_at_once(message: Msg, generation: int) -> None:
            on_message(message, generation)
            if intake.running and not stopped.is_set():
                stopped.set()
                for task in intake._running.values():
                    task.cancel()

        intake._on_message = stop_at_once  # type: ignore[method-assign]  # the moment cannot be hit from outside
        await intake.pause()
        await intake.resume()
        await bench.publish()
        await asyncio.wait_for(stopped.wait(), 5)
        await intake.stop()
        assert slots.busy == 0
        assert intake.running == 0

    async def test_a_stopped_intake_leaves_nothing_behind(self, bench: Bench) -> None:
        slots = Slots(4)
        subscriptions = len(bench.worker.nc._subs)
        for _ in range(3):
            intake = await bench.intake(slots)
            await intake.stop()
        assert slots._wakers == []
        assert bench.worker._reconnected == []
        assert len(bench.worker.nc._subs) == subscriptions
        bench.intakes.clear()

    async def test_stopping_while_the_bus_is_away(self, server: NatsServer, bench: Bench) -> None:
        bench.gate.clear()
        await bench.publish(2)
        intake = await bench.intake(Slots(4))
        await eventually(lambda: intake.running == 2)
        await server.kill()
        await eventually(lambda: not bench.worker.connected)
        await asyncio.wait_for(intake.stop(), 10)
        await asyncio.wait_for(bench.worker.close(), 10)
        await server.start()


class TestRestarts:
    async def test_through_kills_nothing_is_lost_and_pulling_goes_on_at_once(
        self, server: NatsServer, bench: Bench
    ) -> None:
        intake = await bench.intake(Slots(8))
        for round_ in range(3):
            await bench.publish(20)
            await eventually(lambda round_=round_: len(set(bench.bodies())) == 21 * round_ + 20)
            await server.restart()
            await bench.worker.wait_connected(5)
            begun = time.monotonic()
            await bench.publish()
            await eventually(lambda round_=round_: len(set(bench.bodies())) == 21 * (round_ + 1))
            assert time.monotonic() - begun < 10, "not when a pull or a lease has run out"
        assert intake._generation == 4
        await eventually(lambda: not intake._retiring)

    async def test_subscriptions_do_not_pile_up_over_reconnects(self, server: NatsServer, bench: Bench) -> None:
        async with Proxy(server.port) as proxy:
            bus = await Bus.connect(msgspec.structs.replace(server.settings("worker"), url=proxy.url), name="cut")
            intake = await bench.intake(Slots(8), bus=bus)
            subscriptions = len(bus.nc._subs)
            for n in range(5):
                proxy.cut()
                await eventually(lambda n=n: bus.reconnects == n + 1 and intake._generation == n + 2)
                await bench.publish()
                await eventually(lambda n=n: len(bench.seen) == n + 1)
            await eventually(lambda: len(bus.nc._subs) == subscriptions)
            await intake.stop()
            await bus.close()

    async def test_old_pulls_of_a_cut_connection_bring_no_more_than_the_slots(
        self, server: NatsServer, bench: Bench
    ) -> None:
        """nats-py subscribes the old inbox again, which would revive the pull that still stands at the server."""
        async with Proxy(server.port) as proxy:
            bus = await Bus.connect(msgspec.structs.replace(server.settings("worker"), url=proxy.url), name="cut")
            intake = await bench.intake(Slots(8), bus=bus)
            for n in range(3):
                proxy.cut()
                await eventually(lambda n=n: bus.reconnects == n + 1 and intake._generation == n + 2)
            await eventually(lambda: not intake._retiring)
            bench.gate.clear()
            await bench.publish(40)
            await eventually(lambda: bench.running[INTERACTIVE] >= 8)
            await barrier(bus)
            assert bench.most["all"] == 8
            bench.gate.set()
            await eventually(lambda: len(bench.seen) == 40)
            await intake.stop()
            await bus.close()

    async def test_a_pull_that_died_without_a_word_is_noticed_however_busy_the_slots(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("inferbus.queue.intake._HEARTBEAT_S", 0.2)
        slots = Slots(8)
        intake = await bench.intake(slots)
        await eventually(lambda: intake.share.on_order > 0)
        await bench.worker.nc._send_unsubscribe(intake._subscription._id)  # type: ignore[union-attr]  # the server forgets us
        stopping = asyncio.Event()

        async def busy() -> None:
            while not stopping.is_set():
                slots.take()
                slots.give()
                await asyncio.sleep(0.01)

        noise = asyncio.create_task(busy())
        await bench.publish()
        await eventually(lambda: len(bench.seen) == 1, within_s=5)
        stopping.set()
        await noise


LEASE_S = 1.5
"""Long enough that a busy machine renews it in time."""


class TestLeases:
    @pytest.fixture
    async def server(self, server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> NatsServer:
        monkeypatch.setattr("inferbus.topology.configs.ACK_WAIT_S", LEASE_S)
        await server.reconcile(MODEL)
        return server

    async def test_a_lease_is_renewed_for_as_long_as_it_runs(self, bench: Bench) -> None:
        bench.gate.clear()
        await bench.publish()
        await bench.intake(Slots(4), ack_wait_s=LEASE_S)
        await eventually(lambda: len(bench.seen) == 1)
        begun = time.monotonic()
        await eventually(lambda: time.monotonic() - begun > 2.2 * LEASE_S)
        assert len(bench.seen) == 1
        bench.gate.set()
        await bench.empty()

    async def test_a_lease_survives_errors_of_sending(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        failures = 0
        send = bench.worker.send

        def sometimes(subject: str, data: bytes, reply: str = "") -> None:
            nonlocal failures
            if data == b"+WPI" and failures < 1:
                failures += 1
                raise DependencyDown("no")
            send(subject, data, reply)

        monkeypatch.setattr(bench.worker, "send", sometimes)
        bench.gate.clear()
        await bench.publish()
        await bench.intake(Slots(4), ack_wait_s=LEASE_S)
        await eventually(lambda: len(bench.seen) == 1)
        begun = time.monotonic()
        await eventually(lambda: time.monotonic() - begun > 2.2 * LEASE_S)
        assert failures == 1
        assert len(bench.seen) == 1
        bench.gate.set()

    async def test_a_message_nobody_renews_comes_back(self, bench: Bench) -> None:
        bench.gate.clear()
        await bench.publish()
        await bench.intake(Slots(4), ack_wait_s=60)
        await eventually(lambda: len(bench.seen) >= 2)
        assert [delivery.attempt for delivery in bench.seen][:2] == [1, 2]
        bench.gate.set()
        await bench.empty()

"""Asker and attempts over a real server: order, losses, fencing, deaths of either side, cancels in every phase."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from tests.connected.conftest import MODEL
from tests.connected.rig import Call, Rig, WorkerSide, read

from inferbus import routes
from inferbus.answers import attempts as attempts_module
from inferbus.answers.exchange import Begun, Chunk
from inferbus.bus import Bus
from inferbus.bus.tickets import INLINE_BYTES
from inferbus.contracts.control import CONFIRM
from inferbus.contracts.models import Limits, ModelEntry
from inferbus.errors import (
    Cancelled,
    DeadlineWhileRunning,
    InferbusError,
    InvalidRequest,
    NotFound,
    ResumeImpossible,
    TenantOverloaded,
    TooLarge,
)
from inferbus.models import apply_model
from inferbus.process import presence as presence_module
from inferbus.testing import NatsServer, eventually
from inferbus.worker import failing as failing_module
from inferbus.worker import serving as serving_module


@pytest.fixture
async def rig(server: NatsServer) -> AsyncIterator[Rig]:
    admin = await server.connect("admin")
    await apply_model(admin, MODEL)
    await admin.close()
    async with AsyncExitStack() as stack:
        yield Rig(server, stack)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol's seconds, shorter: silence, repeated ends, patience with a silent asker."""
    monkeypatch.setattr(presence_module, "BEAT_S", 0.1)
    monkeypatch.setattr(presence_module, "SILENT_S", 0.5)
    monkeypatch.setattr(presence_module, "_CHECK_S", 0.1)
    monkeypatch.setattr(attempts_module, "REPEAT_S", 0.2)
    monkeypatch.setattr(attempts_module, "ASKER_SILENT_S", 0.5)
    monkeypatch.setattr(failing_module, "_ASKER_GONE_S", 0.2)
    monkeypatch.setattr(serving_module, "_ASK_AGAIN_S", 0.2)
    monkeypatch.setattr(serving_module, "_ASKER_LOST_S", 1.5)


def fall(bus: Bus, monkeypatch: pytest.MonkeyPatch, lost: Callable[[str], bool]) -> list[str]:
    """Have a connection lose core messages on the way, as a full buffer or a dying socket would."""
    dropped: list[str] = []
    send = bus.send

    def sometimes(subject: str, data: bytes, reply: str = "") -> None:
        if lost(subject):
            dropped.append(subject)
        else:
            send(subject, data, reply)

    monkeypatch.setattr(bus, "send", sometimes)
    return dropped


async def one_call(worker: WorkerSide, n: int = 0) -> Call:
    await eventually(lambda: len(worker.engine.calls) > n)
    return worker.engine.calls[n]


class TestAnswers:
    async def test_many_streams_at_once_each_in_order(self, rig: Rig) -> None:
        gateway, worker, other = await rig.gateway(), await rig.worker(), await rig.worker("worker-1")

        async def speak(call: Call) -> None:
            for n in range(20):
                call.say(b"%s:%d " % (call.work.body[-4:], n))
                await asyncio.sleep(0)
            call.end()

        speaking: list[asyncio.Task[None]] = []
        for side in (worker, other):
            side.engine.answer = lambda call: speaking.append(asyncio.create_task(speak(call)))
        exchanges = [await gateway.admit(body=b'{"model":"m","n":%04d' % n) for n in range(60)]
        answers = await asyncio.gather(*(read(exchange) for exchange in exchanges))
        for n, answer in enumerate(answers):
            assert answer == b"".join(b"%04d:%d " % (n, i) for i in range(20))
        await eventually(rig.queue_is_empty)
        assert len(worker.engine.calls) + len(other.engine.calls) == 60
        assert gateway.asker.exchanges == []
        assert len(worker.attempts) == len(other.attempts) == 0
        assert gateway.admission.bounds.open("m") == 0

    async def test_an_answer_that_is_not_streamed(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        worker.engine.answer = lambda call: call.end(b'{"ok":1}')
        assert await read(await gateway.admit(streamed=False)) == b'{"ok":1}'
        assert not worker.engine.calls[0].work.streamed

    async def test_begun_comes_before_the_first_text(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        exchange = await gateway.admit()
        call = await one_call(worker)
        assert await exchange.next(5) == Begun()
        assert await exchange.next(0.01) is None
        call.say(b"a")
        assert await exchange.next(5) == Chunk(b"a")
        call.end()
        assert await read(exchange) == b""

    async def test_a_body_of_three_megabytes_travels_by_ticket(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        worker.engine.answer = Call.end
        body = b'{"model":"m","text":"' + b"x" * (3 * INLINE_BYTES) + b'"}'
        await read(await gateway.admit(body=body))
        assert worker.engine.calls[0].work.body == body

    async def test_a_body_that_is_gone_is_an_error_at_once(self, rig: Rig) -> None:
        gateway = await rig.gateway()
        exchange = await gateway.admit(body=bytes(2 * INLINE_BYTES))
        operator = await rig.server.connect("operator")
        await operator.request(f"$JS.API.STREAM.PURGE.{routes.STREAM_PAY}")
        await operator.close()
        worker = await rig.worker()
        with pytest.raises(InvalidRequest, match="gone or damaged"):
            await read(exchange)
        await eventually(rig.queue_is_empty)
        assert worker.engine.calls == []

    async def test_an_answer_over_the_limit_is_an_error_at_once(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempts_module, "MAX_ANSWER_BYTES", 1024 * 1024)
        gateway, worker = await rig.gateway(), await rig.worker()
        worker.engine.answer = lambda call: call.end(b"x" * (1024 * 1024 + 1))
        with pytest.raises(TooLarge, match="1048577 bytes, the limit is 1048576"):
            await read(await gateway.admit(streamed=False))
        await eventually(rig.queue_is_empty)
        assert worker.bus.reconnects == 0

    async def test_an_answer_of_seven_megabytes_is_not(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        body = b"x" * (7 * 1024 * 1024)
        worker.engine.answer = lambda call: call.end(body)
        assert await read(await gateway.admit(streamed=False)) == body


class TestAdmission:
    async def test_what_is_refused_is_not_stored(self, rig: Rig) -> None:
        gateway = await rig.gateway()
        admin = await rig.server.connect("admin")
        limits = Limits(max_pending_per_tenant=3, max_body_bytes=100)
        await apply_model(admin, ModelEntry(name="m", pool="m", limits=limits))
        await admin.close()
        await eventually(lambda: getattr(gateway.models.resolve("m"), "limits", None) == limits)
        exchanges = [await gateway.admit() for _ in range(3)]
        with pytest.raises(TenantOverloaded) as caught:
            await gateway.admit()
        assert caught.value.retry_after_s >= 1
        with pytest.raises(TooLarge, match="100"):
            await gateway.admit(body=bytes(101))
        assert await rig.left() == 3
        exchanges[0].cancel()
        await gateway.admit()
        assert gateway.admission.bounds.open("m") == 3

    async def test_an_unknown_model(self, rig: Rig) -> None:
        gateway = await rig.gateway()
        admin = await rig.server.connect("admin")
        await admin.kv_delete(routes.KV_MODELS, "m")
        await admin.close()
        await eventually(lambda: gateway.models.resolve("m") is None)
        with pytest.raises(NotFound):
            await gateway.admit()


class TestLosses:
    @pytest.mark.parametrize("share", [0.5, 0.2])
    async def test_lost_frames_are_asked_for_again(
        self, rig: Rig, soon: None, monkeypatch: pytest.MonkeyPatch, share: float
    ) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        dice = random.Random(7)
        dropped = fall(worker.bus, monkeypatch, lambda subject: subject.startswith("step.") and dice.random() < share)
        exchange = await gateway.admit()
        call = await one_call(worker)
        for n in range(30):
            call.say(b"%d " % n)
            await asyncio.sleep(0.002)  # a message of its own for each
        call.end()
        assert await read(exchange) == b"".join(b"%d " % n for n in range(30))
        assert len(dropped) >= 2
        await eventually(rig.queue_is_empty)

    async def test_the_end_is_repeated_until_it_is_confirmed(
        self, rig: Rig, soon: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        confirms = 0

        def lost(subject: str) -> bool:
            nonlocal confirms
            confirms += subject.endswith("." + CONFIRM)
            return subject.endswith("." + CONFIRM) and confirms <= 2

        dropped = fall(gateway.bus, monkeypatch, lost)
        worker.engine.answer = Call.end
        assert await read(await gateway.admit()) == b""
        assert await rig.left() == 1, "not acknowledged before the confirm"
        await eventually(rig.queue_is_empty)
        assert len(dropped) == 2
        assert len(worker.engine.calls) == 1

    async def test_an_error_of_the_engine_is_repeated_until_it_is_confirmed(
        self, rig: Rig, soon: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        exchange = await gateway.admit()
        call = await one_call(worker)
        await eventually(lambda: exchange.fence is not None)
        steps: list[str] = []

        def lost(subject: str) -> bool:
            steps.extend([subject] if subject.startswith("step.") else [])
            return subject.startswith("step.") and len(steps) == 1

        fall(worker.bus, monkeypatch, lost)
        call.sink.failed(RuntimeError("a bug"))
        with pytest.raises(InferbusError, match="the engine failed"):
            await read(exchange)
        await eventually(rig.queue_is_empty)
        await eventually(lambda: len(worker.attempts) == 0)

    @pytest.mark.parametrize("side", ["gateway", "worker"])
    async def test_a_connection_cut_in_mid_stream(self, rig: Rig, soon: None, side: str) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        cut = gateway if side == "gateway" else worker
        exchange = await gateway.admit()
        call = await one_call(worker)
        expected = b""
        for n in range(30):
            call.say(b"%d " % n)
            expected += b"%d " % n
            if n in (0, 10, 20):
                reconnects = cut.bus.reconnects
                cut.proxy.cut()
                await eventually(lambda before=reconnects: cut.bus.reconnects > before)
            await asyncio.sleep(0)
        call.end()
        assert await read(exchange) == expected
        await eventually(rig.queue_is_empty)
        assert len(worker.engine.calls) == 1

    async def test_a_delivery_that_comes_twice_runs_once(self, rig: Rig) -> None:
        """A server killed just after it delivered knows nothing of it when it is back: the number is the same again."""
        gateway, worker = await rig.gateway(), await rig.worker()
        exchange = await gateway.admit()
        call = await one_call(worker)
        call.say(b"before ")
        (attempt,) = worker.attempts
        await asyncio.wait_for(worker.serving.on_delivery(attempt.delivery), 5)
        call.say(b"after")
        call.end()
        assert await read(exchange) == b"before after"
        await eventually(rig.queue_is_empty)
        assert len(worker.engine.calls) == 1

    async def test_the_server_killed_in_mid_stream(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        exchanges = [await gateway.admit() for _ in range(4)]
        await eventually(lambda: len(worker.engine.calls) == 4)
        calls = list(worker.engine.calls)
        for call in calls:
            call.say(b"before ")
        await rig.server.restart()
        for call in calls:
            call.say(b"after")
            call.end()
        assert await asyncio.gather(*(read(exchange) for exchange in exchanges)) == [b"before after"] * 4
        await eventually(rig.queue_is_empty)
        # What a server delivered milliseconds before it was killed, it delivers again: begun again, and cancelled.
        await eventually(lambda: all(call.aborted for call in worker.engine.calls[4:]))


class TestFencing:
    @pytest.fixture
    async def short_lease(self, server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("inferbus.topology.configs.ACK_WAIT_S", 0.5)
        await server.reconcile(MODEL)

    async def test_a_lease_that_ran_out_is_taken_by_another_worker(self, rig: Rig, short_lease: None) -> None:
        gateway = await rig.gateway()
        first = await rig.worker("worker-0", ack_wait_s=60)  # never renews
        exchange = await gateway.admit()
        call = await one_call(first)
        await first.intake.pause()
        second = await rig.worker("worker-1", ack_wait_s=0.5)
        call_2 = await one_call(second)
        await eventually(lambda: call.aborted)
        call.say(b"stale")
        call_2.say(b"fresh")
        call_2.end()
        assert await read(exchange) == b"fresh"
        await eventually(rig.queue_is_empty)
        assert len(first.engine.calls) == len(second.engine.calls) == 1

    async def test_a_begun_stream_is_taken_over_where_the_client_is(self, rig: Rig, short_lease: None) -> None:
        gateway = await rig.gateway()
        first = await rig.worker("worker-0", ack_wait_s=60)
        exchange = await gateway.admit()
        call = await one_call(first)
        call.say(b"once upon ")
        assert await exchange.next(5) == Begun()
        assert await exchange.next(5) == Chunk(b"once upon ")
        await first.intake.pause()
        second = await rig.worker("worker-1")
        call_2 = await one_call(second)
        call.say(b"stale ")
        assert call_2.resumed == [(0, [1])]
        call_2.say(b"a time")
        call_2.end()
        assert await read(exchange) == b"a time"
        await eventually(lambda: call.aborted)
        await eventually(rig.queue_is_empty)

    async def test_an_engine_s_death_in_mid_stream(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        exchange = await gateway.admit()
        (await one_call(worker)).say(b"one ", b"two ")
        worker.engine.die()
        call = await one_call(worker, 1)
        assert call.resumed == [(0, [1, 2])]
        assert call.work.created == worker.engine.calls[0].work.created
        call.say(b"three")
        call.end()
        assert await read(exchange) == b"one two three"
        await eventually(rig.queue_is_empty)

    async def test_an_engine_that_cannot_go_on_says_so(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        exchange = await gateway.admit()
        (await one_call(worker)).say(b"one ")
        worker.engine.die()
        (await one_call(worker, 1)).sink.failed(ResumeImpossible("another model"))
        with pytest.raises(ResumeImpossible, match="another model"):
            await read(exchange)
        await eventually(rig.queue_is_empty)

    async def test_an_engine_s_death_hands_the_work_to_another_attempt(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        exchange = await gateway.admit()
        await one_call(worker)
        worker.engine.die()
        call = await one_call(worker, 1)
        call.say(b"second try")
        call.end()
        assert await read(exchange) == b"second try"
        await eventually(rig.queue_is_empty)


class TestDeaths:
    async def test_a_silent_worker_s_work_goes_to_another_at_once(self, rig: Rig, soon: None) -> None:
        gateway, first = await rig.gateway(), await rig.worker("worker-0")
        exchange = await gateway.admit()
        call = await one_call(first)
        await eventually(lambda: exchange.fence is not None and "worker-0" in gateway.presence.alive())
        second = await rig.worker("worker-1")
        begun = time.monotonic()
        await first.proxy.refuse()
        call_2 = await one_call(second)
        assert time.monotonic() - begun < 10, "not the 20 s of its lease"
        call_2.say(b"second")
        call_2.end()
        assert await read(exchange) == b"second"
        await first.proxy.allow()
        await eventually(lambda: call.aborted)
        call.say(b"zombie")
        await eventually(rig.queue_is_empty)

    async def test_a_silent_worker_in_mid_stream_loses_nothing_and_does_no_harm_when_it_is_back(
        self, rig: Rig, soon: None
    ) -> None:
        gateway, first = await rig.gateway(), await rig.worker("worker-0")
        exchange = await gateway.admit()
        call = await one_call(first)
        call.say(b"half ")
        await eventually(lambda: exchange.delivered_tokens == 1 and "worker-0" in gateway.presence.alive())
        await first.proxy.refuse()
        call.say(b"unheard ")
        second = await rig.worker("worker-1")
        call_2 = await one_call(second)
        assert call_2.resumed == [(0, [1])]
        call_2.say(b"the other ")
        await first.proxy.allow()
        call.say(b"stale ")
        await eventually(lambda: call.aborted)
        call_2.say(b"half")
        call_2.end()
        assert await read(exchange) == b"half the other half"
        await eventually(rig.queue_is_empty)

    async def test_an_asker_that_went_leaves_no_work_running(self, rig: Rig, soon: None) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        await gateway.admit()
        call = await one_call(worker)
        call.say(b"for nobody")
        await eventually(lambda: worker.presence.has_asker(gateway.asker.id))
        await gateway.proxy.refuse()
        await eventually(lambda: call.aborted)
        await eventually(rig.queue_is_empty)
        assert len(worker.engine.calls) == 1
        assert len(worker.attempts) == 0

    @pytest.mark.parametrize("begun", [False, True])
    async def test_an_asker_that_was_only_cut_off_gets_an_end(self, rig: Rig, soon: None, begun: bool) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        exchange = await gateway.admit()
        call = await one_call(worker)
        if begun:
            call.say(b"half ")
        await eventually(lambda: exchange.delivered_tokens == begun and exchange.fence is not None)
        await eventually(lambda: worker.presence.has_asker(gateway.asker.id))
        await gateway.proxy.refuse()
        await eventually(lambda: call.aborted)
        worker.engine.answer = Call.end
        await gateway.proxy.allow()
        assert await read(exchange) == (b"half " if begun else b"")
        assert worker.engine.calls[-1].resumed == ([(0, [1])] if begun else [])
        await eventually(rig.queue_is_empty)

    async def test_work_of_an_asker_that_went_before_is_dropped_unseen(self, rig: Rig, soon: None) -> None:
        gateway = await rig.gateway()
        await gateway.admit()
        await gateway.proxy.refuse()
        worker = await rig.worker(old_message_s=0.0)  # every message counts as old: ask first
        await eventually(rig.queue_is_empty)
        assert worker.engine.calls == []


class TestCancels:
    async def test_before_a_worker_had_it(self, rig: Rig) -> None:
        gateway = await rig.gateway()
        (await gateway.admit()).cancel()
        worker = await rig.worker()
        call = await one_call(worker)
        await eventually(lambda: call.aborted)
        await eventually(rig.queue_is_empty)

    async def test_before_a_worker_had_it_and_long_ago(self, rig: Rig) -> None:
        gateway = await rig.gateway()
        (await gateway.admit()).cancel()
        worker = await rig.worker(old_message_s=0.0)
        await eventually(rig.queue_is_empty)
        assert worker.engine.calls == [], "asked about, and never begun"

    async def test_while_it_runs(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        exchange = await gateway.admit()
        call = await one_call(worker)
        call.say(b"a")
        reader = asyncio.create_task(read(exchange))
        await eventually(lambda: exchange.delivered_tokens == 1)
        exchange.cancel()
        with pytest.raises(Cancelled):
            await reader
        await eventually(lambda: call.aborted)
        await eventually(rig.queue_is_empty)

    async def test_between_two_attempts(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        exchange = await gateway.admit()
        await one_call(worker)
        worker.engine.die()
        await eventually(lambda: exchange.given_up is not None)
        exchange.cancel()
        await eventually(rig.queue_is_empty)
        assert len(worker.engine.calls) == 1, "the second attempt asked and never began"

    async def test_at_the_deadline(self, rig: Rig) -> None:
        gateway, worker = await rig.gateway(), await rig.worker()
        exchange = await gateway.admit(deadline_s=0.5)
        call = await one_call(worker)
        with pytest.raises(DeadlineWhileRunning):
            await read(exchange)
        await eventually(lambda: call.aborted)
        await eventually(rig.queue_is_empty)

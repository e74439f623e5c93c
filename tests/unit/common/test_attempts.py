"""Attempts: the answering side, alone and joined to an asker over a wire that loses, doubles and delays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.common.fakes import FakeBus, FakePresence, Wire, gateway, message, worker

from inferbus import routes
from inferbus.answers import asker as asker_module
from inferbus.answers import attempts as attempts_module
from inferbus.answers import frames as frames_module
from inferbus.answers.asker import Asker
from inferbus.answers.attempts import ASKER_GONE, Attempt, Attempts
from inferbus.answers.exchange import Chunk, Ended
from inferbus.codec import pack, unpacker
from inferbus.contracts.control import CANCEL, CONFIRM, RESEND, STALE, Control, ControlItem
from inferbus.contracts.envelope import Envelope
from inferbus.contracts.step import Delta, Failed, Finished, Frame, Started, Usage
from inferbus.queue.delivery import Delivery
from inferbus.testing import eventually

ASKER = "a1"
decode = unpacker(list[Frame]).decode

CREATED, FINGERPRINT = 1763750001, "f0"


def envelope(tag: int = 1, asker: str = ASKER) -> Envelope:
    return Envelope(request_id=f"r{tag}", tag_no=tag, asker=asker, path="/v1/x", deadline_ms=1000)


def delivery(bus: FakeBus, attempt: int = 1) -> Delivery:
    subject = routes.infer(region="local", runtime="llm", pool="m", lane="interactive", bucket=0, tenant="dev")
    return Delivery(bus, message(subject, reply=f"$JS.ACK.S.C.{attempt}.7.1.1000000000.0"))  # type: ignore[arg-type]


class Side:
    def __init__(self, *askers: str) -> None:
        self.bus = FakeBus()
        self.presence = FakePresence(*(gateway(asker) for asker in askers or (ASKER,)))
        self.attempts = Attempts(self.bus, self.presence, process="w1", incarnation="i1")  # type: ignore[arg-type]

    def open(self, tag: int = 1, attempt: int = 1) -> Attempt:
        return self.attempts.open(envelope(tag), delivery(self.bus, attempt))

    async def sent(self) -> list[Frame]:
        self.attempts.sender.flush()
        step = routes.step_of(ASKER)
        return [frame for subject, data in self.bus.take() if subject == step for frame in decode(data)]

    async def control(self, verb: str, *items: ControlItem, asker: str = ASKER) -> None:
        await self.bus.deliver(routes.control_of("w1", verb), pack(Control(asker, list(items))))


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    side = Side()
    await side.attempts.start()
    yield side
    await side.attempts.stop()


async def test_frames_are_numbered_and_one_message_per_tick(side: Side) -> None:
    attempt = side.open()
    attempt.started(CREATED, FINGERPRINT)
    attempt.delta([(0, [5])], b"a")
    attempt.finished(200, Usage(1, 1), b"", "text/event-stream")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(side.bus.sent) == 1
    frames = await side.sent()
    assert [type(frame) for frame in frames] == [Started, Delta, Finished]
    assert [frame.seq for frame in frames] == [0, 1, 2]
    assert frames[0] == Started(1, 1, 0, attempt.delivery.reply, "w1", "i1", attempt.run, CREATED, FINGERPRINT)


async def test_confirm_ends_an_attempt_only_after_its_end(side: Side) -> None:
    attempt = side.open()
    attempt.started(CREATED, FINGERPRINT)
    await side.control(CONFIRM, ControlItem(1, 1))
    assert not attempt.over.done(), "a confirm of an earlier life"
    attempt.finished(200, Usage(), b"{}", "application/json")
    await side.control(CONFIRM, ControlItem(1, 1))
    assert attempt.over.result() == CONFIRM


async def test_resend_gives_the_rest_in_order(side: Side) -> None:
    attempt = side.open()
    attempt.started(CREATED, FINGERPRINT)
    for n in range(1, 5):
        attempt.delta([(0, [n])], b"%d" % n)
    await side.sent()
    await side.control(RESEND, ControlItem(1, 1, 3))
    assert [frame.seq for frame in await side.sent()] == [3, 4]
    await side.control(RESEND, ControlItem(1, 0, 0))
    assert [frame.seq for frame in await side.sent()] == [0, 1, 2, 3, 4], "attempt 0: whichever is here"
    await side.control(RESEND, ControlItem(1, 2, 0), ControlItem(2, 1, 0), ControlItem(1, 1, 99), ControlItem(1, 1, -7))
    assert [frame.seq for frame in await side.sent()] == [0, 1, 2, 3, 4], "only the last of these is ours"


async def test_cancel_and_stale_stop_the_engine_once(side: Side) -> None:
    stopped: list[str] = []
    cancelled, stale = side.open(1), side.open(2)
    cancelled.on_stop = lambda: stopped.append("cancelled")
    stale.on_stop = lambda: stopped.append("stale")
    for _ in range(2):
        await side.control(CANCEL, ControlItem(1, 1))
        await side.control(STALE, ControlItem(2, 1))
    assert stopped == ["cancelled", "stale"]
    assert (cancelled.over.result(), stale.over.result()) == (CANCEL, STALE)
    assert (cancelled.delivery.abandoned, stale.delivery.abandoned) == (False, True)


async def test_an_engine_that_fails_to_stop_does_not_keep_the_others_running(side: Side) -> None:
    def fail() -> None:
        raise RuntimeError("no")

    stopped: list[str] = []
    first, second = side.open(1), side.open(2)
    first.on_stop = fail
    second.on_stop = lambda: stopped.append("second")
    await side.control(CANCEL, ControlItem(1, 1), ControlItem(2, 1))
    assert stopped == ["second"]


async def test_an_abandoned_delivery_sends_nothing(side: Side) -> None:
    attempt = side.open()
    await side.control(STALE, ControlItem(1, 1))
    side.bus.take()
    for send in (attempt.delivery.ack, attempt.delivery.nak, attempt.delivery.terminate, attempt.delivery.progress):
        send()
    assert side.bus.take() == []


async def test_nothing_is_sent_after_the_end_or_after_it_is_over(side: Side) -> None:
    attempt = side.open()
    attempt.finished(200, Usage(), b"{}", "application/json")
    attempt.delta([(0, [1])], b"late")
    attempt.failed("internal", "late", final=True)
    assert [type(frame) for frame in await side.sent()] == [Finished]
    over = side.open(2)
    over.stop(CANCEL)
    over.delta([(0, [1])], b"late")
    over.finished(200, Usage(), b"", "x/y")
    assert await side.sent() == []


async def test_another_asker_s_control_is_not_for_us(side: Side) -> None:
    attempt = side.open()
    await side.control(CANCEL, ControlItem(1, 1), asker="somebody-else")
    await side.bus.deliver(routes.control_of("w1", CANCEL), b"\xc1")
    assert not attempt.over.done()


async def test_two_deliveries_of_one_request_are_two_attempts(side: Side) -> None:
    first, second = side.open(1, attempt=1), side.open(1, attempt=2)
    assert first.name != second.name
    assert len(side.attempts) == 2
    await side.control(STALE, ControlItem(1, 1))
    assert first.over.done()
    assert not second.over.done()
    side.attempts.close(first)
    side.attempts.close(first)
    assert list(side.attempts) == [second]
    side.attempts.close(second)
    assert side.attempts._open == {}


async def test_after_a_reconnect_started_is_sent_again(side: Side) -> None:
    waiting, flowing = side.open(1), side.open(2)
    waiting.started(CREATED, FINGERPRINT)
    flowing.started(CREATED, FINGERPRINT)
    flowing.delta([(0, [1])], b"x")
    await side.sent()
    await side.bus.reconnect()
    assert await side.sent() == [
        Started(1, 1, 0, waiting.delivery.reply, "w1", "i1", waiting.run, CREATED, FINGERPRINT)
    ]


class TestRepeating:
    async def test_the_end_is_repeated_until_it_is_over(self, side: Side) -> None:
        attempt = side.open()
        attempt.finished(200, Usage(), b"{}", "application/json")
        await side.sent()
        side.attempts._repeat_ends({ASKER})
        assert [type(frame) for frame in await side.sent()] == [Finished]
        await side.control(CONFIRM, ControlItem(1, 1))
        side.attempts._repeat_ends({ASKER})
        assert await side.sent() == []

    async def test_a_silent_asker_is_given_up_and_a_living_one_is_not(self) -> None:
        side = Side("living")
        stopped: list[str] = []
        attempts = {asker: side.attempts.open(envelope(1, asker), delivery(side.bus)) for asker in ("living", "silent")}
        attempts["silent"].on_stop = lambda: stopped.append("silent")
        long_ago = time.monotonic() - attempts_module.ASKER_SILENT_S - 1
        side.attempts._asker_seen = dict.fromkeys(attempts, long_ago)
        side.attempts._repeat_ends(set(attempts))
        assert attempts["silent"].over.result() == ASKER_GONE
        assert stopped == ["silent"]
        assert not attempts["living"].over.done()

    async def test_an_asker_nobody_saw_yet_has_its_three_seconds(self) -> None:
        side = Side("another")
        attempt = side.open()
        side.attempts._repeat_ends({ASKER})
        assert not attempt.over.done()

    async def test_askers_of_closed_attempts_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(attempts_module, "REPEAT_S", 0.001)
        side = Side()
        for n in range(100):
            side.attempts.close(side.attempts.open(envelope(n, f"a{n}"), delivery(side.bus)))
        assert len(side.attempts._asker_seen) == 100
        await side.attempts.start()
        await eventually(lambda: not side.attempts._asker_seen)
        await side.attempts.stop()


class TestLimits:
    async def test_an_answer_that_grows_too_large_fails_with_both_numbers(
        self, side: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempts_module, "MAX_KEPT_BYTES", 10)
        stopped: list[str] = []
        attempt = side.open()
        attempt.on_stop = lambda: stopped.append("stopped")
        attempt.delta([(0, [1])], b"12345678")
        attempt.delta([(0, [2])], b"901")
        attempt.delta([(0, [3])], b"more")
        frames = await side.sent()
        assert [type(frame) for frame in frames] == [Delta, Failed]
        assert (frames[1].code, frames[1].final) == ("too_large", True)
        assert stopped == ["stopped"]

    async def test_an_answer_over_the_limit_fails_instead_of_never_arriving(
        self, side: Side, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempts_module, "MAX_ANSWER_BYTES", 10)
        attempt = side.open()
        attempt.finished(200, Usage(), b"x" * 11, "application/json")
        (frame,) = await side.sent()
        assert isinstance(frame, Failed)
        assert frame.code == "too_large"
        assert frame.message == "the answer has 11 bytes, the limit is 10"

    async def test_many_frames_go_in_several_messages(self, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frames_module, "_MAX_MESSAGE_BYTES", 100)
        attempt = side.open()
        for n in range(50):
            attempt.delta([(0, [n])], b"0123456789")
        side.attempts.sender.flush()
        messages = [data for subject, data in side.bus.take() if subject == routes.step_of(ASKER)]
        assert max(map(len, messages)) <= 100
        assert [frame.seq for data in messages for frame in decode(data)] == list(range(50))


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 10),
    fates=st.lists(st.sampled_from(["fine", "lost", "doubled", "late"]), max_size=40),
    ticks=st.lists(st.booleans(), min_size=10, max_size=10),
)
def test_over_a_bad_wire_the_reader_gets_each_frame_once_and_the_worker_its_confirm(
    count: int, fates: list[str], ticks: list[bool]
) -> None:
    """No matter which messages are lost, doubled or late (frames and control alike), both sides end as they should."""

    async def main() -> None:
        wire = Wire(fates)
        asker = Asker(wire, FakePresence(worker("w1")))  # type: ignore[arg-type]  # ports in memory
        presence = FakePresence(gateway(asker.id))
        attempts = Attempts(wire, presence, process="w1", incarnation="i1")  # type: ignore[arg-type]
        await asker.start()
        await attempts.start()
        exchange = asker.open(request_id="r1", tenant="dev", pool="m", deadline_s=30)
        attempt = attempts.open(envelope(exchange.tag, asker.id), delivery(wire))
        attempt.started(CREATED, FINGERPRINT)
        for n in range(count):
            attempt.delta([(0, [n])], b"%d." % n)
            if ticks[n]:
                await asyncio.sleep(0)  # a message of its own
        attempt.finished(200, Usage(1, count), b"", "text/event-stream")
        data, ended = b"", False

        async def read() -> None:
            nonlocal data, ended
            while not ended:
                match await exchange.next():
                    case Chunk(chunk):
                        data += chunk
                    case Ended():
                        ended = True

        reader = asyncio.create_task(read())
        await wire.run(until=lambda: attempt.over.done() and ended)
        await reader
        assert data == b"".join(b"%d." % n for n in range(count))
        assert attempt.over.result() == CONFIRM
        exchange.close()
        attempts.close(attempt)
        await attempts.stop()
        await asker.stop()

    patch = pytest.MonkeyPatch()
    patch.setattr(attempts_module, "REPEAT_S", 0.002)  # a second of the protocol's time
    patch.setattr(asker_module, "_ASK_AGAIN_S", 0.001)
    try:
        asyncio.run(main())
    finally:
        patch.undo()

"""What workers write into the ledger: one event per request, before its end, whatever is delivered again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from tests.connected.conftest import MODEL, Connect
from tests.connected.rig import Call, Rig, WorkerSide, read
from tests.connected.test_durable_attempts import Kept, event

from inferbus import routes
from inferbus.answers import attempts as attempts_module
from inferbus.bus import Bus
from inferbus.bus.stored import read_stored
from inferbus.contracts.control import CONFIRM
from inferbus.contracts.prices import Price
from inferbus.contracts.step import Usage
from inferbus.contracts.usage import ABANDONED, AMENDED, CANCELLED, FINISHED, REJECTED, Figures, UsageEvent
from inferbus.errors import InferbusError
from inferbus.ledger.prices import set_price
from inferbus.ledger.usage_log import Record, UsageLog
from inferbus.models import apply_model
from inferbus.process import presence as presence_module
from inferbus.queue.delivery import Delivery
from inferbus.testing import NatsServer, eventually
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import reconcile
from inferbus.worker import failing as failing_module

PRICE = Price(input=1_000_000, output=2_000_000)
WITHIN_S = 20.0


@pytest.fixture
async def rig(server: NatsServer) -> AsyncIterator[Rig]:
    admin = await server.connect("admin")
    await apply_model(admin, MODEL)
    await set_price(admin, "m", PRICE)
    await admin.close()
    async with AsyncExitStack() as stack:
        yield Rig(server, stack)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol's seconds, shorter."""
    monkeypatch.setattr(presence_module, "BEAT_S", 0.1)
    monkeypatch.setattr(presence_module, "SILENT_S", 0.5)
    monkeypatch.setattr(presence_module, "_CHECK_S", 0.1)
    monkeypatch.setattr(attempts_module, "REPEAT_S", 0.2)
    monkeypatch.setattr(attempts_module, "ASKER_SILENT_S", 0.5)
    monkeypatch.setattr(failing_module, "_ASKER_GONE_S", 0.2)


async def events(bus: Bus) -> list[UsageEvent]:
    stored = await read_stored(bus, routes.STREAM_USAGE, routes.SUBJECTS_USAGE)
    return [msgspec.json.decode(one.data, type=UsageEvent) for one in stored]


def summed(found: list[UsageEvent]) -> Figures:
    return sum((one.figures for one in found), Figures())


async def one_call(worker: WorkerSide, n: int = 0) -> Call:
    await eventually(lambda: len(worker.engine.calls) > n, within_s=WITHIN_S)
    return worker.engine.calls[n]


async def test_a_finished_request_is_told_once_with_what_it_cost(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    exchange = await gateway.admit()
    call = await one_call(worker)
    call.say(b"a", b"b", b"c")
    call.end()
    assert await read(exchange) == b"abc"
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    (told,) = await events(worker.bus)
    assert (told.outcome, told.usage, told.cost, told.requests) == (FINISHED, Usage(1, 3), 7, 1)
    assert (told.tenant, told.model, told.pool, told.task, told.lane) == ("dev", "m", "m", "chat", "interactive")
    assert told.request_id == exchange.request_id
    assert told.price_version
    assert told.at > 1.7e9


async def test_a_request_costs_what_it_did_when_it_was_admitted(rig: Rig, server: NatsServer) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    exchange = await gateway.admit()
    call = await one_call(worker)
    admin = await server.connect("admin")
    dearer = await set_price(admin, "m", Price(input=9_000_000, output=9_000_000))
    await admin.close()
    await eventually(lambda: worker.prices.price_of("m") == dearer, within_s=WITHIN_S)
    call.say(b"a")
    call.end()
    await read(exchange)
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    (told,) = await events(worker.bus)
    assert told.cost == 1 + 2
    assert told.price_version != dearer.version


async def test_the_server_has_the_event_when_the_answer_s_end_is_read(rig: Rig, server: NatsServer) -> None:
    """It left before the end, on the same connection: nothing that comes after can lose it. The server stores it in a
    thread of its own, so it may be a moment later there."""
    gateway, worker = await rig.gateway(), await rig.worker()
    ledger = await server.connect("ledger")

    def answer(call: Call) -> None:
        call.say(b"a")
        call.end()

    worker.engine.answer = answer
    assert await read(await gateway.admit()) == b"a"
    worker.proxy.freeze()  # nothing that the worker says from here on arrives
    await eventually(lambda: is_told(ledger), within_s=WITHIN_S)
    await ledger.close()


async def is_told(bus: Bus) -> bool:
    return summed(await events(bus)).requests == 1


async def test_an_end_nobody_confirmed_before_its_worker_died_is_in_the_ledger(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    send = gateway.bus.send
    confirm = f".{CONFIRM}"
    monkeypatch.setattr(gateway.bus, "send", lambda s, d, r="": None if s.endswith(confirm) else send(s, d, r))
    exchange = await gateway.admit()
    call = await one_call(worker)
    call.say(b"a")
    call.end()
    assert await read(exchange) == b"a"
    await worker.proxy.refuse()  # as if killed: nothing it says arrives any more
    other = await rig.worker("worker-1", old_message_s=0.0)
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    assert other.engine.calls == [], "its asker has its end"
    assert [one.outcome for one in await events(other.bus)] == [FINISHED]


async def test_the_answer_the_client_got_is_what_counts_in_the_end(rig: Rig, soon: None) -> None:
    """The first worker's end never reached anybody, its event did; the second one's answer is longer."""
    gateway = await rig.gateway()
    first = await rig.worker()
    exchange = await gateway.admit()
    early = await one_call(first)
    # Its event is stored, its frames are not heard.
    first.attempts.sender.flush = lambda: None  # type: ignore[method-assign]  # what a cut does, at the exact moment
    early.say(b"x")
    early.end()
    await eventually(lambda: _has(first.bus, 1), within_s=WITHIN_S)
    await first.proxy.refuse()
    second = await rig.worker("worker-1")
    late = await one_call(second)
    late.say(b"a", b"b", b"c")
    late.end()
    assert await read(exchange) == b"abc"
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    told = await events(second.bus)
    assert [one.outcome for one in told] == [FINISHED, AMENDED]
    assert summed(told) == Figures(requests=1, prompt_tokens=1, completion_tokens=3, cost=7)
    assert told[1].at == told[0].at, "it counts for the same day"


@pytest.mark.parametrize("is_quick", [False, True], ids=["stopped", "ended before it was stopped"])
async def test_what_a_forgetful_server_delivers_again_changes_no_figure(
    rig: Rig, server: NatsServer, is_quick: bool
) -> None:
    """A server that is killed may forget that it delivered a message, and that it was acknowledged: its second run begins
    as the first one did, after the client has read its answer."""
    gateway, worker = await rig.gateway(), await rig.worker()
    exchange = await gateway.admit()
    call = await one_call(worker)
    operator = await server.connect("operator")
    stream = routes.stream_infer("local", "llm", routes.INTERACTIVE)
    (kept,) = await read_stored(operator, stream, routes.INFER_ALL)
    call.say(b"a", b"b", b"c")
    call.end()
    assert await read(exchange) == b"abc"
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    if is_quick:
        worker.engine.answer = Call.end
    headers = {name: value for name, value in kept.headers.items() if not name.startswith("Nats-")}
    await gateway.bus.request(kept.headers["Nats-Subject"], kept.data, headers)
    again = await one_call(worker, 1)
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    assert again.aborted or is_quick
    assert summed(await events(operator)) == Figures(requests=1, prompt_tokens=1, completion_tokens=3, cost=7)
    await operator.close()


async def _has(bus: Bus, count: int) -> bool:
    return len(await events(bus)) == count


async def test_what_was_spent_on_a_cancelled_request_is_in_the_ledger(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    exchange = await gateway.admit()
    call = await one_call(worker)
    call.say(b"a", b"b")
    await exchange.next()
    exchange.cancel()
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    (told,) = await events(worker.bus)
    assert (told.outcome, told.completion_tokens, told.requests) == (CANCELLED, 2, 1)


async def test_an_engine_that_refuses_a_request_costs_nothing(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    exchange = await gateway.admit(streamed=False)
    (await one_call(worker)).sink.finished(400, Usage(), b'{"error":{}}', "application/json")
    await read(exchange)
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    (told,) = await events(worker.bus)
    assert (told.outcome, told.cost, told.requests) == (REJECTED, 0, 1)


async def test_a_bug_is_in_the_ledger_and_charged_to_nobody(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    exchange = await gateway.admit()
    call = await one_call(worker)
    call.say(b"a", b"b")
    call.sink.failed(ZeroDivisionError())
    with pytest.raises(InferbusError):
        await read(exchange)
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    (told,) = await events(worker.bus)
    assert (told.outcome, told.cost, told.usage, told.wasted_tokens) == ("internal", 0, Usage(), 2)


async def test_a_dead_gateway_s_request_is_in_the_ledger_and_charged_to_nobody(rig: Rig, soon: None) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    await gateway.admit()
    call = await one_call(worker)
    call.say(b"a", b"b")
    await gateway.proxy.refuse()
    await eventually(lambda: _has(worker.bus, 1), within_s=WITHIN_S)
    (told,) = await events(worker.bus)
    assert (told.outcome, told.cost, told.usage, told.wasted_tokens) == (ABANDONED, 0, Usage(), 3)


async def test_a_durable_request_is_told_once(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    kept = Kept(gateway)
    await kept.ask()
    call = await one_call(worker)
    call.say(event(b"a"), event(b"b"))
    call.end()
    await kept.read()
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    (told,) = await events(worker.bus)
    assert (told.outcome, told.usage) == (FINISHED, Usage(1, 2))


async def test_without_its_stream_the_end_waits_and_then_is_loud(
    rig: Rig, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    operator = await server.connect("operator")
    await operator.request(f"$JS.API.STREAM.DELETE.{routes.STREAM_USAGE}")
    exchange = await gateway.admit()
    call = await one_call(worker)
    call.say(b"a")
    call.end()
    assert await read(exchange) == b"a", "the client does not wait for it"
    assert not await rig.queue_is_empty()
    await reconcile(operator, TopologySettings(), [MODEL])
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    assert [one.outcome for one in await events(worker.bus)] == [FINISHED]
    await operator.close()


async def test_what_cannot_be_stored_is_logged_whole_and_counted(
    server: NatsServer, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    operator, worker = await connect("operator"), await connect("worker")
    await operator.request(f"$JS.API.STREAM.DELETE.{routes.STREAM_USAGE}")
    registry = CollectorRegistry()
    log = UsageLog(worker, registry, hold_s=0.3)
    await log.start()
    await log.settle(log.begin("usage:a:1", make_event()), amend=True)
    await log.settle(log.begin("usage:a:2", make_event()), amend=True)
    assert registry.get_sample_value("inferbus_usage_late_total") == 2
    assert "usage_not_stored_yet" in (output := capsys.readouterr().out)
    assert "'request_id': 'r1'" in output
    await reconcile(operator, TopologySettings(), [MODEL])
    await eventually(lambda: _has(worker, 2), within_s=WITHIN_S)
    await operator.request(f"$JS.API.STREAM.DELETE.{routes.STREAM_USAGE}")
    await log.settle(log.begin("usage:a:3", make_event()), amend=True)
    assert registry.get_sample_value("inferbus_usage_lost_total") == 0
    await log.stop()
    assert registry.get_sample_value("inferbus_usage_lost_total") == 1
    settling = asyncio.create_task(log.settle(log.begin("usage:a:4", make_event()), amend=True))
    await asyncio.sleep(0)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    assert registry.get_sample_value("inferbus_usage_lost_total") == 2
    assert "the worker is stopping" in capsys.readouterr().out


async def test_a_durable_request_whose_event_was_lost_gets_it_when_it_is_delivered_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outcome was stored and its event was not, as when server and worker are killed at once."""
    gateway, worker = await rig.gateway(), await rig.worker()

    async def nothing(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(worker.usage_log, "settle", nothing)
    monkeypatch.setattr(worker.usage_log, "begin", lambda name, event, **_: Record(name, event, "-"))
    monkeypatch.setattr(Delivery, "ack_surely", nothing)
    kept = Kept(gateway)
    await kept.ask()
    call = await one_call(worker)
    call.say(event(b"a"), event(b"b"))
    call.end()
    await kept.read()
    assert await events(worker.bus) == []
    monkeypatch.undo()
    await worker.proxy.refuse()
    other = await rig.worker("worker-1", ack_wait_s=1.0)
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    assert other.engine.calls == []
    (told,) = await events(other.bus)
    assert (told.outcome, told.usage) == (FINISHED, Usage(1, 2))


async def test_a_slot_is_free_while_the_ledger_is_waited_for(rig: Rig, server: NatsServer) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    operator = await server.connect("operator")
    await operator.request(f"$JS.API.STREAM.DELETE.{routes.STREAM_USAGE}")
    for n in range(3 * worker.engine.slots):
        exchange = await gateway.admit()
        (await one_call(worker, n)).end()
        await read(exchange)
    assert not await rig.queue_is_empty()
    await reconcile(operator, TopologySettings(), [MODEL])
    await eventually(rig.queue_is_empty, within_s=WITHIN_S)
    assert summed(await events(worker.bus)).requests == 3 * worker.engine.slots
    await operator.close()


async def test_a_server_killed_before_it_answered_stores_it_once(server: NatsServer, connect: Connect) -> None:
    worker = await connect("worker")
    log = UsageLog(worker, CollectorRegistry())
    await log.start()
    for n in range(5):
        record = log.begin(f"usage:a:{n}", make_event())
        await asyncio.sleep(0)
        await server.restart()
        await asyncio.wait_for(log.settle(record, amend=True), 30)
    assert summed(await events(worker)).requests == 5


async def test_amendments_of_amendments_add_up(connect: Connect) -> None:
    worker = await connect("worker")
    log = UsageLog(worker, CollectorRegistry())
    await log.start()
    for tokens in (5, 9, 2, 2):
        wanted = msgspec.structs.replace(make_event(), completion_tokens=tokens, cost=tokens)
        await log.settle(log.begin("usage:a:1", wanted), amend=True)
    await log.settle(log.begin("usage:a:1", make_event()), amend=False)
    assert summed(await events(worker)) == Figures(requests=1, prompt_tokens=3, completion_tokens=2, cost=2)


def make_event() -> UsageEvent:
    return UsageEvent(
        request_id="r1", tenant="dev", key_id="k", team="", user="", model="m", pool="m", version="", task="chat",
        lane="interactive", prompt_tokens=3, completion_tokens=5, cached_tokens=0, queue_s=0.0, engine_s=0.1, cost=8,
        price_version="1", outcome=FINISHED, trace_id="", at=1763750001.5,
    )  # fmt: skip

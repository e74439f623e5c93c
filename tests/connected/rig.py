"""Both ends of the main path joined by a real server: gateways that admit and ask, workers with an engine on a string."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec
from prometheus_client import CollectorRegistry
from tests.connected.proxy import Proxy

from inferbus import routes
from inferbus.admission.admit import Admission, Ask
from inferbus.admission.identity import Identity
from inferbus.answers.asker import Asker
from inferbus.answers.attempts import Attempts
from inferbus.answers.exchange import Chunk, Ended, Exchange
from inferbus.bus import Bus
from inferbus.contracts.presence import READY, EngineStats, Presence
from inferbus.contracts.step import Usage
from inferbus.errors import EngineDead
from inferbus.ledger.prices import PriceBook
from inferbus.ledger.usage_log import UsageLog
from inferbus.models import ModelRegistry
from inferbus.process.presence import Beacon, PresenceTable
from inferbus.queue.intake import Intake, IntakeSettings
from inferbus.queue.slots import Slots
from inferbus.settings import BusSettings, TelemetrySettings
from inferbus.telemetry.tracing import Tracing
from inferbus.testing import NatsServer
from inferbus.topology.configs import ACK_WAIT_S
from inferbus.worker.billing import Billing
from inferbus.worker.metrics import WorkerMetrics
from inferbus.worker.ports import Sink, Work
from inferbus.worker.serving import Serving


class Call:
    """One request in the engine, which says what the test has it say."""

    def __init__(self, work: Work, sink: Sink) -> None:
        self.work = work
        self.sink = sink
        self.aborted = False
        self.resumed = work.resume.ids if work.resume is not None else []
        self._tokens = sum(len(ids) for _, ids in self.resumed)

    def say(self, *texts: bytes) -> None:
        for text in texts:
            self._tokens += 1
            self.sink.delta([(0, [self._tokens])], text)

    def end(self, data: bytes = b"") -> None:
        self.sink.finished(200, Usage(1, self._tokens), data, "application/json")


class StringEngine:
    """An engine that does nothing by itself; `answer` may be set to have it answer every call at once."""

    name = "string"
    fingerprint = "string"
    slots = 8

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answer: Callable[[Call], None] | None = None

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def submit(self, work: Work, sink: Sink) -> None:
        call = Call(work, sink)
        self.calls.append(call)
        if self.answer is not None:
            self.answer(call)

    def abort(self, request_id: str) -> None:
        for call in self.calls:
            if call.work.key == request_id and not call.aborted:
                call.aborted = True
                call.end()

    async def died(self) -> str:
        await asyncio.Event().wait()
        return ""

    def stats(self) -> EngineStats:
        return EngineStats()

    def die(self) -> None:
        for call in self.calls:
            call.sink.failed(EngineDead("boom"))


class WorkerSide:
    """A worker process's parts in this one, mostly behind a proxy of its own."""

    proxy: Proxy

    def __init__(
        self,
        bus: Bus,
        process: str,
        *,
        ack_wait_s: float = ACK_WAIT_S,
        old_message_s: float = 5.0,
        pool: str = "m",
        runtime: str = "llm",
        lane: str = routes.INTERACTIVE,
    ) -> None:
        self.bus = bus
        self._pool = pool
        self.process = process
        self.incarnation = f"{process}-1"
        self.engine = StringEngine()
        self.presence = PresenceTable(bus, bus.region)
        self.attempts = Attempts(bus, self.presence, process=process, incarnation=self.incarnation)
        registry = CollectorRegistry()
        self.usage_log, self.prices = UsageLog(bus, registry), PriceBook(bus)
        self.serving = Serving(
            bus,
            self.attempts,
            self.engine,
            Tracing("worker", TelemetrySettings()),
            WorkerMetrics(registry, pool),
            old_message_s=old_message_s,
            billing=Billing(self.usage_log, self.prices, model=pool),
        )
        self.beacon = Beacon(bus, self._describe)
        settings = IntakeSettings(
            stream=routes.stream_infer(bus.region, runtime, lane),
            consumer=routes.durable_worker(pool, 0),
            lane=lane,
            ack_wait_s=ack_wait_s,
        )
        self.intake = Intake(bus, settings, Slots(self.engine.slots), self.serving.on_delivery)

    def _describe(self) -> Presence:
        return Presence(
            process=self.process,
            role="worker",
            incarnation=self.incarnation,
            region=self.bus.region,
            state=READY,
            pools=[self._pool],
        )

    async def start(self) -> None:
        for part in (self.presence, self.attempts, self.prices, self.usage_log, self.beacon, self.intake):
            await part.start()
        await asyncio.wait_for(self.prices.loaded(), 5)

    async def stop(self) -> None:
        for part in (self.intake, self.attempts, self.usage_log, self.prices, self.beacon, self.presence):
            await part.stop()
        await self.bus.close()


class GatewaySide:
    """A gateway process's parts in this one, behind a proxy of its own."""

    def __init__(self, bus: Bus, proxy: Proxy, process: str) -> None:
        self.bus = bus
        self.proxy = proxy
        self.process = process
        self.models = ModelRegistry(bus)
        self.presence = PresenceTable(bus, bus.region)
        self.asker = Asker(bus, self.presence)
        self.beacon = Beacon(bus, self._describe)
        self.prices = PriceBook(bus)
        self.admission = Admission(bus, self.models, self.asker, self.presence, price_of=self.prices.price_of)

    def _describe(self) -> Presence:
        return Presence(
            process=self.process,
            role="gateway",
            incarnation=f"{self.process}-1",
            region=self.bus.region,
            state=READY,
            asker=self.asker.id,
        )

    async def start(self) -> None:
        for part in (self.presence, self.asker, self.models, self.prices, self.beacon):
            await part.start()
        await asyncio.wait_for(asyncio.gather(self.models.loaded(), self.prices.loaded()), 5)

    async def stop(self) -> None:
        for part in (self.asker, self.models, self.prices, self.beacon, self.presence):
            await part.stop()
        await self.bus.close()

    async def admit(self, *, body: bytes = b'{"model":"m"}', streamed: bool = True, deadline_s: float = 30) -> Exchange:
        ask = Ask(
            model="m", task="chat", path="/v1/chat/completions", body=body, streamed=streamed, deadline_s=deadline_s
        )
        return await self.admission.admit(Identity(tenant="dev"), ask)


class Rig:
    """Makes gateways and workers, and ends them all."""

    def __init__(self, server: NatsServer, stack: AsyncExitStack) -> None:
        self.server = server
        self._stack = stack

    async def _connect(self, role: str, name: str) -> tuple[Bus, Proxy]:
        proxy = await self._stack.enter_async_context(Proxy(self.server.port))
        settings: BusSettings = msgspec.structs.replace(self.server.settings(role), url=proxy.url)
        return await Bus.connect(settings, name=name), proxy

    async def gateway(self, process: str = "gateway-0") -> GatewaySide:
        gateway = GatewaySide(*await self._connect("gateway", process), process)
        await gateway.start()
        self._stack.push_async_callback(gateway.stop)
        return gateway

    async def worker(
        self, process: str = "worker-0", *, ack_wait_s: float = ACK_WAIT_S, old_message_s: float = 5.0,
        lane: str = routes.INTERACTIVE,
    ) -> WorkerSide:  # fmt: skip
        bus, proxy = await self._connect("worker", process)
        worker = WorkerSide(bus, process, ack_wait_s=ack_wait_s, old_message_s=old_message_s, lane=lane)
        worker.proxy = proxy
        await worker.start()
        self._stack.push_async_callback(worker.stop)
        return worker

    async def left(self) -> int:
        """Count the messages in the queue, running ones included."""
        bus = await self.server.connect("operator")
        answer = await bus.request(f"$JS.API.STREAM.INFO.{routes.stream_infer('local', 'llm', routes.INTERACTIVE)}")
        await bus.close()
        return int(msgspec.json.decode(answer.data)["state"]["messages"])

    async def queue_is_empty(self) -> bool:
        return await self.left() == 0


async def read(exchange: Exchange, *, within_s: float = 10.0) -> bytes:
    """Read an answer to its end and close it; gives the bytes, streamed or not."""
    data = b""
    try:
        async with asyncio.timeout(within_s):
            while True:
                match await exchange.next():
                    case Chunk(chunk):
                        data += chunk
                    case Ended(_, _, body, _):
                        return data + body
    finally:
        exchange.close()

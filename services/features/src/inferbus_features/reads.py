"""The door of reads: requests on `features.get.>`, taken in together and read a batch at a time.

One read of the store costs the same for one row as for several, nearly; so what has come while the last batch was read makes
the next one. A read is synchronous and holds this process meanwhile: batches are small, the store's calls have a bound, and
while it does not answer, requests are refused at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.bus import Bus
from inferbus.codec import from_json, to_json
from inferbus.contracts import features as wire
from inferbus.contracts.features import FeatureFault, GetAnswer, GetRequest
from inferbus.contracts.step import Usage
from inferbus.errors import (
    DeadlineWhileQueued,
    DependencyDown,
    InferbusError,
    NotFound,
    Overloaded,
    TenantOverloaded,
    Transient,
)
from inferbus_features.batches import Batcher, Waiting
from inferbus_features.domain.checking import Limits, check
from inferbus_features.domain.window import Window
from inferbus_features.known import KnownServices
from inferbus_features.metrics import ReadMetrics
from inferbus_features.paying import Paying
from inferbus_features.settings import FeaturesSettings
from inferbus_features.usage import Asker, ReadUsage

_REST_S = 0.25
"""For how long a store that did not answer is not asked."""
log = structlog.get_logger()


class ReadDoor:
    """Takes requests, and answers each once. `batcher` reads."""

    def __init__(
        self,
        bus: Bus,
        known: KnownServices,
        batcher: Batcher,
        usage: ReadUsage,
        paying: Paying,
        metrics: ReadMetrics,
        settings: FeaturesSettings,
    ) -> None:
        self._bus = bus
        self._known = known
        self._batcher = batcher
        self._usage = usage
        self._paying = paying
        self._reserving: dict[int, asyncio.Task[None]] = {}
        self._number = 0
        self._metrics = metrics
        self._settings = settings
        self._limits = Limits(rows=settings.max_rows, values=settings.max_values)
        self._window = Window(settings.window_s, settings.batch_requests)
        self._waiting: deque[Waiting] = deque()
        self._per_tenant: Counter[str] = Counter()
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._down_until = 0.0
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep_reading(), name="reads")
        subject = routes.FEATURES_GET_ALL
        self._subscription = await self._bus.listen(subject, self._on_message, queue=routes.QUEUE_FEATURES)

    async def stop(self) -> None:
        """Take nothing new, answer what waits."""
        old, self._subscription = self._subscription, None
        if old is not None:
            await self._bus.drain(old)
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("reads_not_drained", waiting=len(self._waiting))
        if self._task is not None:
            self._task.cancel()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _on_message(self, message: Msg) -> None:
        if not message.reply:
            return  # nobody waits for it
        now = time.monotonic()
        self._window.came(now)
        subject = routes.parse_features(message.subject)
        try:
            waiting = self._take(message, subject, now)
        except InferbusError as exc:
            self._refuse(message.reply, subject.name, exc)
            return
        self._per_tenant[subject.tenant] += 1
        self._idle.clear()
        if waiting.payer is None:
            self._waiting.append(waiting)
            self._some.set()
            return
        number = self._number = self._number + 1
        work = self._reserve(waiting, waiting.payer, number)
        self._reserving[number] = asyncio.create_task(work, name="reads-reserve")

    async def _reserve(self, waiting: Waiting, payer: Identity, number: int) -> None:
        """Have the limits of whoever asks count it, before it waits to be read."""
        try:
            reservation = await self._paying.reserve(payer, waiting.service.name, waiting.asked.rows)
        except InferbusError as exc:
            self._per_tenant[waiting.asker.tenant] -= 1
            self._refuse(waiting.reply, waiting.service.name, exc)
        else:
            self._waiting.append(msgspec.structs.replace(waiting, reservation=reservation))
        finally:
            del self._reserving[number]
            self._some.set()

    def _take(self, message: Msg, subject: routes.FeaturesSubject, now: float) -> Waiting:
        settings, tenant = self._settings, subject.tenant
        if len(self._waiting) + len(self._reserving) >= settings.max_waiting:
            raise Overloaded(f"{settings.max_waiting} requests wait for features already")
        if self._per_tenant[tenant] >= settings.max_waiting_per_tenant:
            raise TenantOverloaded(
                f"{settings.max_waiting_per_tenant} requests of this tenant wait for features already"
            )
        if now < self._down_until:
            raise DependencyDown("the feature store does not answer", retry_after_s=_REST_S)
        service = self._known.find(subject.name)
        if service is None or not service.is_open_to(tenant):
            raise NotFound(f"there is no feature service `{subject.name}`", param="service")
        request = from_json(message.data, GetRequest, what="the request")
        asked = check(request, service, self._limits)
        headers = message.headers or {}
        given = headers.get(wire.DEADLINE_MS, "")
        wait_s = int(given) / 1000 if given.isdigit() else settings.deadline_s
        key, team, user, payer = headers.get(wire.KEY, ""), headers.get(wire.TEAM, ""), headers.get(wire.USER, ""), None
        if not message.reply.startswith(routes.ADMITTED_INBOXES):
            identity = self._paying.identity_of(tenant, key, service.name)
            team, user = identity.team, identity.user
            payer = identity if self._paying.is_limited(identity, service.name) else None
        asker = Asker(tenant, key, team, user, service.name)
        return Waiting(message.reply, asker, service, asked, request.ages, now, now + wait_s, payer)

    async def _keep_reading(self) -> None:
        while True:
            await self._some.wait()
            wait_s = self._window.wait_s(len(self._waiting))
            if wait_s:
                await asyncio.sleep(wait_s)
            try:
                self._read_some()
            except Exception:  # whoever waits behind it must still be answered
                log.exception("reads_failed")
            if not self._waiting:
                self._some.clear()
                if not self._reserving:
                    self._idle.set()
            await asyncio.sleep(0)  # what has come meanwhile is taken in

    def _read_some(self) -> None:
        """Read one batch: what waits longest first, up to the rows a batch may have."""
        batch: list[Waiting] = []
        rows, settings, now = 0, self._settings, time.monotonic()
        while self._waiting and len(batch) < settings.batch_requests:
            if batch and rows + self._waiting[0].asked.rows > settings.batch_rows:
                break
            one = self._waiting.popleft()
            self._per_tenant[one.asker.tenant] -= 1
            if now > one.until:
                one.reservation.refund()
                self._refuse(
                    one.reply, one.service.name, DeadlineWhileQueued("the deadline passed before it could be read")
                )
                continue
            batch.append(one)
            rows += one.asked.rows
        self._metrics.waiting.set(len(self._waiting))
        if not self._waiting and not self._reserving:
            self._per_tenant.clear()
        if batch:
            self._metrics.batch_rows.observe(rows)
            self._batcher.read(batch, self._answer, self._on_down)

    def _answer(self, one: Waiting, outcome: GetAnswer | InferbusError) -> None:
        if isinstance(outcome, InferbusError):
            one.reservation.refund()
            self._refuse(one.reply, one.service.name, outcome)
            return
        one.reservation.settle(Usage(one.asked.rows))
        self._usage.add(one.asker, one.asked.rows)
        metrics, name = self._metrics, one.service.name
        metrics.seconds.observe(time.monotonic() - one.came)
        metrics.ok(name, one.asked.rows)
        self._send(one.reply, to_json(outcome))

    def _refuse(self, reply: str, service: str, error: InferbusError) -> None:
        known = self._known.find(service) is not None
        self._metrics.requests.labels(service if known else "unknown", error.code).inc()
        self._send(reply, to_json(GetAnswer(service=service, error=fault_of(error))))

    def _send(self, reply: str, data: bytes) -> None:
        try:
            self._bus.send(reply, data)
        except InferbusError as exc:
            log.warning("features_reply_not_sent", error=exc.message)

    def _on_down(self, why: str) -> None:
        if time.monotonic() >= self._down_until + 10 * _REST_S:
            log.warning("feature_store_down", error=why)
        self._metrics.store_down.inc()
        self._down_until = time.monotonic() + _REST_S


def fault_of(error: InferbusError) -> FeatureFault:
    """Write an error as it crosses the bus."""
    return FeatureFault(
        code=error.code, message=error.message, param=error.param or "",
        retry_after_s=error.retry_after_s if isinstance(error, Transient) else 0.0,
    )  # fmt: skip

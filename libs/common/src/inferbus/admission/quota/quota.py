"""Quota: reserve before the call, settle after it. Never over a limit, on any number of gateways (docs/adr/0011)."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NoReturn

import structlog

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.admission.quota.budgets import BudgetListener, Budgets
from inferbus.admission.quota.calling import Calling
from inferbus.admission.quota.counters import Counters
from inferbus.admission.quota.headers import rate_head, rate_headers
from inferbus.admission.quota.keeper import Keeper
from inferbus.admission.quota.lease import Lease
from inferbus.admission.quota.limits_book import LimitsBook
from inferbus.admission.quota.meter import (
    CONCURRENT,
    CONCURRENT_WORDS,
    COUNTED,
    PLATFORM,
    RPM,
    Amounts,
    Kind,
    Meter,
    Scope,
)
from inferbus.admission.quota.outstanding import OutstandingRecord, Tags
from inferbus.admission.quota.plan import Plan
from inferbus.admission.quota.reservation import UNLIMITED, Reservation
from inferbus.admission.quota.settings import OPEN, QuotaSettings
from inferbus.admission.quota.slots import SlotLease
from inferbus.admission.quota.tokens import Estimate
from inferbus.bus import Bus
from inferbus.bus.server_clock import ServerClock
from inferbus.contracts.limits import limit_key
from inferbus.contracts.prices import Price, cost
from inferbus.contracts.step import Usage
from inferbus.errors import DependencyDown, RateLimited

_MOST_PLANS = 16_384
_UNREACHABLE_S = 2.0
_SLOT_AGAIN_S = 1.0
PriceOf = Callable[[str], Price | None]
log = structlog.get_logger()


class Quota:
    """One per gateway. `gateways` tells how many share the limits; `price_of` gives a model's price: what has none costs
    nothing. `holder` is the asker whose requests these are, `tags` gives the tags of those that are open and the next."""

    def __init__(
        self,
        bus: Bus,
        settings: QuotaSettings,
        *,
        gateways: Callable[[], int],
        price_of: PriceOf = lambda _: None,
        listeners: Sequence[BudgetListener] = (),
        holder: str = "",
        tags: Tags = lambda: ([], 0),
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._gateways = gateways
        self._price_of = price_of
        self.refused: Counter[tuple[str, str]] = Counter()
        """Refusals, by scope (key, team, org, model) and field of the limits."""
        self._holder = holder or secrets.token_hex(8)
        self.clock = ServerClock()
        self.counters = Counters(bus)
        self.outstanding = OutstandingRecord(bus, self._holder, self.clock, tags, hold_s=settings.hold_s)
        self.book = LimitsBook(bus, self._on_limits)
        self._meters: dict[tuple[str, str], Meter] = {}
        self._slots: dict[str, SlotLease] = {}
        self._plans: dict[tuple[str, str, str, str], Plan | None] = {}
        budgets = Budgets(self.counters, settings.budget_percents, listeners)
        self.keeper = Keeper(bus, self.clock, budgets, self.outstanding)
        self.calling = Calling(bus, self._holder, gateways, lambda: self.outstanding.write(self.keeper.leases))

    async def start(self) -> None:
        await self.book.start()
        await self.calling.start()
        await self.keeper.start()

    async def loaded(self) -> None:
        await self.book.loaded()

    @property
    def connected(self) -> bool:
        return self._bus.connected

    @property
    def ready(self) -> bool:
        """Whether it can say what is limited, and by which clock."""
        return self.book.ready and self.clock.known

    async def stop(self) -> None:
        """Return what is not spent: requests that are still open stay counted as they were reserved, until the ledger
        gives back what they did not spend."""
        await self.keeper.stop()
        await self.calling.stop()
        await self.book.stop()

    async def reserve(self, identity: Identity, model: str, estimate: Callable[[], Estimate]) -> Reservation:
        """Take what a request may cost at most from every limit it falls under, or nothing.

        `estimate` is asked only where something is limited.

        Raises:
            RateLimited: a limit is used up; it says which and when its window ends.
            DependencyDown: the counters cannot be reached and the setting says `closed`.
        """
        plan = self._find_plan(identity, model)
        if plan is None:
            return UNLIMITED
        return await self._reserve(plan, model, estimate())

    def is_limited(self, identity: Identity, model: str) -> bool:
        """Whether any limit counts requests of this key for this model.

        Raises:
            DependencyDown: the limits are not loaded yet.
        """
        return self._find_plan(identity, model) is not None

    def _find_plan(self, identity: Identity, model: str) -> Plan | None:
        key = (identity.tenant, getattr(identity, "team", ""), identity.key_id, model)
        try:
            return self._plans[key]
        except KeyError:
            return self._plan_of(*key)

    async def _reserve(self, plan: Plan, model: str, estimate: Estimate) -> Reservation:
        now = self.clock()
        price = self._price_of(model) if plan.has_price else None
        reservation = Reservation(estimate, price, self.outstanding.open if plan.is_long else None)
        if plan.is_long:
            if now >= self.outstanding.fence:
                await self._renew()
            self.outstanding.open[reservation] = now
        amounts: Amounts = (1, estimate.total, _cost(price, estimate))
        try:
            taken = plan.try_take(amounts, now)
            if taken is not None:
                reservation.add_taken(taken)
            else:
                await self._take_each(plan, reservation, amounts, now)
            open_slots = plan.try_take_slots(now)
            if open_slots is not None:
                reservation.add_slots(open_slots)
            else:
                await self._take_slots(plan, reservation, now)
        except BaseException as error:
            reservation.refund()
            if isinstance(error, RateLimited):
                error.headers = rate_headers(plan.told, now)
            raise
        reservation.head = rate_head(plan.told, now)
        return reservation

    # --- one limit --------------------------------------------------------------------------------------------------

    async def _take_each(self, plan: Plan, reservation: Reservation, amounts: Amounts, now: float) -> None:
        """Take from one limit after the other; all counters that must be asked are asked at once."""
        for meter in plan.meters:
            amount = amounts[meter.counts]
            lease = meter.at(now)
            if amount > lease.share.free:
                lease.ask_ahead(amount)
        for meter in plan.meters:
            amount = amounts[meter.counts]
            lease = meter.at(now)
            if not lease.try_take(amount) and not await self._take(lease, amount):
                self._refuse(meter, amount, now)
            reservation.add(meter, lease, amount)

    async def _take_slots(self, plan: Plan, reservation: Reservation, now: float) -> None:
        for scope, slots in plan.slots:
            if not slots.try_take(now) and not await self._take_slot(slots):
                self._refuse_slot(scope, slots)
            reservation.add_slot(slots)
            if not slots.is_kept:
                self.keeper.look_after_slots(slots)

    async def _renew(self) -> None:
        """What is leased may have been given back by others meanwhile: find out first."""
        try:
            await self.outstanding.renew(self.keeper.leases)
        except DependencyDown as exc:
            if self._settings.when_unreachable != OPEN:
                raise _unreachable() from exc

    async def _take(self, lease: Lease, amount: int) -> bool:
        try:
            return await lease.take(amount)
        except DependencyDown as exc:
            if self._settings.when_unreachable == OPEN:
                return lease.borrow(amount)
            raise _unreachable() from exc

    async def _take_slot(self, slots: SlotLease) -> bool:
        try:
            return await slots.take()
        except DependencyDown as exc:
            if self._settings.when_unreachable == OPEN:
                return slots.borrow()
            raise _unreachable() from exc

    def _refuse(self, meter: Meter, amount: int, now: float) -> NoReturn:
        self.refused[meter.scope.kind, meter.kind.field] += 1
        of = f"{meter.scope.label}: the limit is {meter.limit} {meter.kind.words}"
        if amount > meter.limit:
            error = RateLimited(
                f"{of}, this request alone may need {amount}; a smaller max_tokens may help",
                retry_after_s=math.ceil(meter.reset_s(now)),
            )
            error.hopeless = True
            raise error
        left = max(0, meter.lease.share.remaining)
        needs = "" if meter.kind.name == RPM else f", {amount} are needed"
        raise RateLimited(f"{of}, {left} are left{needs}", retry_after_s=math.ceil(meter.reset_s(now)))

    def _refuse_slot(self, scope: Scope, slots: SlotLease) -> NoReturn:
        self.refused[scope.kind, CONCURRENT] += 1
        raise RateLimited(
            f"{scope.label}: the limit is {slots.limit} {CONCURRENT_WORDS}, all are in use", retry_after_s=_SLOT_AGAIN_S
        )

    # --- which limits ------------------------------------------------------------------------------------------------

    def _plan_of(self, tenant: str, team: str, key_id: str, model: str) -> Plan | None:
        """Gather the limits of a key, its team, its organisation and the model; None where there are none."""
        if not self.book.ready:
            raise DependencyDown("the limits are not loaded yet")
        meters: list[Meter] = []
        slots: list[tuple[Scope, SlotLease]] = []
        for scope in _scopes(tenant, team, key_id, model):
            limits = self.book.find(scope.key)
            if limits is None:
                continue
            counted = ((kind, getattr(limits, kind.field)) for kind in COUNTED)
            meters += [self._meter(scope, kind, limit) for kind, limit in counted if limit]
            if limits.concurrent:
                slots.append((scope, self._slot_lease(scope, limits.concurrent)))
        plan = Plan(meters, slots) if meters or slots else None
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[tenant, team, key_id, model] = plan
        return plan

    def _meter(self, scope: Scope, kind: Kind, limit: int) -> Meter:
        meter = self._meters.get((scope.key, kind.name))
        if meter is None:
            meter = Meter(
                scope, kind, limit, self.counters, self._gateways, self.keeper.look_after, self.clock(), self.calling
            )
            self._meters[scope.key, kind.name] = meter
        elif meter.limit != limit:
            meter.set_limit(limit)
        return meter

    def _slot_lease(self, scope: Scope, limit: int) -> SlotLease:
        slots = self._slots.get(scope.key)
        if slots is None:
            key = routes.slots_key(scope.tenant, f"{scope.token}-{CONCURRENT}")
            slots = SlotLease(self._bus, key, limit, self._holder, self.clock, self._gateways)
            self._slots[scope.key] = slots
        slots.limit = limit
        return slots

    def _on_limits(self, _: str) -> None:
        self._plans.clear()


def _scopes(tenant: str, team: str, key_id: str, model: str) -> list[Scope]:
    safe = routes.token_safe(model)
    scopes = []
    if key_id:
        scopes.append(Scope(limit_key("key", key_id), "this key", tenant, f"key-{key_id}"))
    if team:
        scopes.append(Scope(limit_key("team", tenant, team), f"team {team}", tenant, f"team-{team}"))
    scopes.append(Scope(limit_key("org", tenant), f"organisation {tenant}", tenant, "org"))
    scopes.append(Scope(limit_key("model", safe), f"model {model}", PLATFORM, f"model-{safe}"))
    return scopes


def _cost(price: Price | None, estimate: Estimate) -> int:
    return cost(price, Usage(estimate.prompt, estimate.completion)) if price is not None else 0


def _unreachable() -> DependencyDown:
    return DependencyDown(
        "the counters of limits cannot be reached; nothing was accepted", retry_after_s=_UNREACHABLE_S
    )

"""Known: what this process learns of the bus and follows from then on, so that it may ask for embeddings itself."""

from __future__ import annotations

from contextlib import AsyncExitStack

import msgspec
from prometheus_client import CollectorRegistry

from inferbus.admission.admit import Admission
from inferbus.admission.keys import KeyRing
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.settings import QuotaSettings
from inferbus.admission.quota.tokens import BodyEstimator
from inferbus.admission.withdrawals import Withdrawals
from inferbus.answers.asker import Asker
from inferbus.bus import Bus
from inferbus.errands import Errands
from inferbus.facts import Facts
from inferbus.ledger.prices import PriceBook
from inferbus.ledger.usage_log import UsageLog
from inferbus.models import ModelRegistry
from inferbus.process.presence import PresenceTable
from inferbus.settings import BusSettings, from_env
from inferbus.telemetry.tracing import Tracing
from inferbus_vectors.collections_view import CollectionsView
from inferbus_vectors.payers import Payers

_ASKERS = ("gateway", "batch", "vectors")


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """`view` are the collections, `payers` whom embeddings are charged to."""

    view: CollectionsView
    models: ModelRegistry
    presence: PresenceTable
    payers: Payers
    asker: Asker
    admission: Admission
    usage: UsageLog
    payload_bus: Bus


async def learn(
    bus: Bus,
    bus_settings: BusSettings,
    stack: AsyncExitStack,
    *,
    process: str,
    tracing: Tracing,
    registry: CollectorRegistry,
) -> Known:
    """Follow what admission must know, until the stack ends it; returns when all of it is loaded.

    Raises:
        DependencyDown: the bus cannot be reached.
    """
    payload_bus = await Bus.connect(bus_settings, name=f"{process}-payloads")
    stack.push_async_callback(payload_bus.close)
    models, keys, presence, view = (
        ModelRegistry(bus),
        KeyRing(bus, b""),
        PresenceTable(bus, bus.region),
        CollectionsView(bus),
    )
    asker, errands, prices, usage = Asker(bus, presence), Errands(), PriceBook(bus), UsageLog(bus, registry)
    settings = from_env(QuotaSettings, "quota")
    quota = Quota(
        bus, settings, gateways=lambda: sum(presence.processes(role) for role in _ASKERS), price_of=prices.price_of,
        holder=asker.id, tags=asker.tags,
    )  # fmt: skip
    admission = Admission(
        bus, models, asker, presence, payload_bus=payload_bus, tracing=tracing, quota=quota,
        withdrawals=Withdrawals(bus, Facts(bus, "vectors", errands), errands, asker=asker.id),
        price_of=prices.price_of, estimator=BodyEstimator(default_completion=settings.default_completion_tokens),
    )  # fmt: skip
    stack.push_async_callback(errands.stop)
    await asker.start()
    stack.push_async_callback(asker.stop)
    await usage.start()
    stack.push_async_callback(usage.stop)
    for learning in (presence, models, keys, prices, quota, view):
        await learning.start()
        stack.push_async_callback(learning.stop)
    for loading in (models, keys, prices, quota, view):
        await loading.loaded()
    return Known(
        view=view, models=models, presence=presence, payers=Payers(keys), asker=asker, admission=admission, usage=usage,
        payload_bus=payload_bus,
    )  # fmt: skip

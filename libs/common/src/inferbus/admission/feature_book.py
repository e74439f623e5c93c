"""What is defined of features, in the bucket `features`: stored with an audit event, read by whoever wants to know."""

from __future__ import annotations

import time

import msgspec

from inferbus import routes
from inferbus.admission.audit import Actor, AuditedStore, Change
from inferbus.bus import Bus
from inferbus.codec import from_json
from inferbus.contracts.features import CATALOGUE_KEY, REGISTRY_KEY, Catalogue, Compiled


async def stored_catalogue(bus: Bus) -> Catalogue | None:
    """Read the catalogue; None: nothing was ever applied.

    Raises:
        DependencyDown: the bus is away.
    """
    stored = await bus.kv_get(routes.KV_FEATURES, CATALOGUE_KEY)
    return None if stored is None else from_json(stored, Catalogue, what="the catalogue of features")


async def store_definitions(bus: Bus, compiled: Compiled, actor: Actor) -> Catalogue:
    """Make a compiled repository what is defined. Every features process has loaded it a moment later.

    The registry goes first: who sees the new catalogue finds the registry it is of. Until then the old one is served on.

    Raises:
        DependencyDown: the bus is away. TooLarge: the registry is over the bus's limit of a message.
    """
    catalogue = msgspec.structs.replace(compiled.catalogue, applied_at=round(time.time(), 3), applied_by=actor.name)
    await bus.kv_put(routes.KV_FEATURES, REGISTRY_KEY, compiled.registry)
    change = Change(bucket=routes.KV_FEATURES, key=CATALOGUE_KEY, action="features_applied", replaces=True)
    await AuditedStore(bus, actor).change(change, Catalogue, lambda _: catalogue)
    return catalogue

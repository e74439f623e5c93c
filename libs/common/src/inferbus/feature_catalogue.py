"""The catalogue of features on the bus: written when a repository is applied, with what that changes for whom."""

from __future__ import annotations

import time

import msgspec

from inferbus import routes
from inferbus.admission.audit import Actor, AuditedStore, Change
from inferbus.bus import Bus
from inferbus.contracts.features import CATALOGUE_KEY, REGISTRY_KEY, Catalogue, CompiledRepository
from inferbus.errors import InvalidRequest, TooLarge

_MAX_BYTES = 7 * 1024 * 1024


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository that is applied changes, by name: of services, of views, and of features as `view:feature`."""

    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []


async def apply_compiled(bus: Bus, compiled: CompiledRepository, actor: Actor) -> tuple[Catalogue, Changes]:
    """Make a compiled repository what is defined; every features process loads it as soon as it hears of it.

    Raises:
        InvalidRequest: it could not be compiled. TooLarge: the bus does not take it. DependencyDown: the bus is away.
    """
    if compiled.catalogue is None:
        raise InvalidRequest(compiled.error or "the repository could not be compiled", param="folder")
    if len(compiled.registry) > _MAX_BYTES:
        raise TooLarge(f"the registry has {len(compiled.registry)} bytes, the bus takes at most {_MAX_BYTES}")
    new = msgspec.structs.replace(compiled.catalogue, applied_at=time.time(), applied_by=actor.name)
    store = AuditedStore(bus, actor)
    before = await store.find(routes.KV_FEATURES, CATALOGUE_KEY, Catalogue)
    if before is not None and before.revision == new.revision:
        return before, Changes()
    await bus.kv_put(routes.KV_FEATURES, REGISTRY_KEY, compiled.registry)
    change = Change(bucket=routes.KV_FEATURES, key=CATALOGUE_KEY, action="features_applied", replaces=True)
    await store.change(change, Catalogue, lambda _: new)
    return new, changes_of(before, new)


def changes_of(before: Catalogue | None, after: Catalogue) -> Changes:
    """Compare what was defined with what is."""
    old, new = _records(before) if before is not None else {}, _records(after)
    return Changes(
        added=sorted(set(new) - set(old)),
        changed=sorted(name for name in set(new) & set(old) if new[name] != old[name]),
        removed=sorted(set(old) - set(new)),
    )


def _records(catalogue: Catalogue) -> dict[str, object]:
    found: dict[str, object] = {f"service {one.name}": one for one in catalogue.services}
    for view in catalogue.views:
        found[f"view {view.name}"] = msgspec.structs.replace(view, features=[])
        found |= {f"feature {view.name}:{one.name}": one for one in view.features}
    return found

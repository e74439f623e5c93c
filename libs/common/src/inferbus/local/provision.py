"""What a fresh platform is given over the bus: its development key and the entries of the models it serves."""

from __future__ import annotations

import msgspec

from inferbus import routes
from inferbus.admission.administration import open_administration
from inferbus.admission.audit import Actor
from inferbus.admission.key_book import drawn
from inferbus.admission.keys import check_key
from inferbus.admission.wanted import NewKey
from inferbus.bus import Bus
from inferbus.contracts.keys import KeyEntry
from inferbus.contracts.models import ModelEntry
from inferbus.errors import Unauthenticated
from inferbus.local.layout import Layout
from inferbus.local.secrets import Secrets
from inferbus.models import apply_model, remove_model
from inferbus.private_files import write_private

DEV_TENANT = "dev"
_ACTOR = Actor(name="cli:inferbus up")


async def provide_dev_key(bus: Bus, layout: Layout, secrets: Secrets) -> str:
    """Give the development key of `.inferbus/dev-key`, and see that the bus knows it; made anew where it does not.

    Raises:
        DependencyDown: the bus is away.
    """
    pepper = secrets.key_pepper.encode()
    key = layout.dev_key.read_text().strip() if layout.dev_key.exists() else ""
    if key and await _is_known(bus, key, pepper):
        return key
    keys = open_administration(bus, pepper, _ACTOR).keys
    key, _ = await keys.create(NewKey(tenant=DEV_TENANT, name="development"), drawn())
    write_private(layout.dev_key, f"{key}\n".encode())
    return key


async def _is_known(bus: Bus, key: str, pepper: bytes) -> bool:
    parts = key.split("-")
    if len(parts) != 3:
        return False
    stored = await bus.kv_get(routes.KV_KEYS, parts[1])
    entry = msgspec.json.decode(stored, type=KeyEntry) if stored else None
    try:
        check_key(key, entry, pepper)
    except Unauthenticated:
        return False
    return True


async def provide_models(bus: Bus, wanted: list[ModelEntry], before: list[str]) -> None:
    """Apply the models of this run, and remove those a former run applied (`before`) that nobody serves now.

    An entry that is there already with the same pool is left alone: somebody may have changed its limits.

    Raises:
        DependencyDown: the bus is away.
    """
    for name in set(before) - {entry.name for entry in wanted}:
        await remove_model(bus, name, _ACTOR)
    for entry in wanted:
        stored = await bus.kv_get(routes.KV_MODELS, routes.token_safe(entry.name))
        known = msgspec.json.decode(stored, type=ModelEntry) if stored else None
        if known is None or (known.pool, known.runtime, known.owned_by) != (entry.pool, entry.runtime, entry.owned_by):
            await apply_model(bus, entry, _ACTOR)

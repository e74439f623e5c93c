"""ModelRegistry: the `models` bucket as a local copy that is never more than a moment old, and how it is written."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import structlog

from inferbus import routes
from inferbus.admission.audit import PROGRAM, Actor, AuditedStore, Change
from inferbus.bus import Bus
from inferbus.bus.local_copy import LocalCopy
from inferbus.contracts.models import DIRECT, DURABLE, TASKS, ModelEntry
from inferbus.errors import InvalidRequest
from inferbus.queue.buckets import check_buckets
from inferbus.routes import token_safe

log = structlog.get_logger()


class ModelRegistry(LocalCopy):
    """Resolve model names and aliases without asking anybody. A model exists because it was applied, not because a
    worker happens to live."""

    def __init__(self, bus: Bus, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called after every change, the first load included."""
        self._changed = on_change
        self._entries: dict[str, ModelEntry] = {}
        self._names: dict[str, ModelEntry] = {}
        super().__init__(bus, routes.KV_MODELS)
        self.version = 0

    def resolve(self, name: str) -> ModelEntry | None:
        """Find a model by its name, an alias, or the token-safe form of either."""
        return self._names.get(name)

    def all(self) -> list[ModelEntry]:
        return sorted(self._entries.values(), key=lambda entry: entry.name)

    def _on_change(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._entries.pop(key, None)
        else:
            try:
                self._entries[key] = check_entry(msgspec.json.decode(value, type=ModelEntry))
            except (msgspec.DecodeError, InvalidRequest) as exc:
                # What was known of it stays. One bad entry must not keep topology from reconciling the others.
                log.error("model_entry_refused", key=key, error=str(exc))
                return
        self.version += 1
        self._names = _index(self.all())
        self._changed()


def _index(entries: list[ModelEntry]) -> dict[str, ModelEntry]:
    """Give every entry by its name and aliases: names win over aliases, both over token-safe forms of others."""
    names: dict[str, ModelEntry] = {}
    for entry in entries:
        for name in (entry.name, *entry.aliases):
            names.setdefault(token_safe(name), entry)
    for entry in entries:
        names |= dict.fromkeys(entry.aliases, entry)
    return names | {entry.name: entry for entry in entries}


def check_entry(entry: ModelEntry) -> ModelEntry:
    """Refuse an entry that could never work.

    Raises:
        InvalidRequest: the message names the field.
    """
    if not entry.name:
        raise InvalidRequest("name is empty", param="name")
    for field, value in (("pool", entry.pool), ("runtime", entry.runtime)):
        if not value or token_safe(value) != value:
            raise InvalidRequest(f"{field} {value!r} is not a subject token (letters, digits, _ and -)", param=field)
    if unknown := set(entry.tasks) - set(TASKS):
        raise InvalidRequest(f"unknown tasks {sorted(unknown)}; known: {', '.join(TASKS)}", param="tasks")
    if entry.delivery not in (DURABLE, DIRECT):
        raise InvalidRequest(f"delivery {entry.delivery!r} is none of {DURABLE}, {DIRECT}", param="delivery")
    if not entry.server_name.isprintable() or "/" in entry.server_name:
        raise InvalidRequest("server_name is printable and has no /", param="server_name")
    check_buckets(entry.buckets)
    if min(entry.limits.max_pending, entry.limits.max_pending_per_tenant, entry.limits.max_body_bytes) < 1:
        raise InvalidRequest("limits must be at least 1", param="limits")
    if min(entry.limits.default_deadline_s, entry.limits.default_deadline_batch_s) <= 0:
        raise InvalidRequest("deadlines must be over 0 seconds", param="limits")
    if not all(tag and tag.isprintable() for tag in entry.tags):
        raise InvalidRequest("tags are words, not empty", param="tags")
    return entry


async def apply_model(bus: Bus, entry: ModelEntry, actor: Actor = PROGRAM) -> None:
    """Make one model known or change it, with an audit event. Streams and consumers follow by the topology process, which
    watches the bucket. An entry that says nothing of when it was made keeps what is known of it.

    Raises:
        InvalidRequest: the message names the field. DependencyDown: the bus is away. Overloaded: others are changing it.
    """
    check_entry(entry)

    def decide(before: ModelEntry | None) -> ModelEntry:
        created = entry.created or (before.created if before is not None else 0) or int(time.time())
        return msgspec.structs.replace(entry, created=created)

    await AuditedStore(bus, actor).change(_change(entry.name, "model_applied"), ModelEntry, decide)


async def remove_model(bus: Bus, name: str, actor: Actor = PROGRAM) -> None:
    """Forget a model, with an audit event; one that is not there stays so. Raises as `apply_model`."""
    await AuditedStore(bus, actor).change(_change(name, "model_removed"), ModelEntry, lambda _: None)


def _change(name: str, action: str) -> Change:
    return Change(bucket=routes.KV_MODELS, key=token_safe(name), action=action, replaces=True)

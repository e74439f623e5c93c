"""API keys: `ib-<id>-<secret>`, looked up by id, compared as an HMAC. The secret is stored nowhere."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Sequence

import msgspec
import structlog

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.bus import Bus
from inferbus.contracts.keys import KeyEntry
from inferbus.errors import InvalidRequest, Unauthenticated
from inferbus.watch import KvWatch

_MAX_ACCEPTED = 4096
log = structlog.get_logger()


def make_key(
    tenant: str, pepper: bytes, *, name: str = "", lanes: Sequence[str] = routes.LANES
) -> tuple[str, KeyEntry]:
    """Make a new key and the entry that recognises it.

    Raises:
        InvalidRequest: the tenant is not `[a-z0-9_-]`.
    """
    if not routes.is_tenant(tenant):
        raise InvalidRequest(f"tenant {tenant!r}: use a-z, 0-9, _ and -", param="tenant")
    id_, secret = secrets.token_hex(6), secrets.token_hex(24)
    entry = KeyEntry(
        id=id_, tenant=tenant, mac=_mac(pepper, secret), name=name, created=int(time.time()), lanes=tuple(lanes)
    )
    return f"ib-{id_}-{secret}", entry


def check_key(key: str, entry: KeyEntry | None, pepper: bytes) -> Identity:
    """Compare a key with its entry, in constant time.

    Raises:
        Unauthenticated: unknown, disabled or wrong; the message does not say which.
    """
    secret = key.rsplit("-", 1)[-1]
    expected = entry.mac if entry is not None else _mac(pepper, "")
    if not hmac.compare_digest(_mac(pepper, secret), expected) or entry is None or entry.disabled:
        raise Unauthenticated("Incorrect API key provided")
    return Identity(tenant=entry.tenant, key_id=entry.id, lanes=entry.lanes)


class KeyRing:
    """The `keys` bucket as a local copy: a revoked key stops working within a moment, everywhere."""

    def __init__(self, bus: Bus, pepper: bytes) -> None:
        self._pepper = pepper
        self._entries: dict[str, KeyEntry] = {}
        self._accepted: dict[str, tuple[KeyEntry, Identity]] = {}
        self._watch = KvWatch(bus, routes.KV_KEYS, self._on_change)

    async def start(self) -> None:
        await self._watch.start()

    async def loaded(self) -> None:
        """Wait until every stored key is known."""
        await self._watch.ready.wait()

    async def stop(self) -> None:
        await self._watch.stop()

    @property
    def ready(self) -> bool:
        return self._watch.ready.is_set()

    def authenticate(self, authorization: str | None) -> Identity:
        """Turn an `Authorization: Bearer ib-...` header into an identity.

        Raises:
            Unauthenticated: the header is missing or the key is not one of ours.
        """
        accepted = self._accepted.get(authorization or "")
        if accepted is not None and self._entries.get(accepted[0].id) is accepted[0]:
            return accepted[1]  # the very header that was checked against this very entry
        if not authorization:
            raise Unauthenticated("No API key provided: send `Authorization: Bearer ib-...`")
        scheme, _, key = authorization.partition(" ")
        parts = key.strip().split("-")
        if scheme.lower() != "bearer" or len(parts) != 3 or parts[0] != "ib":
            raise Unauthenticated("Incorrect API key provided")
        entry = self._entries.get(parts[1])
        identity = check_key(key.strip(), entry, self._pepper)
        if entry is not None:
            if len(self._accepted) >= _MAX_ACCEPTED:
                self._accepted.clear()
            self._accepted[authorization] = (entry, identity)
        return identity

    def _on_change(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._entries.pop(key, None)
            return
        try:
            self._entries[key] = msgspec.json.decode(value, type=KeyEntry)
        except msgspec.DecodeError as exc:
            self._entries.pop(key, None)
            log.error("key_entry_unreadable", key=key, error=str(exc))


async def store_key(bus: Bus, entry: KeyEntry) -> None:
    await bus.kv_put(routes.KV_KEYS, entry.id, msgspec.json.encode(entry))


def _mac(pepper: bytes, secret: str) -> str:
    return hmac.digest(pepper, secret.encode(), "sha256").hex()

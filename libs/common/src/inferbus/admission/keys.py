"""API keys: `ib-<id>-<secret>`, looked up by id, compared as an HMAC. The secret is stored nowhere."""

from __future__ import annotations

import hmac
import math
import secrets
import time
from collections.abc import Sequence

import msgspec
import structlog

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.admission.members import Members
from inferbus.admission.narrowing import identity_of, identity_of_tenant
from inferbus.bus import Bus
from inferbus.bus.watch import KvWatch
from inferbus.contracts.directory import Member
from inferbus.contracts.keys import KeyEntry
from inferbus.errors import DependencyDown, Forbidden, InvalidRequest, Unauthenticated

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
        id=id_, tenant=tenant, mac=mac_of(pepper, secret), name=name, created=int(time.time()), lanes=tuple(lanes)
    )
    return f"ib-{id_}-{secret}", entry


def check_key(
    key: str, entry: KeyEntry | None, pepper: bytes, *, now: float | None = None, above: Sequence[Member] | None = ()
) -> Identity:
    """Compare a key with its entry, in constant time. `now` is in Unix seconds, None: this machine's; `above` what lies
    above the key, None: something there is disabled.

    Raises:
        Unauthenticated: unknown, disabled, expired or wrong; the message does not say which.
    """
    now = time.time() if now is None else now
    mac = mac_of(pepper, key.rsplit("-", 1)[-1])
    is_current = hmac.compare_digest(mac, entry.mac if entry is not None else mac_of(pepper, ""))
    is_previous = hmac.compare_digest(mac, entry.previous_mac if entry is not None else "")
    if entry is None or not (is_current or (is_previous and now < entry.previous_until)):
        raise _refused()
    if entry.disabled or above is None or 0 < entry.expires <= now:
        raise _refused()
    return identity_of(entry, above)


class _Accepted(msgspec.Struct, frozen=True):
    """A header that was checked, and until when (server time) it holds if nothing is changed."""

    entry: KeyEntry
    identity: Identity
    until: float


class KeyRing:
    """The `keys` and `directory` buckets as a local copy: what is revoked stops working within a moment, everywhere.

    A key ends by the bus's clock (`ServerClock`), not by each gateway's own.
    """

    def __init__(self, bus: Bus, pepper: bytes) -> None:
        self._pepper = pepper
        self._entries: dict[str, KeyEntry] = {}
        self._accepted: dict[str, _Accepted] = {}
        self._members = Members(bus, self._accepted.clear)
        self._watch = KvWatch(bus, routes.KV_KEYS, self._on_change)

    async def start(self) -> None:
        await self._members.watch.start()
        await self._watch.start()

    async def loaded(self) -> None:
        """Wait until every stored key, and what lies above it, is known."""
        await self._members.watch.ready.wait()
        await self._watch.ready.wait()

    async def stop(self) -> None:
        await self._watch.stop()
        await self._members.watch.stop()

    @property
    def ready(self) -> bool:
        return self._watch.ready.is_set() and self._members.watch.ready.is_set()

    def authenticate(self, authorization: str | None) -> Identity:
        """Turn an `Authorization: Bearer ib-...` header into an identity.

        Raises:
            Unauthenticated: the header is missing or the key is not one of ours.
            DependencyDown: what is stored has not been read yet.
        """
        accepted = self._accepted.get(authorization or "")
        if (
            accepted is not None
            and self._entries.get(accepted.entry.id) is accepted.entry
            and (accepted.until == math.inf or self._watch.clock.now() < accepted.until)
        ):
            return accepted.identity  # the very header that was checked against this very entry
        if not authorization:
            raise Unauthenticated("No API key provided: send `Authorization: Bearer ib-...`")
        scheme, _, key = authorization.partition(" ")
        parts = key.strip().split("-")
        if scheme.lower() != "bearer" or len(parts) != 3 or parts[0] != "ib":
            raise _refused()
        if not self.ready:
            raise DependencyDown("the keys are not loaded yet")
        return self._check(authorization, key.strip(), self._entries.get(parts[1]))

    def of_tenant(self, tenant: str) -> Identity:
        """Give the identity of a producer on the bus, which the bus itself has authenticated.

        Raises:
            Forbidden: its organisation is disabled. DependencyDown: what is stored has not been read yet.
        """
        if not self.ready:
            raise DependencyDown("the keys are not loaded yet")
        organisation = self._members.organisation(tenant)
        if organisation is None and self._members.has_organisation(tenant):
            raise Forbidden(f"the organisation {tenant} is disabled")
        return identity_of_tenant(tenant, organisation)

    def of_key(self, key_id: str) -> Identity:
        """Give the identity of a key whose owner was authenticated before: who asks has its id, and not its secret.

        Raises:
            Unauthenticated: it is gone, disabled or expired. DependencyDown: what is stored has not been read yet.
        """
        if not self.ready:
            raise DependencyDown("the keys are not loaded yet")
        entry = self._entries.get(key_id)
        above = self._members.above(entry) if entry is not None else None
        if entry is None or entry.disabled or above is None or 0 < entry.expires <= self._watch.clock.now():
            raise _refused()
        return identity_of(entry, above)

    def _check(self, authorization: str, key: str, entry: KeyEntry | None) -> Identity:
        now = self._watch.clock.now()
        above = self._members.above(entry) if entry is not None else ()
        identity = check_key(key, entry, self._pepper, now=now, above=above)
        if entry is not None:
            if len(self._accepted) >= _MAX_ACCEPTED:
                self._accepted.clear()
            ends = [float(at) for at in (entry.expires, entry.previous_until) if at > now]
            self._accepted[authorization] = _Accepted(entry, identity, min(ends, default=math.inf))
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


def mac_of(pepper: bytes, secret: str) -> str:
    """Hash a secret as it is stored."""
    return hmac.digest(pepper, secret.encode(), "sha256").hex()


def _refused() -> Unauthenticated:
    return Unauthenticated("Incorrect API key provided")

"""Durable records: which durable requests there are, and which request an idempotency key stands for.

Both buckets are written with create and compare-and-set only, so that of several gateways one is first.
"""

from __future__ import annotations

import hashlib
import secrets

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import HOLD_S, Stored, last_stored
from inferbus.codec import from_json, to_json
from inferbus.contracts.durable import DurableRequest, IdempotencyKey


class KnownKey(msgspec.Struct, frozen=True):
    """What an idempotency key stands for, and the revision to replace it at."""

    entry: IdempotencyKey
    revision: int


class DurableRecords:
    """The buckets `requests` and `idempotency`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def create(self, tenant: str, record: DurableRequest) -> DurableRequest | None:
        """Note a request; returns the one that was there already under its id, None if this is now it.

        Raises:
            DependencyDown: the bus is away.
        """
        found = await self._create(routes.KV_REQUESTS, routes.tenant_key(tenant, record.request_id), to_json(record))
        return None if found is None else _request_of(found)

    async def find(self, tenant: str, request_id: str) -> DurableRequest | None:
        found = await self._read(routes.KV_REQUESTS, routes.tenant_key(tenant, request_id))
        return None if found is None or _is_marker(found) else _request_of(found)

    async def remove(self, tenant: str, request_id: str) -> None:
        """Forget a request that was not accepted after all."""
        await self._bus.kv_delete(routes.KV_REQUESTS, routes.tenant_key(tenant, request_id))

    async def claim(self, tenant: str, key: str, entry: IdempotencyKey) -> KnownKey | None:
        """Have an idempotency key stand for a request; returns what it stands for already, None if this is now it."""
        found = await self._create(routes.KV_IDEMPOTENCY, _key_of(tenant, key), to_json(entry))
        return None if found is None else KnownKey(from_json(found.data, IdempotencyKey, what="key"), found.seq)

    async def replace(self, tenant: str, key: str, entry: IdempotencyKey, *, revision: int) -> bool:
        """Have a key stand for another request, unless somebody else was first."""
        return await self._put(routes.KV_IDEMPOTENCY, _key_of(tenant, key), to_json(entry), revision)

    async def release(self, tenant: str, key: str) -> None:
        """Forget a key whose request was not accepted."""
        await self._bus.kv_delete(routes.KV_IDEMPOTENCY, _key_of(tenant, key))

    async def _create(self, bucket: str, name: str, value: bytes) -> Stored | None:
        expected = 0
        while not await self._put(bucket, name, value, expected):
            found = await self._read(bucket, name)
            if found is None:
                expected = 0  # it expired in between
            elif _is_marker(found):
                expected = found.seq  # it was deleted
            else:
                return None if found.data == value else found  # ours, and its acknowledgement was lost
        return None

    async def _read(self, bucket: str, name: str) -> Stored | None:
        return await last_stored(self._bus, routes.kv_stream(bucket), routes.kv_subject(bucket, name), hold_s=HOLD_S)

    async def _put(self, bucket: str, name: str, value: bytes, expected: int) -> bool:
        headers = {EXPECTED: str(expected)}
        try:
            await self._bus.accept(routes.kv_subject(bucket, name), value, headers, msg_id=secrets.token_hex(12))
        except WrongSequence:
            return False
        return True


def _is_marker(found: Stored) -> bool:
    return "KV-Operation" in found.headers or "Nats-Marker-Reason" in found.headers


def _request_of(found: Stored) -> DurableRequest:
    return from_json(found.data, DurableRequest, what="durable request")


def _key_of(tenant: str, key: str) -> str:
    return routes.tenant_key(tenant, hashlib.sha256(key.encode()).hexdigest()[:40])

"""The bus: a connection, and what JetStream adds to it: the durable accept, and buckets.

It knows connections, subjects given to it and JetStream's answers; it knows no model, tenant or frame.
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from inferbus import routes
from inferbus.bus.core import Core
from inferbus.bus.pub_ack import sequence_of
from inferbus.bus.waiting import NotPermitted
from inferbus.errors import DependencyDown

AGAIN_S, MIN_ANSWER_S = 0.05, 0.5
"""A durable publish that failed is tried again after so long; each try waits for an answer so long at least."""


class _Removed(msgspec.Struct):
    success: bool = False


class _StreamState(msgspec.Struct, frozen=True):
    subjects: dict[str, int] = {}


class _StreamInfo(msgspec.Struct):
    state: _StreamState = _StreamState()


class Bus(Core):
    """One connection. Made by `Bus.connect`, ended by `close`."""

    async def accept(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str],
        *,
        msg_id: str | None = None,
        ttl_s: int | None = None,
        hold_s: float = 3.0,
        soon: bool = False,
    ) -> int:
        """Publish durably: when this returns, the message survives any process kill. `soon`: as `publish`.

        While the bus is away it holds the message up to `hold_s` seconds; retries carry the same `msg_id`.

        Returns: the sequence in the stream.

        Raises:
            DependencyDown: the bus stayed away, or no stream takes the subject, or we may not (`NotPermitted`).
            TenantOverloaded: the subject's own bound is reached (err_code 10077, per subject).
            Overloaded: the stream is full.
            TooLarge: over the server's maximum.
        """
        headers = named(headers, msg_id, ttl_s)
        give_up = time.monotonic() + hold_s
        while True:
            left = give_up - time.monotonic()
            try:
                await self.wait_connected(max(0.01, left))
                answer = await self.request(subject, data, headers, timeout_s=max(MIN_ANSWER_S, left), soon=soon)
                return sequence_of(answer.data)
            except DependencyDown as exc:
                if isinstance(exc, NotPermitted) or time.monotonic() + AGAIN_S >= give_up or msg_id is None:
                    raise
                await asyncio.sleep(AGAIN_S)

    async def remove(self, stream: str, sequence: int) -> bool:
        """Take one message out of a stream, delivered or not. False: it was not there any more.

        Raises:
            DependencyDown: the bus is away, or did not answer (nor may this role do it).
        """
        body = msgspec.json.encode({"seq": sequence, "no_erase": True})
        answer = await self.request(f"$JS.API.STREAM.MSG.DELETE.{stream}", body)
        return msgspec.json.decode(answer.data, type=_Removed).success

    async def kv_get(self, bucket: str, key: str) -> bytes | None:
        """Read one key; None if it is absent or deleted."""
        subject = f"$JS.API.DIRECT.GET.{routes.kv_stream(bucket)}.{routes.kv_subject(bucket, key)}"
        message = await self.request(subject)
        headers = message.headers or {}
        if headers.get("Status") == "404" or "KV-Operation" in headers or "Nats-Marker-Reason" in headers:
            return None
        return message.data

    async def kv_put(self, bucket: str, key: str, value: bytes) -> int:
        return await self.accept(routes.kv_subject(bucket, key), value, {})

    async def kv_delete(self, bucket: str, key: str) -> None:
        await self.accept(routes.kv_subject(bucket, key), b"", {"KV-Operation": "DEL"})

    async def kv_keys(self, bucket: str) -> list[str]:
        """List the keys of a bucket, deleted ones whose marker is still stored included (`kv_get` gives None)."""
        body = msgspec.json.encode({"subjects_filter": routes.kv_subject(bucket, ">")})
        answer = await self.request(f"$JS.API.STREAM.INFO.{routes.kv_stream(bucket)}", body)
        info = msgspec.json.decode(answer.data, type=_StreamInfo)
        return sorted(subject.removeprefix(routes.kv_subject(bucket, "")) for subject in info.state.subjects)


def named(headers: dict[str, str], msg_id: str | None, ttl_s: int | None) -> dict[str, str]:
    """Add what the stream is to know: the message's name, and how long to keep it."""
    headers = dict(headers)
    if msg_id is not None:
        headers["Nats-Msg-Id"] = msg_id
    if ttl_s is not None:
        headers["Nats-TTL"] = str(max(1, ttl_s))
    return headers

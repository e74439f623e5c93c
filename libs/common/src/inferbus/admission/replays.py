"""Replays: an admin request with an idempotency key is done once, however often it is sent.

No secret is stored: those of a new key are derived from the asker's admin key and a stored nonce, so that only the same
admin key gets the same answer. The nonce is stored before anything is done: a request whose gateway died is done again
with it, and finds what was done already.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from inferbus import routes
from inferbus.admission import revisions
from inferbus.admission.admin_keys import Administrator
from inferbus.bus import Bus
from inferbus.codec import from_json, to_json
from inferbus.contracts.replay import AdminReplay
from inferbus.errors import Conflict, InferbusError, InvalidRequest, Permanent, error_from

A = TypeVar("A", bound=msgspec.Struct)
_MAX_KEY = 255


class Replays:
    """Answers given under idempotency keys. They are kept for as long as durable outcomes are."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def once(
        self,
        admin: Administrator,
        idempotency_key: str,
        request: bytes,
        type_: type[A],
        perform: Callable[[str, bool], Awaitable[A]],
    ) -> tuple[A, str, bool]:
        """Do a request, or give what it was answered with; gives the answer, its nonce, and whether it is a replay.

        `perform` is called with the nonce, and whether an earlier try may have done it already; its answer must have no
        secret in it. Refusals for good are kept as well.

        Raises:
            Conflict: the key was used for another request. InvalidRequest: it cannot be a key. Whatever `perform` raises.
        """
        fresh = AdminReplay(digest=hashlib.sha256(request).hexdigest(), nonce=os.urandom(16).hex())
        if not idempotency_key:
            return await perform(fresh.nonce, False), fresh.nonce, False
        name = _name_of(admin, idempotency_key)
        known, revision = await self._claim(name, fresh)
        if known.digest != fresh.digest:
            raise Conflict("this idempotency key was used for another request")
        if known.code:
            raise _refusal_of(known)
        if known.answer:
            return from_json(known.answer.encode(), type_, what="answer"), known.nonce, True
        try:
            answer = await perform(known.nonce, known is not fresh)
        except Permanent as error:
            refused = msgspec.structs.replace(known, code=error.code, message=error.message, param=error.param or "")
            await self._keep(name, refused, revision)
            raise
        await self._keep(name, msgspec.structs.replace(known, answer=to_json(answer).decode()), revision)
        return answer, known.nonce, False

    async def _claim(self, name: str, fresh: AdminReplay) -> tuple[AdminReplay, int]:
        """Have the key stand for this request, unless it stands for one already."""
        while True:
            held = await revisions.read(self._bus, routes.KV_IDEMPOTENCY, name)
            if held.data is not None:
                return from_json(held.data, AdminReplay, what="replay"), held.revision
            if await revisions.write(self._bus, routes.KV_IDEMPOTENCY, name, to_json(fresh), held.revision):
                return fresh, (await revisions.read(self._bus, routes.KV_IDEMPOTENCY, name)).revision

    async def _keep(self, name: str, replay: AdminReplay, revision: int) -> None:
        """Keep an answer; where another try of the same request was quicker, that one's stays."""
        await revisions.write(self._bus, routes.KV_IDEMPOTENCY, name, to_json(replay), revision)


def _name_of(admin: Administrator, key: str) -> str:
    if len(key) > _MAX_KEY or not key.isprintable() or not key.isascii():
        raise InvalidRequest(f"use up to {_MAX_KEY} printable ASCII characters", param="Idempotency-Key")
    digest = hashlib.sha256(f"{admin.name}\n{key}".encode()).hexdigest()[:40]
    return routes.tenant_key(routes.ADMIN, digest)


def _refusal_of(known: AdminReplay) -> InferbusError:
    error = error_from(known.code, known.message)
    error.param = known.param or None
    return error

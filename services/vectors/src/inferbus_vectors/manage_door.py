"""ManageDoor: what is asked about collections on the bus, `vectors.manage.<tenant>.<verb>`. The tenant is the subject's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import from_json, to_json
from inferbus.contracts import vector_manage as manage
from inferbus.contracts.vectors import KEY_ID
from inferbus.errors import DependencyDown, InferbusError, InvalidRequest, Overloaded, TooLarge
from inferbus_vectors.backup_desk import BackupDesk
from inferbus_vectors.collection_desk import CollectionDesk
from inferbus_vectors.content_desk import ContentDesk
from inferbus_vectors.payers import Payers
from inferbus_vectors.ports import Payer
from inferbus_vectors.refusing import MAX_ANSWER_BYTES, refused
from inferbus_vectors.reindex_desk import ReindexDesk

_AT_ONCE = 64
Handler = Callable[[Payer, Any], Awaitable[msgspec.Struct]]
log = structlog.get_logger()


class Desks(msgspec.Struct, frozen=True):
    """Who does what is asked."""

    collections: CollectionDesk
    contents: ContentDesk
    reindexings: ReindexDesk
    backups: BackupDesk

    def handlers(self) -> Mapping[str, Handler]:
        """Give who answers each verb."""
        return {
            manage.CREATE: self.collections.create,
            manage.CHANGE: self.collections.change,
            manage.GET: self.collections.get,
            manage.LIST: self.collections.list,
            manage.DELETE: self.collections.delete,
            manage.ALIAS: self.collections.alias,
            manage.UNALIAS: self.collections.unalias,
            manage.STATS: self.collections.stats,
            manage.RETRIEVE: self.contents.retrieve,
            manage.SCROLL: self.contents.scroll,
            manage.ERASE: self.contents.erase,
            manage.ERASE_TENANT: self.contents.erase_tenant,
            manage.REINDEX: self.reindexings.start,
            manage.END_REINDEX: self.reindexings.end,
            manage.BACKUP: self.backups.backup,
            manage.RESTORE: self.backups.restore,
            manage.BACKUPS: self.backups.backups,
        }


class ManageDoor:
    """`open` it, then `close`."""

    def __init__(self, bus: Bus, payers: Payers, desks: Desks) -> None:
        self._bus = bus
        self._payers = payers
        self._handlers = desks.handlers()
        self._subscription: Subscription | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._subscription = await self._bus.listen(
            routes.VECTORS_MANAGE_ALL, self._on_message, queue=routes.QUEUE_VECTORS
        )

    async def close(self, grace_s: float) -> None:
        """Take no more, and let what runs come to its end for so long."""
        if self._subscription is not None:
            await self._bus.drain(self._subscription)
        if self._running:
            await asyncio.wait(set(self._running), timeout=grace_s)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _on_message(self, message: Msg) -> None:
        if len(self._running) >= _AT_ONCE:
            self._reply(message, to_json(refused(Overloaded(f"{_AT_ONCE} requests are worked on, the most at once"))))
            return
        task = asyncio.create_task(self._serve(message))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, message: Msg) -> None:
        subject, begun, outcome = routes.parse_vectors(message.subject), time.monotonic(), "ok"
        try:
            data = await self._answer(subject, message)
        except InferbusError as error:
            outcome, data = error.code, to_json(refused(error))
        except asyncio.CancelledError:
            self._reply(message, to_json(refused(DependencyDown("the service is stopping"))))
            raise
        except Exception:  # a bug; whoever asked is told so
            log.exception("manage_failed", tenant=subject.tenant, verb=subject.name)
            outcome, data = "internal", to_json(refused(InferbusError("a bug in the vector service; the log has it")))
        self._reply(message, data)
        log.info(
            "manage", tenant=subject.tenant, verb=subject.name, outcome=outcome,
            took_s=round(time.monotonic() - begun, 6),
        )  # fmt: skip

    async def _answer(self, subject: routes.VectorsSubject, message: Msg) -> bytes:
        handler = self._handlers.get(subject.name)
        if handler is None:
            raise InvalidRequest(f"{subject.name[:40]!r} is none of {', '.join(self._handlers)}", param="verb")
        payer = Payer(subject.tenant, (message.headers or {}).get(KEY_ID, ""))
        self._payers.identity_of(payer)
        asked: Any = from_json(message.data, manage.REQUESTS[subject.name], what=subject.name)
        data = to_json(await handler(payer, asked))
        if len(data) > MAX_ANSWER_BYTES:
            raise TooLarge(
                f"the answer has {len(data)} bytes, {MAX_ANSWER_BYTES} are possible: ask for less", param="limit"
            )
        return data

    def _reply(self, message: Msg, data: bytes) -> None:
        with contextlib.suppress(DependencyDown):  # the bus is gone, and whoever asked hears of that, too
            if message.reply:
                self._bus.send(message.reply, data)

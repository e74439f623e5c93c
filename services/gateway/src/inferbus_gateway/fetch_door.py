"""The fetch door: `fetch.<tenant>.<request>` in, the kept answer of a durable request out, from any place in it.

For producers that were away, and for those whose gateway died: one gateway of all acts, whichever the server chooses.
"""

from __future__ import annotations

import asyncio

import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.answers.exchange import Chunk, Ended
from inferbus.bus import Bus
from inferbus.contracts import door
from inferbus.durable.event_ids import EventId, parse_event_id
from inferbus.errors import InferbusError, Overloaded
from inferbus_gateway.ports import DurableStore
from inferbus_gateway.reply_writer import ReplyWriter, reply_subject

_BEAT_S = 3.0
_LOOK_EVERY = 4
log = structlog.get_logger()


class FetchDoor:
    """Serves up to `max_open` fetches at once."""

    def __init__(self, bus: Bus, durable: DurableStore, *, max_open: int) -> None:
        self._bus = bus
        self._durable = durable
        self._max_open = max_open
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._bus.subscribe(routes.FETCH_ALL, self._on_fetch, queue=routes.QUEUE_FETCH)

    async def stop(self) -> None:
        """Leave what is open: who fetches hears nothing for a while, and fetches again from another gateway."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _on_fetch(self, message: Msg) -> None:
        task = asyncio.create_task(self._serve(message), name="fetch")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, message: Msg) -> None:
        tenant, request_id = routes.parse_fetch(message.subject)
        headers = message.headers or {}
        try:
            writer = ReplyWriter(self._bus, reply_subject(tenant, headers))
        except InferbusError as error:
            log.warning("fetch_without_reply", tenant=tenant, request_id=request_id, error=error.message)
            return
        try:
            if len(self._open) > self._max_open:
                raise Overloaded(f"this gateway has its {self._max_open} open fetches")
            after = headers.get(door.AFTER)
            await relay_kept(self._durable, tenant, request_id, writer, parse_event_id(after) if after else None)
        except InferbusError as error:
            await writer.error(error)
        except Exception as error:
            log.exception("fetch_failed", tenant=tenant, request_id=request_id)
            await writer.error(InferbusError(f"an internal error: {type(error).__name__}"))


async def relay_kept(
    durable: DurableStore, tenant: str, request_id: str, writer: ReplyWriter, after: EventId | None
) -> Ended:
    """Write a durable request's answer, with an empty part every few seconds in which nothing else comes.

    Raises:
        InferbusError: it ended in an error of the platform, or there is none of this id.
    """
    writer.kept_id = request_id
    await durable.status(tenant, request_id)
    reader = await durable.read(tenant, request_id, after)
    beats = 0
    try:
        while True:
            event = await reader.next(_BEAT_S)
            if isinstance(event, Ended):
                await writer.whole(event.status, event.data, event.content_type)
                return event
            if isinstance(event, Chunk):
                await writer.events(event.data)
            else:
                beats += 1
                if beats % _LOOK_EVERY == 0:
                    await durable.status(tenant, request_id)  # it may be late: then it ends here
                await writer.part(200, b"")
    finally:
        await reader.close()

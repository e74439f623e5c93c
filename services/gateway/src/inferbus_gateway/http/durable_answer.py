"""A durable answer as an HTTP response. A client that leaves changes nothing; it comes back with `Last-Event-ID`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from litestar.types import Receive

from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Chunk, Ended
from inferbus.durable.event_ids import EventId
from inferbus.durable.reader import DurableReader
from inferbus.errors import InferbusError
from inferbus_gateway.http.exchange_response import HttpResponse, note_end
from inferbus_gateway.http.problems import error_event
from inferbus_gateway.http.request_head import event_id_from
from inferbus_gateway.observer import DECODE, PREFILL, QUEUED, RequestRecord
from inferbus_gateway.ports import DurableStore
from inferbus_gateway.settings import GatewaySettings

_REPLAYED = (b"x-inferbus-replayed", b"true")
_COMMENT_QUEUED, _COMMENT_RUNNING = b": queued\n\n", b": running\n\n"


async def answer_durable(
    durable: DurableStore,
    identity: Identity,
    ask: Ask,
    headers: dict[bytes, bytes],
    receive: Receive,
    response: HttpResponse,
    record: RequestRecord,
    settings: GatewaySettings,
) -> None:
    """Begin or join the request and send its answer, from the event after the last one the client has.

    Raises:
        InferbusError: it was refused (`DurableRequests.open`), or a header is unusable.
    """
    after = event_id_from(headers)
    record.phase = QUEUED
    opened = await durable.open(identity, ask)
    record.request_id = opened.record.request_id
    if opened.replayed:
        response.extra.append(_REPLAYED)
    response.tell(opened.rate_headers)

    async def look() -> None:
        await durable.open(
            identity, ask
        )  # the gateway it was begun at may have died, or been refused it: it is ours then
        await durable.status(identity.tenant, record.request_id)

    await follow(durable, identity.tenant, record, receive, response, settings, after, look)


async def follow(
    durable: DurableStore,
    tenant: str,
    record: RequestRecord,
    receive: Receive,
    response: HttpResponse,
    settings: GatewaySettings,
    after: EventId | None,
    look: Callable[[], Awaitable[object]],
) -> None:
    """Send the answer of the durable request that `record` names, as a stream if `record.streamed`. `look` is called now
    and then where nothing comes, and raises where nothing will."""
    reader = await durable.read(tenant, record.request_id, after)
    watch = asyncio.create_task(_leave_when_gone(receive, reader))
    try:
        end = await _send_until_end(reader, record, response, settings, look)
    except InferbusError as error:
        await response.fail(error)
        return
    finally:
        watch.cancel()
        await reader.close()
    note_end(record, end)
    if not response.started and not (record.streamed and end.status == 200):
        await response.whole(end.status, end.data, end.content_type.encode())
    elif end.status == 200:
        if not response.started:
            await response.write(b"")  # the client had everything
        await response.end()
    else:
        await response.end(error_event(end.data))


async def _send_until_end(
    reader: DurableReader,
    record: RequestRecord,
    response: HttpResponse,
    settings: GatewaySettings,
    look: Callable[[], Awaitable[object]],
) -> Ended:
    """Send events as they come, and comments where nothing comes; give the end."""
    wait_s = settings.queue_comment_after_s if record.streamed else settings.comment_every_s
    while True:
        event = await reader.next(wait_s)
        if isinstance(event, Ended):
            return event
        if isinstance(event, Chunk):
            if not record.first_chunk:
                record.first_chunk, record.phase = time.monotonic(), DECODE
            await response.write(event.data)
        elif event is not None:
            record.phase = PREFILL
        else:
            await look()
            if record.streamed:
                await response.write(_COMMENT_RUNNING if reader.started else _COMMENT_QUEUED)
        if event is None or record.first_chunk:
            wait_s = settings.comment_every_s


async def _leave_when_gone(receive: Receive, reader: DurableReader) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.leave()

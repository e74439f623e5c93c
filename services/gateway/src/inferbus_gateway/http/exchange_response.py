"""An exchange as an HTTP response: one JSON body, or server-sent events.

A stream starts with the first chunk, or with a comment once nothing came for a while; from then on errors can only be
events. Every write waits for the connection (uvicorn's flow control); the exchange bounds what piles up meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from litestar.types import HTTPResponseStartEvent, Receive, Send

from inferbus.answers.exchange import Chunk, Ended, Exchange
from inferbus.contracts.step import Usage
from inferbus.errors import InferbusError
from inferbus_gateway.http.problems import JSON, Problem, error_event, problem_of
from inferbus_gateway.joined_head import send_whole
from inferbus_gateway.observer import DECODE, DONE, PREFILL, RequestRecord
from inferbus_gateway.ports import Place, QueuePlaces

_EVENT_STREAM = b"text/event-stream; charset=utf-8"
_STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
_COMMENT_RUNNING = b": running\n\n"
_DISCARD_S = 2.0


class HttpResponse:
    """The one response of one request. Knows how far it has got, so that an error finds its form."""

    __slots__ = ("_record", "_send", "complete", "extra", "started")

    def __init__(self, send: Send, record: RequestRecord) -> None:
        self._send = send
        self._record = record
        self.started = False
        self.complete = False
        self.extra: list[tuple[bytes, bytes]] = []
        """Headers of this response, whatever it will be."""

    def tell(self, headers: tuple[tuple[str, str], ...]) -> None:
        """Send these along, such as how limits stand."""
        self.extra += [(name.encode(), value.encode()) for name, value in headers]

    async def whole(
        self, status: int, body: bytes, content_type: bytes = JSON, extra: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Send the whole response."""
        self.started = self.complete = True
        headers = self._headers(content_type, [(b"content-length", b"%d" % len(body)), *(extra or ())])
        if not send_whole(self._send, status, headers, body):
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def write(self, data: bytes) -> None:
        """Send a piece of the stream, after the head if it is the first."""
        if not self.started:
            self.started = True
            await self._send(self._head(200, _EVENT_STREAM, _STREAM_HEADERS))
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """End the stream."""
        self.complete = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    def problem(self, error: InferbusError) -> Problem:
        """Give an error the form it has on this path."""
        return problem_of(error)

    async def fail(self, error: InferbusError) -> None:
        """Send an error in the form that is still possible."""
        self._note(error)
        if self.complete:
            return
        problem = self.problem(error)
        if self.started:
            await self.end(error_event(problem.body))
        else:
            await self.whole(problem.status, problem.body, extra=problem.headers)

    async def refuse_body(self, error: InferbusError, receive: Receive) -> None:
        """Answer in the middle of an upload and close.

        Reads on for a moment without keeping anything: a socket closed with unread data resets the connection, and
        the client would never see the answer (a lingering close).
        """
        self._note(error)
        problem = self.problem(error)
        headers = [(b"content-length", b"%d" % len(problem.body)), (b"connection", b"close"), *problem.headers]
        self.started = self.complete = True
        await self._send(self._head(problem.status, JSON, headers))
        await self._send({"type": "http.response.body", "body": problem.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while (message := await receive())["type"] == "http.request" and message["more_body"]:
                    pass
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _head(self, status: int, content_type: bytes, extra: list[tuple[bytes, bytes]]) -> HTTPResponseStartEvent:
        return {"type": "http.response.start", "status": status, "headers": self._headers(content_type, extra)}

    def _headers(self, content_type: bytes, extra: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        request_id = self._record.request_id.encode()
        return [(b"content-type", content_type), (b"x-request-id", request_id), *self.extra, *extra]

    def _note(self, error: InferbusError) -> None:
        self._record.error = error.code
        self._record.failure = error
        self._record.status = error.row.http_status


async def answer_whole(exchange: Exchange, response: HttpResponse, record: RequestRecord) -> None:
    """Wait for the end and send it.

    Raises:
        InferbusError: it was not admitted after all.
    """
    try:
        end = await exchange.whole()
    except InferbusError as error:
        if exchange.refused:
            raise
        if exchange.started:
            record.phase = PREFILL
        await response.fail(error)
        return
    note_end(record, end)
    await response.whole(end.status, end.data, end.content_type.encode())


async def answer_stream(
    exchange: Exchange,
    response: HttpResponse,
    record: RequestRecord,
    places: QueuePlaces,
    *,
    comment_after_s: float,
    comment_every_s: float,
) -> None:
    """Send chunks as they come, joined where several wait; then the end, or the error."""
    wait_s = comment_after_s
    try:
        while True:
            event = await exchange.next(wait_s)
            if type(event) is Chunk:
                if not record.first_chunk:
                    record.first_chunk = time.monotonic()
                    record.phase = DECODE
                    wait_s = comment_every_s
                await response.write(event.data)
            elif type(event) is Ended:
                break
            elif event is None:
                wait_s = comment_every_s
                await response.write(_COMMENT_RUNNING if exchange.started else _queued(places.place_of(exchange)))
            else:
                record.phase = PREFILL
    except InferbusError as error:
        record.usage = Usage(0, exchange.delivered_tokens)  # what it cost is the worker's to say
        await response.fail(error)
        return
    note_end(record, event)
    if event.status == 200 and response.started:
        await response.end(event.data)
    elif response.started:
        await response.end(error_event(event.data))
    else:
        await response.whole(event.status, event.data, event.content_type.encode())


def _queued(place: Place) -> bytes:
    """Say where a request stands, as a comment: a client that reads none is kept waiting all the same."""
    if place.expected_wait_s is None:
        return b": queued position=%d\n\n" % place.position
    return b": queued position=%d expected_wait_s=%.1f\n\n" % (place.position, place.expected_wait_s)


def note_end(record: RequestRecord, event: Ended) -> None:
    record.phase = DONE
    record.status = event.status
    record.usage = event.usage
    if event.status >= 400:
        record.error = "refused_by_engine"

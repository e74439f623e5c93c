"""What chat, completions and embeddings have in common: one ASGI callable per path, from the request to its last byte.

It is an ASGI application of its own: injected arguments and a `Response` by Litestar cost 33 us a request, a route that
only returns this costs 11, calling it directly nothing (benchmarks/http_door.py; docs/adr/0003-http-stack.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry

from inferbus.admission.admit import Ask
from inferbus.answers.exchange import Exchange
from inferbus.errors import Cancelled, InferbusError, Overloaded, SlowClient
from inferbus.telemetry.tracing import Tracing, traceparent_of
from inferbus_gateway.admin_door import AdminDoor
from inferbus_gateway.batch_door import BatchDoor
from inferbus_gateway.features_door import FeaturesDoor
from inferbus_gateway.http.compressed import unpack
from inferbus_gateway.http.durable_answer import answer_durable
from inferbus_gateway.http.exchange_response import HttpResponse, answer_stream, answer_whole
from inferbus_gateway.http.problems import bug
from inferbus_gateway.http.request_body import BodyRefused, ClientGone, decode_view, read_body
from inferbus_gateway.http.request_head import RequestHead, read_head, request_id_from
from inferbus_gateway.joined_head import CONNECTION, JoiningProtocol
from inferbus_gateway.observer import ADMISSION, QUEUED, UNKNOWN, Observer, RequestRecord
from inferbus_gateway.ports import (
    Admitter,
    Authenticator,
    Canceller,
    DurableStore,
    ModelLister,
    QueuePlaces,
    Ready,
    Servers,
    TotalsReader,
)
from inferbus_gateway.settings import GatewaySettings
from inferbus_gateway.vector_stores_door import VectorStoresDoor


class HttpDeps(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the HTTP door is connected to."""

    settings: GatewaySettings
    authenticator: Authenticator
    admitter: Admitter
    models: ModelLister
    ready: Ready
    tracing: Tracing
    observer: Observer
    registry: CollectorRegistry
    durable: DurableStore
    places: QueuePlaces
    canceller: Canceller
    totals: TotalsReader
    servers: Servers
    admin: AdminDoor | None = None
    """None: this gateway serves no admin API."""
    batch: BatchDoor | None = None
    """None: this gateway keeps no files."""
    vectors: VectorStoresDoor | None = None
    """None: this gateway has no way to the vector service."""
    features: FeaturesDoor | None = None
    """None: this gateway serves no features."""


class InferenceRoute(NamedTuple):
    """An endpoint and the Litestar route that documents it and leads to it."""

    endpoint: InferenceEndpoint
    handler: HTTPRouteHandler


class Seen(NamedTuple):
    """What routing needs of a request. `path` is the worker's, `json_bytes` as in `Ask`."""

    model: str
    path: str
    streamed: bool
    content_type: str = "application/json"
    json_bytes: int = 0


class InferenceEndpoint:
    """Serve one inference path: authenticate, read, decode, admit, answer, write down."""

    encodings: Sequence[bytes] = ()
    """Content encodings of bodies that are unpacked here."""

    def __init__(self, deps: HttpDeps, *, path: str, task: str, view: type[msgspec.Struct]) -> None:
        self._deps = deps
        self.path = self._path = path
        self._task = task
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(view)

    def as_asgi(self) -> ASGIApp:
        """Give this as what a Litestar handler may return."""
        return cast("ASGIApp", self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        record = RequestRecord(self._path, request_id_from(headers))
        response = self.response(send, record)
        observer = self._deps.observer
        observer.open_requests += 1
        try:
            connection = cast("JoiningProtocol | None", scope.get(CONNECTION))
            await self._serve(scope["path"], headers, receive, response, record, connection)
        except ClientGone:
            record.error, record.status = Cancelled.code, 499
        except BodyRefused as refused:
            await response.refuse_body(refused.error, receive)
        except InferbusError as error:
            await response.fail(error)
        except asyncio.CancelledError:  # the drain is over; the server closes the connection
            record.error, record.status = Cancelled.code, 499
            raise
        except Exception as error:
            await response.fail(bug(error, request_id=record.request_id, path=self._path))
        finally:
            observer.open_requests -= 1
            observer.finished(record)

    async def _serve(
        self,
        path: str,
        headers: dict[bytes, bytes],
        receive: Receive,
        response: HttpResponse,
        record: RequestRecord,
        connection: JoiningProtocol | None,
    ) -> None:
        """Serve one request; without a `connection` (another server) its end is waited for by a task."""
        deps = self._deps
        settings = deps.settings
        head = read_head(headers, self.encodings)
        identity = deps.authenticator.authenticate(head.authorization)
        record.tenant = identity.tenant
        if deps.observer.open_requests > settings.max_open_requests:
            raise Overloaded(f"this gateway has its {settings.max_open_requests} open requests")
        body = await self.read(receive, head)
        if self.encodings and headers.get(b"content-encoding", b"identity").lower() in self.encodings:
            body = await unpack(body, settings.max_body_bytes)
        seen = self.look(path, headers, body)
        self._note(seen, record)
        self._begin_span(record, head.traceparent)
        ask = Ask(
            model=seen.model,
            task=self._task,
            path=seen.path,
            body=body,
            content_type=seen.content_type,
            lane=head.lane,
            streamed=record.streamed,
            deadline_s=head.deadline_s,
            request_id=record.request_id,
            traceparent=traceparent_of(record.span, head.traceparent),
            idempotency_key=head.idempotency_key,
            json_bytes=seen.json_bytes,
        )
        if head.durable:
            await answer_durable(deps.durable, identity, ask, headers, receive, response, record, settings)
            return
        if record.streamed:  # where it is not taken in at once, a comment must not be the first that is sent
            exchange = await deps.admitter.admit(identity, ask)
        else:
            exchange = await deps.admitter.begin(identity, ask)
        if connection is not None:
            connection.put_in_head(exchange.rate_head)
        else:
            response.tell(exchange.rate_headers)
        if connection is not None and record.streamed:
            _hang_up_if_slow(exchange, connection.abort)
        await self._answer(exchange, receive, response, record, connection)

    def response(self, send: Send, record: RequestRecord) -> HttpResponse:
        """Make the response of one request; where a protocol has forms of its own, it is another kind."""
        return HttpResponse(send, record)

    def look(self, path: str, headers: dict[bytes, bytes], body: bytes) -> Seen:  # noqa: ARG002 - others are told there
        """Read what routing needs of a request.

        Raises:
            InvalidRequest: it cannot be read; `param` names the field.
        """
        view = decode_view(self._decoder, body)
        return Seen(view.model, self._path, bool(getattr(view, "stream", False)))

    async def read(self, receive: Receive, head: RequestHead) -> bytes:
        """Read the whole body, within this gateway's bounds.

        Raises:
            BodyRefused: too large, or too slow. ClientGone: nobody is there to be answered.
        """
        settings = self._deps.settings
        return await read_body(
            receive,
            content_length=head.content_length,
            limit_bytes=settings.max_body_bytes,
            timeout_s=settings.body_timeout_s,
        )

    def _note(self, seen: Seen, record: RequestRecord) -> None:
        record.requested_model = seen.model
        record.streamed = seen.streamed
        entry = self._deps.models.resolve(seen.model)
        if entry is not None:
            record.model = entry.name

    def _begin_span(self, record: RequestRecord, traceparent: str) -> None:
        tracing = self._deps.tracing
        if not tracing.enabled:
            return
        attributes = {
            "http.request.method": "POST",
            "url.path": self._path,
            "gen_ai.operation.name": self._task,
            "gen_ai.request.model": record.requested_model,
            "inferbus.request_id": record.request_id,
        }
        name = f"{self._task} {record.model or UNKNOWN}"
        record.span = tracing.begin(name, traceparent, SpanKind.SERVER, attributes, root=True)

    async def _answer(
        self,
        exchange: Exchange,
        receive: Receive,
        response: HttpResponse,
        record: RequestRecord,
        connection: JoiningProtocol | None,
    ) -> None:
        deps = self._deps
        record.phase = QUEUED
        watch = None
        if connection is not None:
            connection.on_gone(exchange.cancel)
        else:
            watch = asyncio.create_task(_cancel_when_gone(receive, exchange))
        try:
            if record.streamed:
                deps.observer.open_streams += 1
                await answer_stream(
                    exchange,
                    response,
                    record,
                    deps.places,
                    comment_after_s=deps.settings.queue_comment_after_s,
                    comment_every_s=deps.settings.comment_every_s,
                )
            else:
                await answer_whole(exchange, response, record)
        finally:
            if record.streamed:
                deps.observer.open_streams -= 1
            if connection is not None:
                connection.on_gone(None)
            if watch is not None:
                watch.cancel()
            if exchange.refused:  # nothing was taken of its limits, so nothing is said of them
                record.phase = ADMISSION
                response.extra.clear()
                if connection is not None:
                    connection.put_in_head(b"")
            exchange.close()  # cancels what has not ended


def _hang_up_if_slow(exchange: Exchange, abort: Callable[[], None]) -> None:
    """Close the connection of a client that does not read, at once: the answer waits in `send` for it, and its buffers
    with it."""

    def hang_up() -> None:
        if isinstance(exchange.error, SlowClient):
            abort()

    exchange.on_closed(hang_up)


async def _cancel_when_gone(receive: Receive, exchange: Exchange) -> None:
    """Wait for the connection to close and cancel the exchange, in whatever phase it is."""
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.cancel()

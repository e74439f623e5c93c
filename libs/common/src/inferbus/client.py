"""The SDK for producers: requests over the bus, without HTTP.

    async with inferbus.Client("nats://127.0.0.1:4222", tenant="dev", nkey_seed_file="dev.seed") as client:
        answer = await client.chat("inferbus-tiny", [{"role": "user", "content": "Explain open."}])
        async for chunk in client.stream("inferbus-tiny", [...]):
            ...

With `deliver="results"` the answer is kept: it goes on without this process, which may come back for it (`result`,
`events`), and survives the gateway that began it.

It publishes to `request.<tenant>.<model>.<lane>` (durable) and reads `reply.<tenant>.<client>`; any NATS client can do
the same by hand (docs/contracts.md, the bus door).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.waiting import NotPermitted
from inferbus.bus_users.user import producer_login
from inferbus.contracts import door
from inferbus.contracts.envelope import REPLY, RESULTS
from inferbus.errors import (
    ERROR_TABLE,
    DeadlineWhileQueued,
    EngineDead,
    Forbidden,
    InferbusError,
    InvalidRequest,
    NotFound,
    RateLimited,
    Transient,
    error_from,
)
from inferbus.settings import BusSettings

_DEFAULT_TIMEOUT_S = 600.0
_GRACE_S = 5.0
_SILENT_S = 10.0
_AGAIN_S = 0.5
log = structlog.get_logger()

Json = dict[str, Any]


class Reply(msgspec.Struct, frozen=True):
    """One message of an answer: the HTTP status it would have had, the JSON, whether it is the last, and of a
    kept answer the event id, and the request's (another's, where an idempotency key was known). `headers` are all of the message's."""

    status: int
    data: bytes
    end: bool
    event_id: str = ""
    request_id: str = ""
    headers: Mapping[str, str] = {}


class KeptEvent(msgspec.Struct, frozen=True):
    """One event of a durable stream, and the id to go on from."""

    id: str
    data: Json


class _ErrorDetail(msgspec.Struct):
    message: str = ""
    code: str | int | None = None
    param: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail = msgspec.field(default_factory=_ErrorDetail)


class Client:
    """A producer's connection. Use it as an async context manager; it serves many requests at once."""

    def __init__(
        self,
        url: str = "nats://127.0.0.1:4222",
        *,
        tenant: str = "dev",
        user: str = "",
        password: str = "",
        timeout_s: float = _DEFAULT_TIMEOUT_S,
        nkey_seed: str = "",
        nkey_seed_file: str = "",
        tls_ca: str = "",
        tls_cert: str = "",
        tls_key: str = "",
    ) -> None:
        """`nkey_seed` is what `inferbus bus-users create producer` printed (or `nkey_seed_file` has it); `user` and
        `password` are for servers without NKeys. `tls_ca`: a file of certificates to trust, where the bus has TLS; `tls_cert` and
        `tls_key`: one's own, where it asks for one."""
        if not routes.is_tenant(tenant):
            raise InvalidRequest(f"tenant {tenant!r}: use a-z, 0-9, _ and -")
        if not user and (nkey_seed or nkey_seed_file):
            user = producer_login(tenant)
        self._settings = BusSettings(
            url=url, user=user, password=password, nkey_seed=nkey_seed, nkey_seed_file=nkey_seed_file, tls_ca=tls_ca,
            tls_cert=tls_cert, tls_key=tls_key,
        )  # fmt: skip
        self._tenant = tenant
        self._timeout_s = timeout_s
        self._reply_to = routes.reply(tenant, secrets.token_hex(8))
        self._bus: Bus | None = None
        self._replies: dict[str, asyncio.Queue[tuple[int, Reply]]] = {}

    async def __aenter__(self) -> Self:
        self._bus = await Bus.connect(self._settings, name=f"producer-{self._tenant}")
        await self._bus.subscribe(f"{self._reply_to}.*", self._on_reply)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._bus is not None:
            await self._bus.close()

    async def chat(self, model: str, messages: Sequence[Json], **options: Any) -> Json:
        """Ask for one whole chat completion; returns the API's body.

        `options` go into the body (`max_tokens`, `tools`, ...); `lane`, `timeout_s`, `request_id`, `deliver` ("reply" or
        "results") and `idempotency_key` are ours.

        Raises:
            InferbusError: by the error table; InvalidRequest, NotFound, Overloaded, ... Forbidden: not this user's tenant.
        """
        return await self._whole("/v1/chat/completions", {"model": model, "messages": list(messages)}, options)

    async def stream(self, model: str, messages: Sequence[Json], **options: Any) -> AsyncGenerator[Json, None]:
        """Ask for a chat completion and yield its chunks as they are made. Leaving the loop early cancels it (at once
        with `contextlib.aclosing`, else when the generator is collected)."""
        body = {"model": model, "messages": list(messages), "stream": True}
        async with aclosing(self._ask("/v1/chat/completions", body, options)) as replies:
            async for reply in replies:
                if reply.data:
                    yield msgspec.json.decode(reply.data)

    async def embed(self, model: str, texts: str | Sequence[str], **options: Any) -> list[list[float]]:
        """Embed one text or several; returns one vector each, in order."""
        texts_ = [texts] if isinstance(texts, str) else list(texts)
        body = await self._whole("/v1/embeddings", {"model": model, "input": texts_}, options)
        return [row["embedding"] for row in sorted(body["data"], key=lambda row: row["index"])]

    async def result(self, request_id: str, *, timeout_s: float = _DEFAULT_TIMEOUT_S) -> Json:
        """Fetch the answer of a durable request that is not streamed, from whatever process asked for it.

        Raises:
            NotFound: there is none of this id, or it is no longer kept. DeadlineWhileQueued: it did not end in time.
            InferbusError: what it ended in; InvalidRequest where its answer is a stream (`events`).
        """
        async with aclosing(self._follow(request_id, "", time.monotonic() + timeout_s)) as replies:
            async for reply in replies:
                if reply.event_id:
                    raise InvalidRequest("its answer is streamed: use `events`")
                if reply.end:
                    decoded: Json = msgspec.json.decode(reply.data)
                    return decoded
        raise InferbusError("the answer ended without a body")

    async def events(
        self, request_id: str, *, after: str = "", timeout_s: float = _DEFAULT_TIMEOUT_S
    ) -> AsyncGenerator[KeptEvent, None]:
        """Yield the events of a durable stream from the one behind `after` on, those to come included.

        Raises:
            NotFound, DeadlineWhileQueued, InferbusError: as `result`. ResumeImpossible: it does not go on from `after`.
        """
        async with aclosing(self._follow(request_id, after, time.monotonic() + timeout_s)) as replies:
            async for reply in replies:
                if reply.event_id:
                    yield KeptEvent(reply.event_id, msgspec.json.decode(reply.data))

    async def cancel(self, request_id: str) -> None:
        """Cancel a request by its id, in whatever phase it is."""
        await self._connection().publish(routes.cancel(self._tenant, request_id), b"")

    # --- how -----------------------------------------------------------------------------------------------------

    async def _whole(self, path: str, body: Json, options: Json) -> Json:
        async with aclosing(self._ask(path, body, options)) as replies:
            async for reply in replies:
                if reply.end:
                    decoded: Json = msgspec.json.decode(reply.data)
                    return decoded
        raise InferbusError("the answer ended without a body")

    async def _ask(self, path: str, body: Json, options: Json) -> AsyncGenerator[Reply, None]:
        bus = self._connection()
        timeout_s = float(options.pop("timeout_s", self._timeout_s))
        lane = str(options.pop("lane", routes.INTERACTIVE))
        if lane not in routes.LANES:
            raise InvalidRequest(f"lane {lane!r} is none of {', '.join(routes.LANES)}", param="lane")
        request_id = str(options.pop("request_id", "") or secrets.token_hex(16))
        if not routes.is_request_id(request_id) or request_id in self._replies:
            raise InvalidRequest(f"request id {request_id!r} is malformed, or in use now", param="request_id")
        queue: asyncio.Queue[tuple[int, Reply]] = asyncio.Queue()
        self._replies[request_id] = queue
        kept = _kept_headers(options)
        headers = kept | {
            door.REPLY_TO: f"{self._reply_to}.{request_id}",
            door.REQUEST_ID: request_id,
            door.PATH: path,
            door.DEADLINE_MS: str(int(timeout_s * 1000)),
        }
        ended = False
        seq = 0
        give_up = time.monotonic() + timeout_s + _GRACE_S
        try:
            try:
                await bus.accept(
                    routes.request(self._tenant, str(body["model"]), lane),
                    msgspec.json.encode(body | options),
                    headers,
                    msg_id=f"{self._tenant}:{request_id}",
                )
            except NotPermitted as exc:
                raise Forbidden(exc.message) from exc
            if kept:
                async with aclosing(self._follow(request_id, "", give_up, queue)) as replies:
                    async for reply in replies:
                        yield reply
            while not ended and not kept:
                reply = await _part(queue, seq, give_up)
                seq, ended = seq + 1, reply.end
                if reply.status >= 400:
                    raise _error_of(reply)
                yield reply
        finally:
            del self._replies[request_id]
            if not ended and not kept and bus.connected:
                await self.cancel(request_id)

    async def _follow(
        self, request_id: str, after: str, give_up: float, queue: asyncio.Queue[tuple[int, Reply]] | None = None
    ) -> AsyncGenerator[Reply, None]:
        """Yield a durable answer's parts; where the gateway that sends them falls silent, another goes on.

        `queue` is where the gateway writes that begins it: until it did, another one does not know it.
        """
        began = queue is not None
        while True:
            token = secrets.token_hex(8)
            if queue is None:
                queue = self._replies[token] = asyncio.Queue()
                headers = {door.REPLY_TO: f"{self._reply_to}.{token}"} | ({door.AFTER: after} if after else {})
                await self._connection().publish(routes.fetch(self._tenant, request_id), b"", headers)
            try:
                expected = 0
                while (part := await _part_or_none(queue, give_up)) is not None and part[0] == expected:
                    expected, reply = expected + 1, part[1]
                    if reply.status >= 400:
                        error = _error_of(reply)
                        if not (began and isinstance(error, NotFound)):
                            raise error
                        break
                    after, request_id = reply.event_id or after, reply.request_id or request_id
                    if reply.data or reply.end:
                        yield reply
                    if reply.end:
                        return
            finally:
                self._replies.pop(token, None)
            queue = None
            await asyncio.sleep(_AGAIN_S)

    async def _on_reply(self, message: Msg) -> None:
        queue = self._replies.get(message.subject.rsplit(".", 1)[1])
        headers = message.headers or {}
        if queue is None or door.STATUS not in headers:
            return
        status, ended = int(headers[door.STATUS]), headers.get(door.END) == "1"
        event_id, request_id = headers.get(door.EVENT, ""), headers.get(door.REQUEST_ID, "")
        reply = Reply(status, message.data, ended, event_id, request_id, headers)
        queue.put_nowait((int(headers.get(door.SEQ, "0")), reply))

    def _connection(self) -> Bus:
        if self._bus is None:
            raise InferbusError("use the client as an async context manager: `async with inferbus.Client(...)`")
        return self._bus


async def _part(queue: asyncio.Queue[tuple[int, Reply]], expected: int, give_up: float) -> Reply:
    """Wait for the part number `expected` of an answer until `give_up` (monotonic seconds).

    Raises:
        DeadlineWhileQueued: it did not come. EngineDead: another gateway began the answer anew, and its text need not
            go on from ours. InferbusError: a part was lost.
    """
    try:
        async with asyncio.timeout(give_up - time.monotonic()):
            seq, reply = await queue.get()
    except TimeoutError:
        raise DeadlineWhileQueued("no answer came before the deadline") from None
    if seq < expected:
        raise EngineDead("the gateway was lost in mid-stream; another one began the answer anew")
    if seq > expected:
        raise InferbusError("a part of the answer was lost on the way")
    return reply


async def _part_or_none(queue: asyncio.Queue[tuple[int, Reply]], give_up: float) -> tuple[int, Reply] | None:
    """Wait for a part; None where its sender is silent for so long that it is gone.

    Raises:
        DeadlineWhileQueued: `give_up` (monotonic seconds) has come.
    """
    left_s = give_up - time.monotonic()
    if left_s <= 0:
        raise DeadlineWhileQueued("the answer did not end before the deadline")
    try:
        async with asyncio.timeout(min(left_s, _SILENT_S)):
            return await queue.get()
    except TimeoutError:
        return None


def _kept_headers(options: Json) -> dict[str, str]:
    """Take `deliver` and `idempotency_key` out of the options: the headers that ask for a kept answer, if any.

    Raises:
        InvalidRequest: no such delivery.
    """
    deliver, key = options.pop("deliver", None), str(options.pop("idempotency_key", ""))
    if deliver not in (None, REPLY, RESULTS):
        raise InvalidRequest(f"deliver {deliver!r} is none of {REPLY}, {RESULTS}", param="deliver")
    headers = {door.DELIVERY: RESULTS} if deliver == RESULTS or key else {}
    return headers | ({door.IDEMPOTENCY_KEY: key} if key else {})


def _error_of(reply: Reply) -> InferbusError:
    try:
        detail = msgspec.json.decode(reply.data, type=_ErrorBody).error
    except msgspec.DecodeError:
        return InferbusError(reply.data.decode(errors="replace")[:500])
    error = error_from(_code_of(detail.code, reply.status), detail.message)
    error.param = detail.param
    if isinstance(error, Transient):
        error.retry_after_s = float(reply.headers.get(door.RETRY_AFTER, error.retry_after_s))
    if isinstance(error, RateLimited):
        found = ((name, reply.headers.get(ours)) for name, ours in door.OF_HTTP.items())
        error.headers = tuple((name, value) for name, value in found if value is not None)
    return error


_BY_STATUS = {
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    422: "unsupported",
    429: "tenant_overloaded",
    499: "cancelled",
    503: "overloaded",
    504: "deadline_running",
}


def _code_of(code: str | int | None, status: int) -> str:
    """Give our code of an error body: its own, or where an engine wrote the body, what its status means."""
    if isinstance(code, str) and code in ERROR_TABLE:
        return code
    return _BY_STATUS.get(status, "internal" if status >= 500 else "invalid_request")

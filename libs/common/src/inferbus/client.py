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
from typing import TYPE_CHECKING, Any, Self

import msgspec
import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.waiting import NotPermitted
from inferbus.bus_users.user import producer_login
from inferbus.client_features import FeatureClient
from inferbus.contracts import door
from inferbus.contracts.envelope import REPLY, RESULTS
from inferbus.errors import (
    Forbidden,
    InferbusError,
    InvalidRequest,
    NotFound,
)
from inferbus.kserve import arrays
from inferbus.kserve.content_type import json_bytes_of
from inferbus.kserve.paths import path_of
from inferbus.replies import Reply, error_of, joined, part, part_or_none
from inferbus.settings import BusSettings

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_DEFAULT_TIMEOUT_S = 600.0
_GRACE_S = 5.0
_AGAIN_S = 0.5
_OURS = ("timeout_s", "lane", "request_id", "deliver", "idempotency_key")
log = structlog.get_logger()

Json = dict[str, Any]


class KeptEvent(msgspec.Struct, frozen=True):
    """One event of a durable stream, and the id to go on from."""

    id: str
    data: Json


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

    @property
    def features(self) -> FeatureClient:
        """Read and push features."""
        return FeatureClient(self._connection(), self._tenant)

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
        async with aclosing(self._ask_json("/v1/chat/completions", body, options)) as replies:
            async for reply in replies:
                if reply.data:
                    yield msgspec.json.decode(reply.data)

    async def embed(self, model: str, texts: str | Sequence[str], **options: Any) -> list[list[float]]:
        """Embed one text or several; returns one vector each, in order."""
        texts_ = [texts] if isinstance(texts, str) else list(texts)
        body = await self._whole("/v1/embeddings", {"model": model, "input": texts_}, options)
        return [row["embedding"] for row in sorted(body["data"], key=lambda row: row["index"])]

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        outputs: Sequence[str] = (),
        version: str = "",
        parameters: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, NDArray[Any]]:
        """Give numpy arrays to a model, get its outputs as arrays by name. A list of candidates is one request: an array with
        a row for each. Strings and bytes are tensors of BYTES. `options` are ours, as in `chat`.

        Raises:
            InferbusError: by the error table; InvalidRequest names the input, what was expected and what it got.
        """
        if unknown := set(options) - set(_OURS):
            raise InvalidRequest(f"unknown options {sorted(unknown)}; known: {', '.join(_OURS)}")
        data, json_bytes = arrays.write(inputs, outputs=outputs, parameters=parameters)
        more = {door.JSON_BYTES: str(json_bytes)}
        reply = await joined(self._ask(path_of(model, version), model, data, options, more))
        return arrays.read(reply.data, json_bytes_of(reply.content_type))

    async def result(self, request_id: str, *, timeout_s: float = _DEFAULT_TIMEOUT_S) -> Json:
        """Fetch the answer of a durable request that is not streamed, from whatever process asked for it.

        Raises:
            NotFound: there is none of this id, or it is no longer kept. DeadlineWhileQueued: it did not end in time.
            InferbusError: what it ended in; InvalidRequest where its answer is a stream (`events`).
        """
        parts: list[bytes] = []
        async with aclosing(self._follow(request_id, "", time.monotonic() + timeout_s)) as replies:
            async for reply in replies:
                if reply.event_id:
                    raise InvalidRequest("its answer is streamed: use `events`")
                parts.append(reply.data)
                if reply.end:
                    decoded: Json = msgspec.json.decode(b"".join(parts))
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
        decoded: Json = msgspec.json.decode((await joined(self._ask_json(path, body, options))).data)
        return decoded

    def _ask_json(self, path: str, body: Json, options: Json) -> AsyncGenerator[Reply, None]:
        ours = {name: options.pop(name) for name in _OURS if name in options}
        return self._ask(path, str(body["model"]), msgspec.json.encode(body | options), ours)

    async def _ask(
        self, path: str, model: str, data: bytes, options: Json, more: dict[str, str] | None = None
    ) -> AsyncGenerator[Reply, None]:
        """Publish a request and yield the parts of its answer; `options` are ours (`_OURS`), `more` are headers."""
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
        headers = (
            kept
            | (more or {})
            | {
                door.REPLY_TO: f"{self._reply_to}.{request_id}",
                door.REQUEST_ID: request_id,
                door.PATH: path,
                door.DEADLINE_MS: str(int(timeout_s * 1000)),
            }
        )
        ended = False
        seq = 0
        give_up = time.monotonic() + timeout_s + _GRACE_S
        try:
            try:
                await bus.accept(
                    routes.request(self._tenant, model, lane),
                    data,
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
                reply = await part(queue, seq, give_up)
                seq, ended = seq + 1, reply.end
                if reply.status >= 400:
                    raise error_of(reply)
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
            token, fetched = secrets.token_hex(8), queue is None
            if queue is None:
                queue = self._replies[token] = asyncio.Queue()
                headers = {door.REPLY_TO: f"{self._reply_to}.{token}"} | ({door.AFTER: after} if after else {})
                await self._connection().publish(routes.fetch(self._tenant, request_id), b"", headers)
            try:
                expected = 0
                while (got := await part_or_none(queue, give_up)) is not None and got[0] == expected:
                    expected, reply = expected + 1, got[1]
                    if reply.status >= 400:
                        error = error_of(reply)
                        if not (began and fetched and isinstance(error, NotFound)):  # else it is what was asked for
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
        reply = Reply(
            status, message.data, ended, headers.get(door.EVENT, ""), headers.get(door.REQUEST_ID, ""),
            headers.get(door.CONTENT_TYPE, ""), headers,
        )  # fmt: skip
        queue.put_nowait((int(headers.get(door.SEQ, "0")), reply))

    def _connection(self) -> Bus:
        if self._bus is None:
            raise InferbusError("use the client as an async context manager: `async with inferbus.Client(...)`")
        return self._bus


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

"""The yardstick: the same way (HTTP, durable accept, pull, one reply, ack) with nothing on it.

No keys, bounds, traces, logs, confirms or errors: what is measured against it is what the product adds, on the same
machine in the same minutes. Run as `python -m inferbus_bench.bare_path gateway|worker BUS_URL [PORT]`.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats
import nats.errors
import uvicorn
import uvloop
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType

_STREAM, _SUBJECT, _REPLY, _DURABLE = "BARE", "bare.work", "bare.reply", "bare"
_SLOTS = 512
_Message = dict[str, Any]


class _Body(msgspec.Struct):
    model: str
    max_tokens: int = 16


class Gateway:
    """An ASGI application that answers chats which are not streamed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._decode = msgspec.json.Decoder(_Body).decode
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._tags = itertools.count()

    async def start(self) -> None:
        connection = await nats.connect(self._url)
        self._stream = connection.jetstream()
        await connection.subscribe(_REPLY, cb=self._on_reply)

    async def _on_reply(self, message: Msg) -> None:
        for tag, text in msgspec.msgpack.decode(message.data, type=list[tuple[int, bytes]]):
            self._waiting.pop(tag).set_result(text)

    async def __call__(
        self, _scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        wanted = self._decode(body)
        tag = next(self._tags)
        answer = self._waiting[tag] = asyncio.get_running_loop().create_future()
        await self._stream.publish(_SUBJECT, body, headers={"Tag": str(tag), "Tokens": str(wanted.max_tokens)})
        text = await answer
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


async def run_gateway(url: str, port: int) -> None:
    gateway = Gateway(url)
    await gateway.start()
    config = uvicorn.Config(
        gateway, interface="asgi3", port=port, http="httptools", lifespan="off", log_config=None, access_log=False
    )
    await uvicorn.Server(config).serve()


def answer_of(tokens: int) -> bytes:
    return msgspec.json.encode({
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": " token" * tokens}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens},
    })  # fmt: skip


async def run_worker(url: str) -> None:
    connection = await nats.connect(url)
    stream = connection.jetstream()
    await stream.add_stream(
        name=_STREAM, subjects=[_SUBJECT], retention=RetentionPolicy.WORK_QUEUE, storage=StorageType.FILE
    )
    pull = await stream.pull_subscribe(_SUBJECT, durable=_DURABLE, config=ConsumerConfig(max_ack_pending=4096))
    while True:
        try:
            messages = await pull.fetch(min(_SLOTS, 64), timeout=5)
        except nats.errors.Error:  # nothing came, which nats-py says in more than one way; it must not end the worker
            continue
        answers = []
        for message in messages:
            headers = message.headers or {}
            answers.append((int(headers["Tag"]), answer_of(int(headers["Tokens"]))))
        await connection.publish(_REPLY, msgspec.msgpack.encode(answers))
        for message in messages:
            await message.ack()
        await asyncio.sleep(0)


def main() -> None:
    role, url = sys.argv[1:3]
    uvloop.run(run_gateway(url, int(sys.argv[3])) if role == "gateway" else run_worker(url))


if __name__ == "__main__":
    main()

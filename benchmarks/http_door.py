"""CPU of the HTTP door alone, in one process and without sockets: what each layer adds to a request and to a token.

    .venv/bin/python benchmarks/http_door.py [--rounds 8]

The engine is a callback that feeds a real exchange. Best of the rounds, because other work on the machine only adds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
import uvloop
from litestar import Litestar, Response, post
from litestar.types import ASGIApp
from prometheus_client import CollectorRegistry

from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Exchange
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.step import Delta, Finished, Started, Usage
from inferbus.settings import TelemetrySettings
from inferbus.telemetry import logs
from inferbus.telemetry.tracing import Tracing
from inferbus_gateway.http.app import build_app
from inferbus_gateway.http.document import Unconnected
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.observer import Observer
from inferbus_gateway.settings import GatewaySettings

PATH = "/v1/chat/completions"
TOKENS = 200
MESSAGES = [{"role": "user", "content": "hello world this is a test " * 2}]
WHOLE = msgspec.json.encode({"model": "mock", "messages": MESSAGES, "max_tokens": 16})
STREAMED = msgspec.json.encode({"model": "mock", "messages": MESSAGES, "stream": True})
ANSWER = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[' + b" " * 200 + b"]}"
CHUNK = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":"hello"}}]}\n\n'


class Around:
    """Key ring, models and admission that cost nothing, and an engine that answers at the next loop iteration."""

    def __init__(self) -> None:
        self._identity = Identity(tenant="dev")
        self._entry = ModelEntry(name="mock", pool="mock")
        self._tags = itertools.count(1)

    def authenticate(self, authorization: str | None) -> Identity:  # noqa: ARG002 - the port's signature
        return self._identity

    def resolve(self, name: str) -> ModelEntry | None:  # noqa: ARG002 - the port's signature
        return self._entry

    def all(self) -> list[ModelEntry]:
        return [self._entry]

    async def admit(self, identity: Identity, ask: Ask) -> Exchange:  # noqa: ARG002 - the port's signature
        exchange = Exchange(
            request_id=ask.request_id or "", tag=next(self._tags), tenant="dev", pool="mock", deadline_s=600,
            on_close=lambda _: None,
        )  # fmt: skip
        asyncio.get_running_loop().call_soon(feed, exchange, TOKENS if ask.streamed else 0)
        return exchange

    begin = admit


def feed(exchange: Exchange, left: int) -> None:
    """Play the worker: one token per loop iteration, then the end."""
    if not exchange.started:
        exchange.begin(Started(1, 1, 0, "", "worker", "1"))
    if left:
        exchange.feed(Delta(1, 1, exchange.next_seq, [], CHUNK))
        asyncio.get_running_loop().call_soon(feed, exchange, left - 1)
    else:
        exchange.feed(Finished(1, 1, exchange.next_seq, 200, Usage(10, 16), ANSWER))


class Connection:
    """What uvicorn gives an application for one request."""

    def __init__(self, body: bytes) -> None:
        self._event = asyncio.Event()
        self._event.set()
        self._body = body
        self._done = False

    async def receive(self) -> dict[str, Any]:
        if not self._done:
            await self._event.wait()
            self._event.clear()
        if self._done:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._done = True
            self._event.set()


async def bare(_scope: Any, receive: Any, send: Any) -> None:
    """The least an application can do: read, answer at the next iteration. Chunks as they would come."""
    body = (await receive())["body"]
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(TOKENS if b'"stream"' in body else 0):
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": ANSWER})


@post(PATH, status_code=200)
async def with_response(body: bytes) -> Response[bytes]:
    assert body
    await asyncio.sleep(0)
    return Response(ANSWER, media_type="application/json")


@post(PATH, status_code=200, sync_to_thread=False)
def with_asgi() -> ASGIApp:
    return cast("ASGIApp", bare)


def scope_of(body: bytes) -> dict[str, Any]:
    return {
        "type": "http", "http_version": "1.1", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "state": {},
        "query_string": b"", "root_path": "", "scheme": "http", "server": ("door", 80), "client": ("client", 1),
        "headers": [
            (b"host", b"door"), (b"authorization", b"Bearer ib-1-secret"), (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ],
    }  # fmt: skip


async def cpu_us(app: Any, body: bytes, requests: int) -> float:
    loop = asyncio.get_running_loop()
    began = time.process_time()
    for _ in range(requests):
        connection = Connection(body)
        await loop.create_task(app(scope_of(body), connection.receive, connection.send))
    return (time.process_time() - began) / requests * 1e6


async def main(rounds: int) -> None:
    around, registry = Around(), CollectorRegistry()
    ready: Callable[[], str | None] = lambda: None  # noqa: E731 - nothing to ask
    deps = HttpDeps(
        settings=GatewaySettings(), authenticator=around, admitter=around, models=around, ready=ready,
        tracing=Tracing("gateway", TelemetrySettings()), observer=Observer(registry), registry=registry,
        durable=Unconnected(), places=Unconnected(), canceller=Unconnected(),
    )  # fmt: skip
    door = build_app(deps)
    whole = {
        "a bare ASGI application": bare,
        "  behind a Litestar route that returns it": Litestar([with_asgi], openapi_config=None, logging_config=None),
        "  as a Litestar handler with a Response": Litestar([with_response], openapi_config=None, logging_config=None),
        "the door, as it is": door,
        "the door, inference through Litestar": door.site,
    }
    streamed = {name: app for name, app in whole.items() if app is bare or app is door or app is door.site}
    for title, apps, body, requests, per in (
        ("us of CPU per request, not streamed", whole, WHOLE, 2000, 1),
        ("us of CPU per token, streamed one by one", streamed, STREAMED, 50, TOKENS),
    ):
        best = dict.fromkeys(apps, float("inf"))
        for _ in range(rounds):
            for name, app in apps.items():
                best[name] = min(best[name], await cpu_us(app, body, requests) / per)
        print(f"\n{title}")
        for name, value in best.items():
            print(f"  {name:<44} {value:6.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the canonical lines are written, as in production
    logs.configure("gateway")
    uvloop.run(main(arguments.rounds))

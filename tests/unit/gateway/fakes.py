"""Fakes behind the HTTP door's ports. The exchange is the real one, fed with frames by the test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Exchange
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.presence import Presence
from inferbus.contracts.step import Delta, Failed, Finished, Started, Usage
from inferbus.contracts.usage import Total
from inferbus.durable.event_ids import EventId
from inferbus.durable.reader import DurableReader
from inferbus.errors import Conflict, DependencyDown, InferbusError, NotFound, Unauthenticated
from inferbus.settings import TelemetrySettings
from inferbus.telemetry.tracing import Tracing
from inferbus_gateway.durable import Opened, RequestStatus
from inferbus_gateway.http.app import build_app
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.observer import Observer
from inferbus_gateway.ports import Place
from inferbus_gateway.settings import GatewaySettings

KEY = "ib-1-secret"
PATIENCE_S = 5.0


class FakeAuthenticator:
    def authenticate(self, authorization: str | None) -> Identity:
        if authorization != f"Bearer {KEY}":
            raise Unauthenticated("Incorrect API key provided")
        return Identity(tenant="dev", key_id="1")


class FakeModels:
    def __init__(self, *entries: ModelEntry) -> None:
        self.entries = entries or (
            ModelEntry(name="inferbus-tiny", pool="tiny", aliases=["tiny"]),
            ModelEntry(name="org/mini lm", pool="mini", tasks=["embeddings"]),
        )

    def resolve(self, name: str) -> ModelEntry | None:
        return next((entry for entry in self.entries if name in (entry.name, *entry.aliases)), None)

    def all(self) -> list[ModelEntry]:
        return list(self.entries)


class FakeEngine:
    """Feeds one exchange the frames a worker would send."""

    def __init__(self, identity: Identity, ask: Ask, exchange: Exchange) -> None:
        self.identity = identity
        self.ask = ask
        self.exchange = exchange
        self.closed = asyncio.Event()
        self._seq = itertools.count(1)
        exchange.on_closed(self.closed.set)

    def begin(self) -> None:
        self.exchange.begin(Started(self.exchange.tag, 1, 0, "ack", "worker-0", "inc"))

    def chunk(self, data: bytes) -> None:
        self.exchange.feed(Delta(self.exchange.tag, 1, next(self._seq), [], data))

    def finish(self, status: int = 200, data: bytes = b"", content_type: str = "application/json") -> None:
        usage = Usage(prompt_tokens=3, completion_tokens=2)
        self.exchange.feed(Finished(self.exchange.tag, 1, next(self._seq), status, usage, data, content_type))

    def fail(self, error: InferbusError) -> None:
        self.exchange.feed(Failed(self.exchange.tag, 1, next(self._seq), error.code, error.message))

    @property
    def cancelled(self) -> bool:
        """Closed before the worker itself had ended it: the asker tells the worker to stop."""
        return self.closed.is_set() and not self.exchange.finished


class FakeAdmitter:
    """Accepts everything for a known model, unless told to refuse; `script` plays the engine."""

    def __init__(self, models: FakeModels, script: Callable[[FakeEngine], None] | None = None) -> None:
        self._models = models
        self._tags = itertools.count(1)
        self.script = script
        self.refuse: Exception | None = None
        self.admitted: asyncio.Queue[FakeEngine] = asyncio.Queue()

    async def admit(self, identity: Identity, ask: Ask) -> Exchange:
        if self.refuse is not None:
            raise self.refuse
        if self._models.resolve(ask.model) is None:
            raise NotFound(f"The model `{ask.model}` does not exist", param="model")
        exchange = Exchange(
            request_id=ask.request_id or "none",
            tag=next(self._tags),
            tenant=identity.tenant,
            pool="tiny",
            deadline_s=ask.deadline_s or 60.0,
            on_close=lambda _: None,
        )
        exchange.accepted()
        engine = FakeEngine(identity, ask, exchange)
        self.admitted.put_nowait(engine)
        if self.script is not None:
            self.script(engine)
        return exchange

    begin = admit

    async def next(self) -> FakeEngine:
        return await asyncio.wait_for(self.admitted.get(), PATIENCE_S)


class FakePlaces:
    """Everybody stands where the test says."""

    def __init__(self) -> None:
        self.place = Place(12, 3.4)

    def place_of(self, exchange: Exchange) -> Place:
        assert exchange.fence is None
        return self.place


class FakeCanceller:
    """Knows the states of a few requests."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str], str] = {}

    async def cancel(self, tenant: str, request_id: str) -> str:
        if (tenant, request_id) not in self.states:
            raise NotFound(f"no request {request_id}", param="request_id")
        return self.states[tenant, request_id]


class FakeTotals:
    """Has the rows a test gives it."""

    def __init__(self) -> None:
        self.all: list[Total] = []

    async def rows(self, tenant: str) -> list[Total]:
        return [row for row in self.all if row.tenant == tenant]


class FakeServers:
    """Says what a test gives it, of models by operation and version; without workers nobody says anything."""

    def __init__(self) -> None:
        self.said: dict[tuple[str, str, str], bytes] = {}
        self.ready: list[Presence] = []

    def workers(self, pool: str) -> list[Presence]:
        return [beat for beat in self.ready if pool in beat.pools]

    async def say(self, entry: ModelEntry, op: str, version: str = "") -> bytes:
        if not self.workers(entry.pool):
            raise DependencyDown(f"no worker of the pool {entry.pool} is ready to say")
        if (entry.name, op, version) not in self.said:
            raise NotFound(f"no version {version!r}")
        return self.said[entry.name, op, version]


class FakeDurable:
    """Keeps nothing: notes what is asked for, and says that it is not there."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []

    async def open(self, identity: Identity, ask: Ask) -> Opened:
        self.asked.append(ask)
        raise Conflict(f"{identity.tenant} has another request under this key")

    async def refuse(self, tenant: str, request_id: str, error: InferbusError) -> None: ...

    async def read(self, tenant: str, request_id: str, after: EventId | None = None) -> DurableReader:
        raise NotFound(f"{tenant} has no {request_id} after {after}")

    async def status(self, tenant: str, request_id: str) -> RequestStatus:
        raise NotFound(f"{tenant} has no {request_id}")


class Door:
    """The application with everything around it faked."""

    def __init__(self, settings: GatewaySettings | None = None, tracing: Tracing | None = None) -> None:
        self.settings = settings or GatewaySettings(host="127.0.0.1", port=0, drain_s=5, linger_s=0.2)
        self.models = FakeModels()
        self.admitter = FakeAdmitter(self.models)
        self.durable = FakeDurable()
        self.places = FakePlaces()
        self.canceller = FakeCanceller()
        self.totals = FakeTotals()
        self.servers = FakeServers()
        self.not_ready: str | None = None
        self.registry = CollectorRegistry()
        self.deps = HttpDeps(
            settings=self.settings,
            authenticator=FakeAuthenticator(),
            admitter=self.admitter,
            models=self.models,
            ready=lambda: self.not_ready,
            tracing=tracing or Tracing("gateway", TelemetrySettings()),
            observer=Observer(self.registry),
            registry=self.registry,
            durable=self.durable,
            places=self.places,
            canceller=self.canceller,
            totals=self.totals,
            servers=self.servers,
        )
        self.app: Any = build_app(self.deps)

    def post(self, path: str, body: object, **headers: str) -> Call:
        """Start a POST; the body is JSON unless it is bytes already."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self.call("POST", path, data, {"authorization": f"Bearer {KEY}", **headers})

    def get(self, path: str, **headers: str) -> Call:
        return self.call("GET", path, b"", {"authorization": f"Bearer {KEY}", **headers})

    def call(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Call:
        given = {
            "host": "door",
            "content-length": str(len(body)),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        return Call(self.app, method, path, given, [(body, False)])


class Call:
    """One request against an ASGI application, played by hand: what is received, what was sent, and when."""

    def __init__(
        self, app: Any, method: str, path: str, headers: dict[str, str], body: list[tuple[bytes, bool]]
    ) -> None:
        self.events: list[MutableMapping[str, Any]] = []
        self.read = 0
        self.broken = False
        self._in: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._changed = asyncio.Condition()
        for data, more in body:
            self.give(data, more)
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "state": {},
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1), "server": ("door", 80),
        }  # fmt: skip
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]] = self._receive
        self.task: asyncio.Task[None] = asyncio.ensure_future(app(scope, receive, self._send))

    def give(self, data: bytes, more: bool) -> None:
        self._in.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def hang_up(self) -> None:
        self._in.put_nowait({"type": "http.disconnect"})

    async def _receive(self) -> MutableMapping[str, Any]:
        message = await self._in.get()
        self.read += len(message.get("body", b""))
        return message

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if self.broken:
            raise RuntimeError("the transport is broken")
        self.events.append(message)
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[Call], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def done(self) -> Call:
        await asyncio.wait_for(asyncio.shield(self.task), PATIENCE_S)
        return self

    @property
    def status(self) -> int:
        return int(self.events[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.events[0]["headers"]}

    @property
    def pieces(self) -> list[bytes]:
        return [event["body"] for event in self.events[1:]]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def complete(self) -> bool:
        return len(self.events) > 1 and not self.events[-1].get("more_body", False)

    @property
    def error(self) -> dict[str, Any]:
        """The error of an error answer, checked to be in OpenAI's form."""
        decoded = msgspec.json.decode(self.body)
        assert set(decoded) == {"error"}
        assert set(decoded["error"]) == {"message", "type", "param", "code"}
        return dict(decoded["error"])

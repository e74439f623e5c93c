"""Operating: what is asked of this worker about its server, by administrators on `control.<process>.triton` and by gateways on
`control.<process>.model`. Who may publish which the bus sees to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from nats.aio.msg import Msg

from inferbus.answers.attempts import Attempts
from inferbus.bus import Bus
from inferbus.contracts import triton
from inferbus.contracts.control import MODEL, TRITON
from inferbus.contracts.triton import TritonAsk, TritonReply
from inferbus.errors import DependencyDown, InferbusError
from inferbus_triton_worker.engine import TritonEngine
from inferbus_triton_worker.ports import Busy, Refused, ServerError, TritonServer

_MAX_S = 600.0
log = structlog.get_logger()
_decode = msgspec.json.Decoder(TritonAsk).decode


class Operating:
    """A part of the worker; every request is a task of its own, since a model may take a minute to load."""

    def __init__(self, bus: Bus, attempts: Attempts, engine: TritonEngine) -> None:
        self._bus = bus
        self._attempts = attempts
        self._engine = engine
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._attempts.on_control(TRITON, self._on_operation)
        self._attempts.on_control(MODEL, self._on_look)

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_operation(self, message: Msg) -> None:
        self._begin(message, (*triton.LOOKS, *triton.CHANGES))

    def _on_look(self, message: Msg) -> None:
        self._begin(message, triton.OF_MODELS)

    def _begin(self, message: Msg, allowed: tuple[str, ...]) -> None:
        task = asyncio.create_task(self._reply(message, allowed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, message: Msg, allowed: tuple[str, ...]) -> None:
        try:
            reply = await self.answer(_decode(message.data), allowed)
        except msgspec.DecodeError as exc:
            reply = TritonReply(status=400, error=f"unreadable: {exc}")
        if message.reply:
            try:
                await self._bus.publish(message.reply, msgspec.json.encode(reply))
            except InferbusError as exc:
                log.warning("triton_reply_not_sent", error=exc.message)

    async def answer(self, ask: TritonAsk, allowed: tuple[str, ...]) -> TritonReply:
        """Do one operation; whatever is wrong is in the reply."""
        if ask.op not in allowed:
            status = 403 if ask.op in (*triton.LOOKS, *triton.CHANGES) else 400
            return TritonReply(status=status, error=f"operation {ask.op!r}; here it is one of {', '.join(allowed)}")
        try:
            async with asyncio.timeout(min(_MAX_S, max(0.0, ask.timeout_s))):
                data = await self._do(ask)
        except TimeoutError:
            return TritonReply(status=504, error=f"{ask.op} was not done within {ask.timeout_s:g} s; it may still be")
        except Refused as exc:
            status = 400 if ask.op in triton.CHANGES and exc.status >= 500 else exc.status
            return TritonReply(status=status, error=exc.message)
        except ServerError as exc:
            return TritonReply(status=503 if isinstance(exc, Busy) else 500, error=exc.message)
        except InferbusError as exc:
            return TritonReply(status=exc.row.http_status, error=exc.message)
        return TritonReply(data=msgspec.Raw(msgspec.json.encode(data)))

    async def _do(self, ask: TritonAsk) -> Any:
        server = self._engine.server
        if ask.op in triton.CHANGES:
            return await self._change(server, ask)
        looks: dict[str, Callable[[], Awaitable[Any]]] = {
            triton.METADATA: lambda: server.metadata(ask.model, ask.version),
            triton.READY: lambda: _ready(server, ask),
            triton.CONFIG: lambda: server.config(ask.model, ask.version),
            triton.STATS: lambda: server.statistics(ask.model, ask.version),
            triton.INDEX: server.index,
            triton.SERVER: server.about,
        }
        return await looks[ask.op]()

    async def _change(self, server: TritonServer, ask: TritonAsk) -> dict[str, Any]:
        if not ask.model:
            raise Refused(f"{ask.op}: expected the name of a model, got none", 400)
        async with self._engine.turns.operation(ask.model, ask.operation) as turn:
            if turn.mine:
                if ask.op == triton.LOAD:
                    await server.load(ask.model, ask.config)
                else:
                    await server.unload(ask.model, dependents=ask.dependents)
                turn.done = True
        self._engine.forget()  # what an ensemble takes may have changed with its parts
        log.info("model_changed", operation=ask.op, model=ask.model, config=bool(ask.config), by_me=turn.mine)
        return {}


async def _ready(server: TritonServer, ask: TritonAsk) -> dict[str, bool]:
    try:
        return {"ready": await server.model_ready(ask.model, ask.version)}
    except Busy as exc:
        raise DependencyDown(exc.message) from exc

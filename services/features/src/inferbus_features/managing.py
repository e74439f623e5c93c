"""Managing: the operations of `features.manage.<tenant>.<verb>`, each answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import from_json, to_json
from inferbus.contracts.features import FeatureFault, ManageReply, ManageRequest
from inferbus.errors import Forbidden, InferbusError, NotFound, Transient

_AT_ONCE = 64
log = structlog.get_logger()

Operation = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Does what a tenant asks for with arguments, and gives what is answered; or raises an `InferbusError`."""


class Managing:
    """`start`, then `stop`. `operators` are the verbs that only the platform's operators may use: they ask as `PLATFORM`, and
    name a tenant in their arguments where it matters."""

    def __init__(self, bus: Bus, verbs: Mapping[str, Operation], operators: frozenset[str]) -> None:
        self._bus = bus
        self._verbs = verbs
        self._operators = operators
        self._running: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._subscription = await self._bus.subscribe(
            routes.FEATURES_MANAGE_ALL, self._on_message, queue=routes.QUEUE_FEATURES
        )

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._bus.drain(self._subscription)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _on_message(self, message: Msg) -> None:
        if len(self._running) >= _AT_ONCE:
            await self._reply(
                message, ManageReply(error=FeatureFault(code="overloaded", message="too many operations"))
            )
            return
        task = asyncio.create_task(self._run(message), name=f"manage-{message.subject}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, message: Msg) -> None:
        try:
            reply = ManageReply(data=await self._do(message))
        except InferbusError as exc:
            retry_s = exc.retry_after_s if isinstance(exc, Transient) else 0.0
            fault = FeatureFault(code=exc.code, message=exc.message, param=exc.param or "", retry_after_s=retry_s)
            reply = ManageReply(error=fault)
        except Exception:  # one bad question must not end the desk; whoever asked is told
            log.exception("manage_failed", subject=message.subject)
            reply = ManageReply(error=FeatureFault(code="internal", message="a bug; the log has more"))
        await self._reply(message, reply)

    async def _do(self, message: Msg) -> Any:
        asked = routes.parse_features(message.subject)
        operation = self._verbs.get(asked.name)
        if operation is None:
            raise NotFound(f"there is no operation {asked.name!r}; there are {', '.join(sorted(self._verbs))}")
        if asked.name in self._operators and asked.tenant != routes.PLATFORM:
            raise Forbidden(f"{asked.name} is an operator's")
        request = from_json(message.data, ManageRequest, what="operation") if message.data else ManageRequest()
        return await operation(asked.tenant, request.arguments)

    async def _reply(self, message: Msg, reply: ManageReply) -> None:
        try:
            await self._bus.publish(message.reply, to_json(reply))
        except InferbusError as exc:  # whoever asked sees a timeout, and may ask again
            log.warning("manage_not_answered", subject=message.subject, error=exc.message)

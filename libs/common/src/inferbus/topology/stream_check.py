"""StreamCheck: are the streams there that this process cannot work without? A server may be up and have none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.errors import DependencyDown

_EVERY_S, _AGAIN_S = 15.0, 3.0
_NOT_FOUND = 404
log = structlog.get_logger()


class _Error(msgspec.Struct):
    code: int = 0


class _Answer(msgspec.Struct):
    error: _Error | None = None


def gateway_needs() -> dict[str, str]:
    """Give what a gateway asks for: the name to show, and the subject to ask."""
    streams = [routes.STREAM_REQUEST, routes.STREAM_PAY, *(routes.kv_stream(bucket) for bucket in routes.KV_BUCKETS)]
    return {f"stream {stream}": f"$JS.API.STREAM.INFO.{stream}" for stream in streams}


def worker_needs(*, region: str, runtime: str, pool: str) -> dict[str, str]:
    """Give what a worker asks for: the queues of its pool, which exist once its model was applied."""
    durable = routes.durable_worker(pool, 0)
    streams = [routes.stream_infer(region, runtime, lane) for lane in routes.LANES]
    return {f"queue {durable} of {stream}": f"$JS.API.CONSUMER.INFO.{stream}.{durable}" for stream in streams}


class StreamCheck:
    """Looks at the start, after every reconnect, and every 15 seconds (3 while something is missing). `missing` names what
    the server said it does not have; a server that does not answer has said nothing."""

    def __init__(self, bus: Bus, needs: dict[str, str]) -> None:
        self._bus = bus
        self._needs = needs
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._forget: Callable[[], None] = lambda: None
        self.missing: list[str] = []

    @property
    def why_not_ready(self) -> str | None:
        if not self.missing:
            return None
        return f"the bus lacks {', '.join(self.missing)}: is its store the right one, and its encryption key?"

    async def start(self) -> None:
        self._forget = self._bus.on_reconnect(self._on_reconnect)
        await self._look()
        self._task = asyncio.create_task(self._keep_looking(), name="stream-check")

    async def stop(self) -> None:
        self._forget()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _on_reconnect(self) -> None:
        self._wake.set()

    async def _keep_looking(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_AGAIN_S if self.missing else _EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._look()

    async def _look(self) -> None:
        try:  # all at once: both sides are woken once and not for each
            found = await asyncio.gather(*map(self._is_there, self._needs.values()))
        except (DependencyDown, msgspec.DecodeError) as exc:
            log.debug("stream_check_unanswered", error=str(exc))
            return
        missing = [name for name, is_there in zip(self._needs, found, strict=True) if not is_there]
        if missing != self.missing:
            (log.error if missing else log.info)("streams_missing" if missing else "streams_back", missing=missing)
            self.missing = missing

    async def _is_there(self, subject: str) -> bool:
        answer = msgspec.json.decode((await self._bus.request(subject)).data, type=_Answer)
        return answer.error is None or answer.error.code != _NOT_FOUND

"""A sink that keeps what an engine gives it, for tests of engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from inferbus.contracts.step import Cached, Done, Ids, Resume, Usage
from inferbus.worker.ports import Engine, Work


class Finish(msgspec.Struct, frozen=True):
    status: int
    usage: Usage
    data: bytes
    content_type: str

    def json(self) -> Any:
        return json.loads(self.data)


class RecordingSink:
    """Records one request; a second end, or anything after the end, is an error of the test."""

    def __init__(self) -> None:
        self.deltas: list[tuple[Ids, bytes]] = []
        self.done: list[Done] = []
        self.done_by_delta: list[list[Done]] = []
        self.cached: Cached | None = None
        self.spent: Usage | None = None
        self.end: asyncio.Future[Finish | BaseException] = asyncio.get_running_loop().create_future()
        self._more = asyncio.Event()

    def delta(self, ids: Ids, data: bytes, done: Sequence[Done] = (), cached: Cached | None = None) -> None:
        assert not self.end.done(), "a delta after the end"
        self.done += done
        self.done_by_delta.append(list(done))
        assert cached is None or not self.deltas, "cached tokens after the first delta"
        self.cached = self.cached or cached
        self.deltas.append((ids, data))
        self._more.set()

    def finished(self, status: int, usage: Usage, data: bytes, content_type: str) -> None:
        self.end.set_result(Finish(status, usage, data, content_type))
        self._more.set()

    def failed(self, error: BaseException, spent: Usage | None = None) -> None:
        self.spent = spent
        self.end.set_result(error)
        self._more.set()

    async def until_deltas(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait until that many deltas have come."""
        async with asyncio.timeout(timeout_s):
            while len(self.deltas) < count:
                assert not self.end.done(), f"ended after {len(self.deltas)} deltas"
                self._more.clear()
                await self._more.wait()

    async def ended(self, timeout_s: float = 30.0) -> Finish | BaseException:
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(self.end)

    async def finish(self, timeout_s: float = 30.0) -> Finish:
        end = await self.ended(timeout_s)
        if isinstance(end, BaseException):
            raise end
        return end

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.deltas)

    def resume_after(self, deltas: int, *, created: int = 1_700_000_000, fingerprint: str = "") -> Resume:
        """Give what an asker that has the first `deltas` of these tells the next engine."""
        ids: dict[int, list[int]] = {}
        chunks: dict[int, list[int]] = {}
        for frame, _ in self.deltas[:deltas]:
            for choice, new in frame:
                ids.setdefault(choice, []).extend(new)
                chunks.setdefault(choice, []).append(len(new))
        return Resume(
            ids=list(ids.items()),
            chunks=[chunks[choice] for choice in ids],
            done=[done for frame in self.done_by_delta[:deltas] for done in frame],
            cached=self.cached,
            created=created,
            fingerprint=fingerprint,
        )

    def followed_by(self, other: RecordingSink, first: int, second: int) -> RecordingSink:
        """Give what somebody has who got the first deltas of this one and then some of another's."""
        both = RecordingSink()
        both.deltas = self.deltas[:first] + other.deltas[:second]
        both.done_by_delta = self.done_by_delta[:first] + other.done_by_delta[:second]
        both.cached = self.cached
        return both

    @property
    def tokens(self) -> int:
        return sum(len(new) for ids, _ in self.deltas for _, new in ids)

    def events(self, first: int = 0, last: int | None = None) -> list[Any]:
        """The SSE events of these deltas as objects, `[DONE]` as it is."""
        data = b"".join(data for _, data in self.deltas[first:last])
        lines = [part.removeprefix("data: ") for part in data.decode().split("\n\n") if part]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def submit(
    engine: Engine,
    body: dict[str, Any] | bytes,
    *,
    request_id: str,
    key: str = "",
    path: str = "/v1/chat/completions",
    created: int = 1_700_000_000,
    model: str = "",
    resume: Resume | None = None,
) -> RecordingSink:
    """Give an engine one request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    streamed = isinstance(body, dict) and bool(body.get("stream"))
    sink = RecordingSink()
    work = Work(
        key=key or request_id, request_id=request_id, path=path, body=data, streamed=streamed, created=created, model=model,
        resume=resume,
    )  # fmt: skip
    await engine.submit(work, sink)
    return sink

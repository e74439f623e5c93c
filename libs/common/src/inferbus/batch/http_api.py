"""BatchApi: files and batches over HTTP, as the command line needs them. One gateway, one key.

A gateway that restarts is waited for where asking again is safe; what a gateway refuses is raised as our own errors.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import msgspec

from inferbus.batch.letters import DeadLetter, DeadLetterList
from inferbus.errors import DependencyDown, InferbusError, InvalidRequest, error_from

T = TypeVar("T")
_PIECE_BYTES = 256 * 1024
_PATIENCE_S = 60.0
_AGAIN_S = 1.0
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_AGAIN = frozenset({502, 503, 504})


class _Detail(msgspec.Struct):
    message: str = ""
    code: str | int | None = None
    param: str | None = None


class _Problem(msgspec.Struct):
    error: _Detail


class ApiCounts(msgspec.Struct, frozen=True):
    total: int = 0
    completed: int = 0
    failed: int = 0


class ApiUsage(msgspec.Struct, frozen=True):
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    wasted_tokens: int = 0


class ApiPaused(msgspec.Struct, frozen=True):
    reason: str
    message: str = ""


class ApiError(msgspec.Struct, frozen=True):
    code: str | None = None
    message: str | None = None
    line: int | None = None


class ApiErrors(msgspec.Struct, frozen=True):
    data: list[ApiError] = []


class ApiBatch(msgspec.Struct, frozen=True):
    """A batch, as the gateway tells of it."""

    id: str
    status: str
    endpoint: str
    created_at: int = 0
    expires_at: int | None = None
    input_file_id: str = ""
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: ApiCounts = ApiCounts()
    usage: ApiUsage = ApiUsage()
    errors: ApiErrors | None = None
    paused: ApiPaused | None = None
    retry_of: str | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")


class _File(msgspec.Struct):
    id: str


class _Batches(msgspec.Struct):
    data: list[ApiBatch]
    has_more: bool = False


class BatchApi:
    """Use as an async context manager."""

    def __init__(self, url: str, key: str, *, patience_s: float = _PATIENCE_S) -> None:
        headers = {"authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers, timeout=_TIMEOUT)
        self._patience_s = patience_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def upload(self, path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
        """Upload a batch's input, a piece at a time; gives the file's id.

        Raises:
            InferbusError: it was refused. DependencyDown: the gateway cannot be reached.
        """
        boundary = secrets.token_hex(16)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{boundary}\r\n'
            f'Content-Disposition: form-data; name="file"; filename="{_quoted(path.name)}"\r\n\r\n'
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        size = path.stat().st_size

        async def pieces() -> AsyncIterator[bytes]:
            yield head
            with path.open("rb") as file:
                left = size
                while left and (piece := await asyncio.to_thread(file.read, min(left, _PIECE_BYTES))):
                    left -= len(piece)
                    yield piece
                    on_bytes(len(piece))
            yield tail

        headers = {
            "content-type": f"multipart/form-data; boundary={boundary}",
            "content-length": str(len(head) + size + len(tail)),
        }
        answer = await self._once("POST", "/v1/files", content=pieces(), headers=headers)
        return msgspec.json.decode(answer.content, type=_File).id

    async def create(self, fields: dict[str, Any]) -> ApiBatch:
        """Begin a batch, once however often the gateway has to be asked."""
        key = {"idempotency-key": secrets.token_hex(16)}
        return _read(await self._ask("POST", "/v1/batches", json=fields, headers=key), ApiBatch)

    async def get(self, batch_id: str) -> ApiBatch:
        return _read(await self._ask("GET", _one(batch_id)), ApiBatch)

    async def change(self, batch_id: str, verb: str) -> ApiBatch:
        """Cancel, pause or resume a batch."""
        return _read(await self._ask("POST", f"{_one(batch_id)}/{verb}"), ApiBatch)

    async def retry_failed(self, batch_id: str, lines: list[int], edited: dict[int, str]) -> ApiBatch:
        """Ask dead letters again (all, where none is named), as a new batch."""
        wanted = {"lines": lines, "edited": [{"line": line, "original": text} for line, text in edited.items()]}
        key = {"idempotency-key": secrets.token_hex(16)}
        return _read(await self._ask("POST", f"{_one(batch_id)}/retry-failed", json=wanted, headers=key), ApiBatch)

    async def batches(self, limit: int) -> AsyncIterator[ApiBatch]:
        """Give the newest batches."""
        after = ""
        while limit > 0:
            params = {"limit": str(min(limit, 100)), "after": after}
            page = _read(await self._ask("GET", "/v1/batches", params=params), _Batches)
            for one in page.data:
                yield one
            if not page.has_more:
                return
            after, limit = page.data[-1].id, limit - len(page.data)

    async def dead_letters(self, batch_id: str) -> AsyncIterator[DeadLetter]:
        """Give a batch's dead letters in the order of their lines."""
        after = 0
        while True:
            params = {"limit": "1000", "after": str(after)}
            page = _read(await self._ask("GET", f"{_one(batch_id)}/dead-letters", params=params), DeadLetterList)
            for one in page.data:
                yield one
            if not page.has_more:
                return
            after = page.data[-1].line

    async def dead_letter(self, batch_id: str, line: int) -> DeadLetter:
        return _read(await self._ask("GET", f"{_one(batch_id)}/dead-letters/{line}"), DeadLetter)

    async def download(self, file_id: str, path: Path) -> int:
        """Write a file's content to `path`, which is there when it is complete; gives its size.

        Raises:
            InferbusError: it cannot be had. DependencyDown: the gateway stays away.
        """
        part = path.with_name(f"{path.name}.part")
        give_up = time.monotonic() + self._patience_s
        part.write_bytes(b"")
        while True:
            size = part.stat().st_size
            try:
                await self._fetch(file_id, part, size)
            except (httpx.TransportError, DependencyDown) as exc:
                if part.stat().st_size > size:
                    give_up = time.monotonic() + self._patience_s
                if time.monotonic() >= give_up:
                    raise DependencyDown(f"{self._http.base_url} cannot be reached: {exc}") from exc
                await asyncio.sleep(_AGAIN_S)
                continue
            part.replace(path)
            return path.stat().st_size

    async def _fetch(self, file_id: str, part: Path, start: int) -> None:
        """Read on from where an earlier try had come to."""
        headers = {"range": f"bytes={start}-"} if start else {}
        async with self._http.stream("GET", f"/v1/files/{file_id}/content", headers=headers) as answer:
            if answer.status_code == 416:  # all of it is here
                return
            if answer.status_code >= 400:
                await answer.aread()
                raise _refusal(answer)
            with part.open("ab") as file:
                async for piece in answer.aiter_bytes(_PIECE_BYTES):
                    await asyncio.to_thread(file.write, piece)

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask until the gateway answers. Only for what may be asked twice."""
        give_up = time.monotonic() + self._patience_s
        while True:
            try:
                return await self._once(method, path, **options)
            except DependencyDown:
                if time.monotonic() >= give_up:
                    raise
            await asyncio.sleep(_AGAIN_S)

    async def _once(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, **options)
        except httpx.TransportError as exc:
            raise DependencyDown(f"{self._http.base_url} cannot be reached: {exc!r}") from exc
        except httpx.InvalidURL as exc:
            raise InvalidRequest(f"{self._http.base_url} is no address: {exc}") from exc
        if answer.status_code >= 400:
            raise _refusal(answer)
        return answer


def _refusal(answer: httpx.Response) -> InferbusError:
    """Read why a gateway refused; whatever else answers there is not known to be one."""
    try:
        detail = msgspec.json.decode(answer.content, type=_Problem).error
    except msgspec.DecodeError:
        detail = _Detail(message=f"{answer.request.url} answers {answer.status_code}: {answer.text[:200]}")
    if answer.status_code in _AGAIN:
        return DependencyDown(detail.message)
    return error_from(str(detail.code or "invalid_request"), detail.message)


def _read(answer: httpx.Response, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=type_)
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"{answer.request.url} is no Inferbus gateway: {exc}") from exc


def _one(batch_id: str) -> str:
    if not batch_id.replace("_", "").replace("-", "").isalnum():
        raise InvalidRequest(f"{batch_id[:80]!r} is no id of a batch")
    return f"/v1/batches/{batch_id}"


def _quoted(name: str) -> str:
    return name.replace('"', "_").replace("\r", "_").replace("\n", "_")

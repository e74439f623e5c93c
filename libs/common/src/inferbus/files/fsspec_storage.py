"""FsspecStorage: the storage over fsspec: a folder, S3, and whatever else fsspec has a file system for.

File systems block, so that their calls run in a bounded number of threads of our own; a call that does not come back in
time has failed. Nothing is cached: other processes write too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
import structlog
from fsspec.implementations.local import LocalFileSystem

from inferbus.errors import InferbusError, NotFound, StorageDown, TooLarge
from inferbus.files.file_systems import open_fs
from inferbus.files.names import check_name, is_name
from inferbus.files.ports import BodyStat, Written
from inferbus.files.settings import FilesSettings
from inferbus.files.stat_of import stat_of
from inferbus.files.uploads import BLOCK_BYTES, Upload, begin_upload
from inferbus.settings import SettingsError

T = TypeVar("T")
_PIECE_BYTES = 1024 * 1024
_RETRY_S = 5.0
log = structlog.get_logger()


class FsspecStorage:
    """One storage, below one url. Made by `open_storage`."""

    def __init__(self, fs: Any, root: str, settings: FilesSettings) -> None:
        self._fs = fs
        self._root = root.rstrip("/")
        self._timeout_s = settings.timeout_s
        self._is_local = isinstance(fs, LocalFileSystem)
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="storage")

    async def write(self, name: str, pieces: AsyncIterable[bytes], *, limit_bytes: int = 0) -> Written:
        """Store a body (see `Storage`)."""
        target = self._path(name)
        upload = await self._call(self._begin, target)
        digest, size = hashlib.sha256(), 0

        def put(data: bytes) -> None:
            digest.update(data)
            upload.write(data)

        try:
            async for data in _joined(pieces):
                size += len(data)
                if limit_bytes and size > limit_bytes:
                    raise TooLarge(f"{size} bytes came, the limit is {limit_bytes} bytes")
                await self._call(put, data)
            await self._call(upload.commit)
        except BaseException:
            await self._discard(upload)
            raise
        return Written(size, digest.hexdigest())

    async def read(self, name: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Read a body (see `Storage`). Nothing stays open between two pieces."""
        path = self._path(name)
        end = (await self.stat(name)).bytes
        if length is not None:
            end = min(end, start + length)
        while start < end:
            upto = min(end, start + (_PIECE_BYTES if self._is_local else BLOCK_BYTES))
            data = await self._call(self._piece, path, start, upto)
            if len(data) != upto - start:
                raise StorageDown(f"{name} ends before its {end} bytes")
            start = upto
            yield data

    async def stat(self, name: str) -> BodyStat:
        """Say how large a body is (see `Storage`)."""
        return stat_of(name, await self._call(self._fs.info, self._path(name)))

    async def delete(self, name: str) -> None:
        """Remove a body (see `Storage`)."""
        with contextlib.suppress(NotFound):
            await self._call(self._fs.rm_file, self._path(name))

    async def delete_below(self, folder: str) -> None:
        """Remove a folder's bodies (see `Storage`)."""
        with contextlib.suppress(NotFound):
            await self._call(lambda: self._fs.rm(self._path(folder), recursive=True))

    async def delete_all(self) -> None:
        """Remove everything, the folder of the storage itself included."""
        with contextlib.suppress(NotFound):
            await self._call(lambda: self._fs.rm(self._root, recursive=True))

    async def bodies(self, folder: str) -> list[BodyStat]:
        """List a folder's bodies (see `Storage`)."""
        return [stat_of(f"{folder}/{name}", info) for name, info in await self._listed(folder, "file")]

    async def folders(self, folder: str) -> list[str]:
        """List the folders in a folder (see `Storage`)."""
        return [f"{folder}/{name}" for name, _ in await self._listed(folder, "directory")]

    async def _listed(self, folder: str, type_: str) -> list[tuple[str, dict[str, Any]]]:
        path = self._path(folder)
        try:
            found: list[dict[str, Any]] = await self._call(lambda: self._fs.ls(path, detail=True))
        except NotFound:
            return []
        named = [(one["name"].rstrip("/").rsplit("/", 1)[1], one) for one in found if one["type"] == type_]
        return [(name, one) for name, one in named if is_name(f"{folder}/{name}")]

    async def close(self) -> None:
        """Begin nothing more; what runs in a thread is not waited for here."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{check_name(name)}"

    def _piece(self, path: str, start: int, end: int) -> bytes:
        data: bytes = self._fs.cat_file(path, start=start, end=end)
        return data

    def _begin(self, target: str) -> Upload:
        return begin_upload(self._fs, target)

    async def _discard(self, upload: Upload) -> None:
        with contextlib.suppress(StorageDown):  # why it is discarded is what is told
            await asyncio.shield(self._call(upload.discard))

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking call in a thread and translate what it raises."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._threads, function, *args)
        except FileNotFoundError as exc:
            raise NotFound("there is no such body in the storage") from exc
        except TimeoutError as exc:
            log.warning("storage_timed_out", timeout_s=self._timeout_s)
            raise StorageDown(
                f"the storage did not answer within {self._timeout_s:g} seconds", retry_after_s=_RETRY_S
            ) from exc
        except InferbusError:
            raise
        except Exception as exc:  # every file system has exceptions of its own
            log.warning("storage_failed", error=repr(exc))
            raise StorageDown("the storage of files cannot be used now", retry_after_s=_RETRY_S) from exc


async def _joined(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Put small pieces together, so that threads are not woken for each."""
    waiting: list[bytes] = []
    size = 0
    async for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def open_storage(settings: FilesSettings) -> FsspecStorage:
    """Open the storage that the settings name. Nothing is asked of it yet.

    Raises:
        SettingsError: there is no such kind of file system, or its options are wrong; the message says what.
    """
    try:
        options = msgspec.json.decode(settings.options, type=dict[str, Any])
        fs, root = open_fs(settings.url, options)
    except (ValueError, ImportError, TypeError, msgspec.DecodeError) as exc:
        raise SettingsError(f"INFERBUS_FILES_URL, INFERBUS_FILES_OPTIONS: {exc}") from exc
    return FsspecStorage(fs, root, settings)

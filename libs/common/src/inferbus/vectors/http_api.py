"""VectorsApi: collections, documents and watchlists over HTTP, as the command line needs them. One gateway, one key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from inferbus.batch.http_api import BatchApi
from inferbus.vectors.bodies import AcceptedObject, SearchResults
from inferbus.vectors.shapes import (
    BackupFileObject,
    BackupList,
    CollectionList,
    CollectionObject,
    ErasedObject,
    StatsObject,
)

T = TypeVar("T")
Json = dict[str, Any]
_ROOT = "/v1/vectors"
_WAIT_S = 55.0


class VectorsApi(BatchApi):
    """Use as an async context manager."""

    async def create_collection(self, fields: Json) -> CollectionObject:
        return await self._get("POST", "/collections", CollectionObject, json=fields)

    async def collection(self, name: str) -> CollectionObject:
        return await self._get("GET", f"/collections/{name}", CollectionObject)

    async def collections(self) -> AsyncIterator[CollectionObject]:
        after = ""
        while True:
            page = await self._get("GET", "/collections", CollectionList, params={"after": after, "limit": "1000"})
            for one in page.data:
                yield one
            if not page.has_more:
                return
            after = page.data[-1].name

    async def aliases(self) -> dict[str, str]:
        page = await self._get("GET", "/collections", CollectionList, params={"limit": "1000"})
        return page.aliases

    async def delete_collection(self, name: str) -> None:
        await self._get("DELETE", f"/collections/{name}", _Anything)

    async def set_alias(self, alias: str, collection: str) -> None:
        await self._get("PUT", f"/aliases/{alias}", _Anything, json={"collection": collection})

    async def stats(self, name: str) -> StatsObject:
        return await self._get("GET", f"/collections/{name}/stats", StatsObject)

    async def reindex(self, name: str, model: str, dimension: int) -> CollectionObject:
        wanted = {"model": model, "dimension": dimension}
        return await self._get("POST", f"/collections/{name}/reindex", CollectionObject, json=wanted)

    async def index(self, name: str, documents: Sequence[Mapping[str, Any]], *, wait: bool = True) -> AcceptedObject:
        """Index documents; asked again after a failure they come to the same."""
        wanted = {"documents": list(documents), "wait_s": _WAIT_S if wait else 0.0}
        return await self._get("POST", f"/{name}/documents", AcceptedObject, json=wanted)

    async def erase(self, name: str, wanted: Json) -> int:
        return (await self._get("POST", f"/{name}/erase", ErasedObject, json=wanted)).chunks

    async def search(self, name: str, wanted: Json) -> SearchResults:
        return await self._get("POST", f"/{name}/search", SearchResults, json=wanted)

    async def backup(self, name: str) -> Json:
        return await self._get("POST", f"/collections/{name}/backup", Json)

    async def backups(self, collection: str) -> AsyncIterator[BackupFileObject]:
        """Give backups, the newest first; `collection` empty: of all."""
        after = ""
        while True:
            wanted = {"collection": collection, "after": after, "limit": "1000"}
            page = await self._get("GET", "/backups", BackupList, params=wanted)
            for one in page.data:
                yield one
            if not page.has_more:
                return
            after = page.data[-1].file_id

    async def restore(self, name: str, file_id: str) -> CollectionObject:
        wanted = {"name": name, "file_id": file_id}
        return await self._get("POST", "/collections/restore", CollectionObject, json=wanted)

    async def letters(self, name: str) -> AsyncIterator[Json]:
        """Give a collection's dead letters, in the order they came."""
        async for one in self._pages(f"/{name}/dead-letters"):
            yield one

    async def redrive(self, name: str, places: Sequence[int]) -> Json:
        return await self._get("POST", f"/{name}/dead-letters/redrive", Json, json={"places": list(places)})

    async def set_watchlist(self, fields: Json) -> Json:
        return await self._get("POST", "/watchlists", Json, json=fields)

    async def watchlists(self) -> list[Json]:
        return list((await self._get("GET", "/watchlists", Json))["data"])

    async def delete_watchlist(self, name: str) -> None:
        await self._get("DELETE", f"/watchlists/{name}", _Anything)

    async def match(self, name: str, documents: Sequence[Json], *, record: bool) -> list[Json]:
        wanted = {"documents": list(documents), "record": record}
        return list((await self._get("POST", f"/watchlists/{name}/match", Json, json=wanted))["data"])

    async def hits(self, name: str) -> AsyncIterator[Json]:
        async for one in self._pages(f"/watchlists/{name}/hits"):
            yield one

    async def _pages(self, path: str) -> AsyncIterator[Json]:
        after = 0
        while True:
            page = await self._get("GET", path, Json, params={"after": str(after), "limit": "1000"})
            for one in page["data"]:
                yield one
            after = page["next"]
            if not after:
                return

    async def _get(self, method: str, path: str, type_: type[T], **options: Any) -> T:
        answer = await self._ask(method, _ROOT + path, **options)
        return msgspec.json.decode(answer.content, type=type_)


class _Anything(msgspec.Struct):
    pass

"""What a gateway says to the vector service on the bus, for tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts import vector_manage as manage
from inferbus.contracts.vector_search import Hit, SearchAnswer, Searched, SearchRequest, VectorsRefused
from inferbus.contracts.vectors import CollectionRecord, Document, IndexMessage
from inferbus.errors import InferbusError, error_from
from inferbus.testing import eventually

_numbers = itertools.count()


class VectorsClient:
    """Speaks for one tenant."""

    def __init__(self, bus: Bus, tenant: str = "dev", timeout_s: float = 30.0) -> None:
        self._bus = bus
        self._timeout_s = timeout_s
        self.tenant = tenant

    async def ask(self, verb: str, asked: msgspec.Struct) -> Any:
        """Ask something about collections; raises what the service refuses with."""
        answer = await self._bus.request(
            routes.vectors_manage(self.tenant, verb), to_json(asked), timeout_s=self._timeout_s
        )
        return _read(msgspec.json.decode(answer.data, type=manage.ManageAnswer))

    async def create(self, name: str, model: str = "embed-a", **settings: Any) -> CollectionRecord:
        record: CollectionRecord = await self.ask(
            manage.CREATE, manage.CreateCollection(name=name, model=model, **settings)
        )
        return record

    async def get(self, name: str) -> CollectionRecord:
        record: CollectionRecord = await self.ask(manage.GET, manage.OneCollection(name=name))
        return record

    async def index(self, name: str, documents: Iterable[Document]) -> None:
        """Put documents in; they are found once `count` says so."""
        message = to_json(IndexMessage(documents=list(documents)))
        subject = routes.vectors_index(self.tenant, name)
        await self._bus.accept(subject, message, {}, msg_id=f"{subject}:{next(_numbers)}")

    async def count(self, name: str) -> int:
        stats: manage.CollectionStats = await self.ask(manage.STATS, manage.OneCollection(name=name))
        return stats.documents

    async def indexed(self, name: str, documents: Iterable[Document], *, count: int) -> None:
        """Put documents in, and wait until there are so many."""
        await self.index(name, documents)

        async def there() -> bool:
            return await self.count(name) == count

        await eventually(there, within_s=30.0)

    async def search(self, name: str, headers: dict[str, str] | None = None, **said: Any) -> list[Hit]:
        return (await self.answer(name, headers, **said)).hits

    async def answer(self, name: str, headers: dict[str, str] | None = None, **said: Any) -> SearchAnswer:
        """Search; raises what the service refuses with."""
        answer = await self._bus.request(
            routes.vectors_search(self.tenant, name), to_json(SearchRequest(**said)), headers, timeout_s=self._timeout_s
        )
        found: SearchAnswer = _read(msgspec.json.decode(answer.data, type=Searched))
        return found


def _read(answer: Any) -> Any:
    if isinstance(answer, VectorsRefused):
        error: InferbusError = error_from(answer.code, answer.message)
        error.param = answer.param
        raise error
    return answer


def text(name: str, said: str, **payload: Any) -> Document:
    """Make a document of a text."""
    return Document(id=name, text=said, payload=msgspec.Raw(msgspec.json.encode(payload)))

"""Vectors on the bus, for producers: `client.vectors.index(...)`, `client.vectors.search(...)`, `client.vectors.match(...)`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.waiting import NoResponders, NotPermitted
from inferbus.codec import from_json, to_json
from inferbus.contracts.vector_search import SearchAnswer, Searched, SearchRequest, VectorsRefused
from inferbus.contracts.vectors import REPORT_TO, Document, IndexReport
from inferbus.contracts.watchlists import MATCH, Match, WatchAnswer, WatchHit, WatchHits
from inferbus.errors import DeadlineWhileQueued, DependencyDown, Forbidden, InvalidRequest, error_from
from inferbus.vectors.packing import packed, summed

A = TypeVar("A")
Given = Document | Mapping[str, Any]
_SEARCHED: Any = Searched  # unions, which msgspec takes for a type
_WATCHED: Any = WatchAnswer


class Vectors:
    """Part of `inferbus.Client`. `connection` gives its bus."""

    def __init__(self, connection: Callable[[], Bus], tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant
        self._reply_to = routes.reply(tenant, secrets.token_hex(8))
        self._waiting: dict[str, asyncio.Future[IndexReport]] = {}
        self._listening: asyncio.Task[None] | None = None

    async def index(
        self, collection: str, documents: Sequence[Given], *, wait: bool = True, timeout_s: float = 600.0
    ) -> IndexReport | None:
        """Index documents (mappings with `id`, `text` or `vector`, `payload`, `version`, or `delete`), in this order.

        They are accepted durably first. With `wait` it returns what became of them once that is durable, else None.

        Raises:
            NotFound: there is no such collection. InvalidRequest, TooLarge: a document is none; nothing was accepted.
            DeadlineWhileQueued: accepted, but not known to be done in time. DependencyDown: the bus is away.
        """
        bus, subject = self._connection(), routes.vectors_index(self._tenant, routes.token_safe(collection))
        messages = packed([document_of(one, n) for n, one in enumerate(documents)])
        if wait:
            await self._listen()
        waiting = []
        for message in messages:
            token = secrets.token_hex(8)
            headers = {}
            if wait:
                future = self._waiting[token] = asyncio.get_running_loop().create_future()
                waiting.append((message, token, future))
                headers = {REPORT_TO: f"{self._reply_to}.{token}"}
            try:
                await bus.accept(subject, message.data, headers, msg_id=f"{self._tenant}:{token}")
            except NotPermitted as exc:
                raise Forbidden(exc.message) from exc
        if not wait:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                report = summed([(message, await future) for message, _, future in waiting])
        except TimeoutError:
            raise DeadlineWhileQueued(f"accepted, and not known to be indexed within {timeout_s:g} s") from None
        finally:
            for _, token, _ in waiting:
                self._waiting.pop(token, None)
        if report.error:
            raise error_from(report.error, report.message)
        return report

    async def delete(self, collection: str, ids: Sequence[str], *, wait: bool = True) -> IndexReport | None:
        """Take documents out. Raises as `index`."""
        return await self.index(collection, [Document(id=one, delete=True) for one in ids], wait=wait)

    async def search(
        self, collection: str, text: str | None = None, *, timeout_s: float = 30.0, **fields: Any
    ) -> SearchAnswer:
        """Search a collection; `fields` are those of `SearchRequest` (`vector`, `like`, `limit`, `filter`, `mode`, ...).

        Raises:
            InvalidRequest, NotFound: the message names the field. DependencyDown: no vector service answers.
        """
        try:
            request = msgspec.convert(
                {"type": SearchRequest.__struct_config__.tag, "text": text} | fields, SearchRequest
            )
        except msgspec.ValidationError as exc:
            raise InvalidRequest(str(exc)) from exc
        subject = routes.vectors_search(self._tenant, routes.token_safe(collection))
        return _checked(await self._ask(subject, to_json(request), timeout_s), _SEARCHED, SearchAnswer)

    async def match(
        self, watchlist: str, documents: Sequence[Given], *, record: bool = True, timeout_s: float = 30.0
    ) -> list[WatchHit]:
        """Compare documents with a watchlist's items, keeping none; gives hits, the nearest first. Raises as `search`."""
        shown = [document_of(one, n) for n, one in enumerate(documents)]
        wanted = Match(name=watchlist, documents=shown, record=record)
        subject = routes.vectors_watch(self._tenant, MATCH)
        return _checked(await self._ask(subject, to_json(wanted), timeout_s), _WATCHED, WatchHits).hits

    async def _ask(self, subject: str, data: bytes, timeout_s: float) -> Msg:
        try:
            return await self._connection().request(subject, data, timeout_s=timeout_s)
        except NoResponders as exc:
            raise DependencyDown("no vector service is running") from exc
        except NotPermitted as exc:
            raise Forbidden(exc.message) from exc

    async def _listen(self) -> None:
        """Listen for reports, from the first time that somebody waits for one."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._begin())
        await asyncio.shield(self._listening)

    async def _begin(self) -> None:
        await self._connection().listen(f"{self._reply_to}.*", self._on_report)

    def _on_report(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(from_json(message.data, IndexReport, what="report"))


def document_of(given: Given, n: int) -> Document:
    """Take a document as it is, or make one of a mapping.

    Raises:
        InvalidRequest: it is none; the message names the field.
    """
    if isinstance(given, Document):
        return given
    unknown = set(given) - set(Document.__struct_fields__)
    if unknown:
        raise InvalidRequest(
            f"documents[{n}] has unknown fields: {', '.join(sorted(unknown))}", param=f"documents[{n}]"
        )
    fields = dict(given)
    fields["payload"] = msgspec.Raw(to_json(fields.get("payload") or {}))
    try:
        return msgspec.convert(fields, Document)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"documents[{n}]: {exc}", param=f"documents[{n}]") from exc


def _checked(message: Msg, union: Any, type_: type[A]) -> A:
    answer = from_json(message.data, union, what="answer")
    if isinstance(answer, VectorsRefused):
        error = error_from(answer.code, answer.message)
        error.param = answer.param or None
        raise error
    if not isinstance(answer, type_):
        raise DependencyDown(f"the vector service answered {type(answer).__name__}")
    return answer

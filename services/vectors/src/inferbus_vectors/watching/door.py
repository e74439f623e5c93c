"""WatchDoor: what is asked about watchlists and dead letters, `vectors.watch.<tenant>.<verb>`. The tenant is the subject's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import from_json, to_json
from inferbus.contracts import watchlists as verbs
from inferbus.contracts.vectors import KEY_ID, Document
from inferbus.contracts.watchlists import Match, ReadHits, ReadLetters, RedriveLetters, SetWatchlist, Watchlist
from inferbus.errors import DependencyDown, InferbusError, InvalidRequest, Overloaded, TooLarge
from inferbus_vectors.collections_view import CollectionsView
from inferbus_vectors.domain.search_plan import MAX_TEXT_CHARS, pack_vector
from inferbus_vectors.payers import Payers
from inferbus_vectors.ports import Payer
from inferbus_vectors.refusing import MAX_ANSWER_BYTES, refused
from inferbus_vectors.watching.book import WatchBook
from inferbus_vectors.watching.deciding import Shown, checked
from inferbus_vectors.watching.letters import Letters
from inferbus_vectors.watching.matcher import Matcher

_MOST_AT_ONCE, _MOST_SHOWN, _MOST_PAGE = 64, 256, 1000
log = structlog.get_logger()


class WatchDoorDeps(msgspec.Struct, frozen=True, kw_only=True):
    bus: Bus
    view: CollectionsView
    book: WatchBook
    matcher: Matcher
    letters: Letters
    payers: Payers


class WatchDoor:
    """`open` it, then `close`."""

    def __init__(self, deps: WatchDoorDeps) -> None:
        self._deps = deps
        self._subscription: Subscription | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._verbs: dict[str, Callable[[Payer, Any], Awaitable[msgspec.Struct]]] = {
            verbs.SET: self._set, verbs.DROP: self._drop, verbs.GET: self._get, verbs.LIST: self._list,
            verbs.MATCH: self._match, verbs.HITS: self._hits, verbs.LETTERS: self._read_letters,
            verbs.REDRIVE: self._redrive,
        }  # fmt: skip

    async def open(self) -> None:
        self._subscription = await self._deps.bus.listen(
            routes.VECTORS_WATCH_ALL, self._on_message, queue=routes.QUEUE_VECTORS
        )

    async def close(self, grace_s: float) -> None:
        """Take no more, and let what runs come to its end for so long."""
        if self._subscription is not None:
            await self._deps.bus.drain(self._subscription)
        if self._running:
            await asyncio.wait(set(self._running), timeout=grace_s)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _on_message(self, message: Msg) -> None:
        if len(self._running) >= _MOST_AT_ONCE:
            self._reply(
                message, refused(Overloaded(f"{_MOST_AT_ONCE} of these are running, which is the most at once"))
            )
            return
        task = asyncio.create_task(self._serve(message))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, message: Msg) -> None:
        subject = routes.parse_vectors(message.subject)
        try:
            payer = Payer(subject.tenant, (message.headers or {}).get(KEY_ID, ""))
            self._deps.payers.identity_of(payer)
            wanted = verbs.REQUESTS.get(subject.name)
            if wanted is None:
                raise InvalidRequest(f"there is no verb {subject.name[:40]!r}", param="verb")
            answer = await self._verbs[subject.name](payer, from_json(message.data, wanted, what=subject.name))
            self._reply(message, answer)
        except InferbusError as error:
            self._reply(message, refused(error))
        except asyncio.CancelledError:
            self._reply(message, refused(DependencyDown("the service is stopping")))
            raise
        except Exception:  # a bug; whoever asked is told so, and the others are served
            log.exception("watch_failed", tenant=subject.tenant, verb=subject.name)
            self._reply(message, refused(InferbusError("a bug in the vector service; the log has it")))

    def _reply(self, message: Msg, answer: msgspec.Struct) -> None:
        data = to_json(answer)
        if len(data) > MAX_ANSWER_BYTES:
            data = to_json(refused(TooLarge(f"the answer has {len(data)} bytes: ask for less", param="limit")))
        with contextlib.suppress(DependencyDown):  # the bus is gone, and whoever asked hears of that, too
            if message.reply:
                self._deps.bus.send(message.reply, data)

    # --- verbs ------------------------------------------------------------------------------------------------------

    async def _set(self, payer: Payer, wanted: SetWatchlist) -> Watchlist:
        collection = self._deps.view.find(payer.tenant, wanted.collection)
        if collection is None:
            raise InvalidRequest(f"there is no collection `{wanted.collection[:80]}`", param="collection")
        checked(wanted, collection)
        said = msgspec.structs.asdict(wanted) | {"collection": collection.name}
        watchlist = Watchlist(**said, tenant=payer.tenant, created=round(time.time(), 3), key_id=payer.key_id)
        return await self._deps.book.put(watchlist)

    async def _drop(self, payer: Payer, wanted: verbs.OneWatchlist) -> Watchlist:
        watchlist = await self._deps.book.get(payer.tenant, wanted.name)
        await self._deps.book.forget(watchlist)
        return watchlist

    async def _get(self, payer: Payer, wanted: verbs.OneWatchlist) -> Watchlist:
        return await self._deps.book.get(payer.tenant, wanted.name)

    async def _list(self, payer: Payer, _: verbs.AllWatchlists) -> verbs.Watchlists:
        return verbs.Watchlists(watchlists=await self._deps.book.of_tenant(payer.tenant))

    async def _match(self, payer: Payer, wanted: Match) -> verbs.WatchHits:
        watchlist = await self._deps.book.get(payer.tenant, wanted.name)
        items = self._deps.view.get(payer.tenant, watchlist.collection)
        if not 1 <= len(wanted.documents) <= _MOST_SHOWN:
            raise InvalidRequest(f"documents are 1 to {_MOST_SHOWN}", param="documents")
        shown = [shown_of(one, n, items.live.dimension) for n, one in enumerate(wanted.documents)]
        with_vector = [one for one in shown if one.vector]
        with_text = [one for one in shown if not one.vector]
        hits, _ = await self._deps.matcher.match(payer, watchlist, with_vector, items.live, lane=routes.INTERACTIVE)
        more, tokens = await self._deps.matcher.match(payer, watchlist, with_text, None, lane=routes.INTERACTIVE)
        if wanted.record:
            await self._deps.matcher.note([*hits, *more])
        return verbs.WatchHits(hits=[*hits, *more], tokens=tokens)

    async def _hits(self, payer: Payer, wanted: ReadHits) -> verbs.WatchHits:
        watchlist = await self._deps.book.get(payer.tenant, wanted.name)
        limit = min(max(1, wanted.limit), _MOST_PAGE)
        hits, after = await self._deps.book.hits(payer.tenant, watchlist.name, after=wanted.after, limit=limit)
        return verbs.WatchHits(hits=hits, next=after)

    async def _read_letters(self, payer: Payer, wanted: ReadLetters) -> verbs.VectorLetters:
        limit = min(max(1, wanted.limit), _MOST_PAGE)
        letters, after = await self._deps.letters.page(payer.tenant, wanted.collection, after=wanted.after, limit=limit)
        return verbs.VectorLetters(letters=letters, next=after)

    async def _redrive(self, payer: Payer, wanted: RedriveLetters) -> verbs.Redriven:
        return await self._deps.letters.redrive(payer.tenant, wanted.collection, wanted.places, wanted.documents)


def shown_of(document: Document, n: int, dimension: int) -> Shown:
    """Give what is compared of a document that is only shown; without a vector its text is to be embedded.

    Raises:
        InvalidRequest: it has neither text nor vector, or its vector is none of these; the message names the field.
    """
    where = f"documents[{n}]"
    text = (document.text or "")[:MAX_TEXT_CHARS]
    if document.vector is not None:
        return Shown(
            document=document.id, chunk=0, text=text, vector=pack_vector(document.vector, dimension, f"{where}.vector")
        )
    if not text.strip():
        raise InvalidRequest(f"{where}.text is empty", param=f"{where}.text")
    return Shown(document=document.id, chunk=0, text=text, vector=b"")

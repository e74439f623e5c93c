"""/v1/vectors/watchlists: known items, what is compared with them, and hits; and the dead letters of a collection."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Annotated

from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from inferbus.contracts import vector_manage
from inferbus.contracts import watchlists as verbs
from inferbus.contracts.vectors import CollectionRecord
from inferbus.contracts.watchlists import Redriven, VectorLetters, WatchHits, Watchlist, Watchlists
from inferbus.errors import InvalidRequest, NotFound
from inferbus.vectors.door import checked_name
from inferbus.vectors.shapes import CollectionDeleted
from inferbus_gateway.http.admin_request import read_wanted
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.kserve import AnyRequest
from inferbus_gateway.http.vector_operations import Session, VectorOperation, open_vectors, vector_operation
from inferbus_gateway.http.vectors import RESERVED, ROOT
from inferbus_gateway.http.watchlist_shapes import (
    HitList,
    LetterList,
    LettersWanted,
    MatchWanted,
    NewWatchlist,
    RedrivenObject,
    WatchlistList,
    WatchlistObject,
    describe_hit,
    describe_letter,
    describe_watchlist,
)

_ALL = f"{ROOT}/watchlists"
_ONE = f"{_ALL}/{{name:str}}"
_LETTERS = f"{ROOT}/{{collection:str}}/dead-letters"
_MAX_PAGE = 1000

After = Annotated[int, QueryParameter(description="The `next` of the page before.")]
Limit = Annotated[int, QueryParameter(description="At most so many: 1 to 1000.")]


def build_watchlists(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    return [*_build_lists(deps), *_build_hits(deps), *_build_letters(deps)]


def _build_lists(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(_ALL, status_code=200, summary="Make or change a watchlist", operation_class=vector_operation(NewWatchlist))
    async def set_watchlist(request: AnyRequest) -> WatchlistObject:
        async with open_vectors(deps, request) as session:
            new = await read_wanted(request, NewWatchlist)
            return describe_watchlist(await _set(session, new))

    @get(_ALL, summary="List your organisation's watchlists", operation_class=VectorOperation)
    async def list_watchlists(request: AnyRequest) -> WatchlistList:
        async with open_vectors(deps, request) as (identity, door):
            found = await door.watch(identity, verbs.LIST, verbs.AllWatchlists(), Watchlists)
            return WatchlistList(data=[describe_watchlist(one) for one in found.watchlists])

    @get(_ONE, summary="Describe a watchlist", operation_class=VectorOperation)
    async def retrieve_watchlist(request: AnyRequest, name: FromPath[str]) -> WatchlistObject:
        async with open_vectors(deps, request) as (identity, door):
            return describe_watchlist(await door.watch(identity, verbs.GET, verbs.OneWatchlist(name=name), Watchlist))

    @delete(_ONE, status_code=200, summary="Delete a watchlist", operation_class=VectorOperation)
    async def delete_watchlist(request: AnyRequest, name: FromPath[str]) -> CollectionDeleted:
        async with open_vectors(deps, request) as (identity, door):
            was = await door.watch(identity, verbs.GET, verbs.OneWatchlist(name=name), Watchlist)
            if was.owns:
                with contextlib.suppress(NotFound):
                    wanted = vector_manage.OneCollection(name=was.collection)
                    await door.manage(identity, vector_manage.DELETE, wanted, CollectionRecord)
            await door.watch(identity, verbs.DROP, verbs.OneWatchlist(name=name), Watchlist)
            return CollectionDeleted(name=name)

    return set_watchlist, list_watchlists, retrieve_watchlist, delete_watchlist


def _build_hits(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(
        f"{_ONE}/match", status_code=200, summary="Compare documents with a list, keeping none of them",
        operation_class=vector_operation(MatchWanted),
    )  # fmt: skip
    async def match_documents(request: AnyRequest, name: FromPath[str]) -> HitList:
        async with open_vectors(deps, request) as (identity, door):
            said = await read_wanted(request, MatchWanted)
            wanted = verbs.Match(name=name, documents=list(said.documents), record=said.record)
            found = await door.watch(identity, verbs.MATCH, wanted, WatchHits)
            return HitList(data=[describe_hit(hit) for hit in found.hits], tokens=found.tokens)

    @get(f"{_ONE}/hits", summary="The hits of a watchlist, in the order they came", operation_class=VectorOperation)
    async def list_hits(request: AnyRequest, name: FromPath[str], after: After = 0, limit: Limit = 100) -> HitList:
        async with open_vectors(deps, request) as (identity, door):
            wanted = verbs.ReadHits(name=name, after=after, limit=_checked_limit(limit))
            found = await door.watch(identity, verbs.HITS, wanted, WatchHits)
            return HitList(data=[describe_hit(hit) for hit in found.hits], next=found.next)

    return match_documents, list_hits


def _build_letters(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get(_LETTERS, summary="Documents that could not be indexed, and why", operation_class=VectorOperation)
    async def list_vector_letters(
        request: AnyRequest, collection: FromPath[str], after: After = 0, limit: Limit = 100
    ) -> LetterList:
        async with open_vectors(deps, request) as (identity, door):
            wanted = verbs.ReadLetters(collection=checked_name(collection), after=after, limit=_checked_limit(limit))
            found = await door.watch(identity, verbs.LETTERS, wanted, VectorLetters)
            return LetterList(data=[describe_letter(one) for one in found.letters], next=found.next)

    @post(
        f"{_LETTERS}/redrive", status_code=200, summary="Index dead letters again",
        operation_class=vector_operation(LettersWanted),
    )  # fmt: skip
    async def redrive_vector_letters(request: AnyRequest, collection: FromPath[str]) -> RedrivenObject:
        async with open_vectors(deps, request) as (identity, door):
            said = await read_wanted(request, LettersWanted)
            wanted = verbs.RedriveLetters(
                collection=checked_name(collection), places=said.places,
                documents=list(said.documents),
            )  # fmt: skip
            done = await door.watch(identity, verbs.REDRIVE, wanted, Redriven)
            return RedrivenObject(letters=done.letters, left=done.left)

    return list_vector_letters, redrive_vector_letters


async def _set(session: Session, new: NewWatchlist) -> Watchlist:
    """Make a list, and the collection of its items where it has to be made."""
    identity, door = session
    checked_name(new.name)
    collection, owns = new.near_duplicates_of or new.collection, False
    if not collection:
        if new.name in RESERVED:
            raise InvalidRequest(f"name {new.name!r} is taken by a path", param="name")
        collection, owns = new.name, True
        one = vector_manage.OneCollection(name=collection)
        try:
            await door.manage(identity, vector_manage.GET, one, CollectionRecord)
        except NotFound:
            wanted = vector_manage.CreateCollection(name=collection, model=new.model, dimension=new.dimension)
            await door.manage(identity, vector_manage.CREATE, wanted, CollectionRecord)
    watchlist = verbs.SetWatchlist(
        name=new.name, collection=checked_name(collection), threshold=new.threshold, kind=new.kind, watched=new.watched,
        owns=owns, metadata=new.metadata,
    )  # fmt: skip
    return await door.watch(identity, verbs.SET, watchlist, Watchlist)


def _checked_limit(limit: int) -> int:
    if not 1 <= limit <= _MAX_PAGE:
        raise InvalidRequest(f"limit is {limit}; it must be from 1 to {_MAX_PAGE}", param="limit")
    return limit

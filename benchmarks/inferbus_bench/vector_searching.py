"""Searches measured: over HTTP, over the bus and at the bare adapter, one search each in turn, at the same documents; and
their recall. In turn, since for who searches alone, again and again, the same engine call takes half as long (10,000 vectors
and a filter); most likely the processor's caches are its own then.

The documents are indexed once, over the bus; the bare adapter has a copy of the service's folder.
"""

from __future__ import annotations

import base64
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from inferbus import routes
from inferbus.admission.keys import make_key, store_key
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts import vector_manage as manage
from inferbus.contracts.vector_search import Filter, SearchAnswer, Searched, SearchRequest
from inferbus.contracts.vectors import CollectionRecord, Document, Field, IndexMessage
from inferbus.local.ports import free_port
from inferbus.testing import eventually
from inferbus_bench.vector_place import Place, vector_place
from inferbus_vectors.adapters.qdrant_edge.index import EdgeIndex
from inferbus_vectors.domain.facets import resolve
from inferbus_vectors.domain.points import Query, Scope, Where, shard_of

DIMENSION, GROUPS, LIMIT = 384, 10, 10
_CLUSTERS, _SPREAD = 64, 0.6
_PER_MESSAGE, _PEPPER = 128, "pepper"
_QUERIES, _WARM = 100, 30
_OVER_S = 900.0
FIELD = Field(name="g", type="integer")
FILTER = Filter(type="eq", key="g", value=3)
Ask = Callable[[bytes], Awaitable[Sequence[str]]]


class Times(msgspec.Struct, frozen=True):
    """How long searches took, in milliseconds, one after the other."""

    who: str
    ms: list[float]

    def at(self, share: float) -> float:
        return sorted(self.ms)[min(len(self.ms) - 1, int(share * len(self.ms)))]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One size, with or without a filter. `recall` is of the service, against all vectors looked at."""

    documents: int
    indexed: int
    filtered: bool
    times: list[Times]
    recall: float


def unit_vectors(count: int, seed: int) -> Any:
    """Make vectors in clusters, of length 1."""
    drawn = np.random.default_rng(7)
    centres = drawn.standard_normal((_CLUSTERS, DIMENSION))
    mine = np.random.default_rng(seed)
    noise = mine.standard_normal((count, DIMENSION)) * _SPREAD
    found = centres[mine.integers(0, _CLUSTERS, count)] + noise
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype("<f4")


class Side:
    """What is asked: a running service with its documents, and the bare adapter beside it."""

    def __init__(
        self, place: Place, gateway: Bus, bare: EdgeIndex, record: CollectionRecord, http_port: int, key: str
    ) -> None:
        self._place = place
        self._gateway = gateway
        self._bare = bare
        self._record = record
        self._http = socket.create_connection(("127.0.0.1", http_port), timeout=30.0)
        self._http.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = (
            f"POST /v1/vectors/{record.name}/search HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        ).encode()

    async def over_http(self, vector: bytes, *, filtered: bool) -> list[str]:
        said = {"vector_b64": base64.b64encode(vector).decode(), "limit": LIMIT, "with_text": False}
        said |= {"filter": msgspec.to_builtins(FILTER)} if filtered else {}
        body = to_json(said)
        self._http.sendall(self._head % len(body) + body)
        data = _answer_of(self._http)
        return [hit["id"] for hit in msgspec.json.decode(data)["data"]]

    async def over_bus(self, vector: bytes, *, filtered: bool, exact: bool = False) -> list[str]:
        request = SearchRequest(
            vector_b64=base64.b64encode(vector).decode(), limit=LIMIT, with_text=False, exact=exact,
            filter=FILTER if filtered else None,
        )  # fmt: skip
        subject = routes.vectors_search("dev", self._record.name)
        answer = await self._gateway.request(subject, to_json(request), timeout_s=30.0)
        found = msgspec.json.decode(answer.data, type=Searched)  # type: ignore[arg-type, var-annotated]  # a union, which msgspec takes
        if not isinstance(found, SearchAnswer):
            raise TypeError(str(found))
        return [hit.id for hit in found.hits]

    async def at_adapter(self, vector: bytes, *, filtered: bool) -> list[str]:
        where = Where(scope=Scope("dev", self._record.id), filter=resolve(FILTER, [FIELD]) if filtered else None)
        query = Query(where=where, dense=vector, limit=LIMIT, with_text=False)
        return [one.id for one in await self._bare.search(shard_of(self._record.live).name, query)]


def _answer_of(connection: socket.socket) -> bytes:
    """Read an answer's body, with next to no work of its own: what the client takes would be measured as the service's."""
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            break
        data += connection.recv(1 << 16)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(data[:500].decode())
    return body


async def searches(folder: Path, documents: int, *, rounds: int, optimised: bool) -> list[Found]:
    """Index so many documents, then search them in turns; without and with a filter that one in ten passes."""
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(vector_place(folder))
        gateway = await place.nats.connect("gateway", name="benchmark-gateway")
        stack.push_async_callback(gateway.close)
        record, indexed = await _filled(place, gateway, documents, optimised=optimised)
        shutil.copytree(place.vectors_folder, folder / "bare")
        await place.vectors(sweep_every_s=3600)
        bare = EdgeIndex(folder / "bare")
        await bare.start()
        stack.push_async_callback(bare.stop)
        await bare.owned()
        key, entry = make_key("dev", _PEPPER.encode())
        await store_key(place.admin, entry)
        port = free_port("127.0.0.1")
        await place.start("gateway", "inferbus_gateway", "gateway", "GATEWAY", port=port, key_pepper=_PEPPER)
        side = Side(place, gateway, bare, record, port, key)
        return [await _measure(side, documents, indexed, rounds, filtered=filtered) for filtered in (False, True)]


async def _filled(place: Place, gateway: Bus, documents: int, *, optimised: bool) -> tuple[CollectionRecord, int]:
    """Index documents, have a graph made of them if wanted, and end the service, so that its folder can be copied."""
    wish: dict[str, object] = (
        {"optimise_points": documents, "sweep_every_s": 2} if optimised else {"sweep_every_s": 3600}
    )
    await place.vectors(**wish)
    made = manage.CreateCollection(name="searched", dimension=DIMENSION, fields=[FIELD])
    record = await _managed(gateway, manage.CREATE, made, CollectionRecord)
    vectors = unit_vectors(documents, 1)
    for at in range(0, documents, _PER_MESSAGE):
        some = [
            Document(
                id=f"d{n}", vector_b64=base64.b64encode(vectors[n].tobytes()).decode(),
                payload=msgspec.Raw(b'{"g":%d}' % (n % GROUPS)),
            )
            for n in range(at, min(documents, at + _PER_MESSAGE))
        ]  # fmt: skip
        subject = routes.vectors_index("dev", record.name)
        await place.producer.accept(subject, to_json(IndexMessage(documents=some)), {}, msg_id=f"searched-{at}")
    await place.indexed(_OVER_S)

    async def stats() -> manage.CollectionStats:
        return await _managed(gateway, manage.STATS, manage.OneCollection(name=record.name), manage.CollectionStats)

    async def has_graph() -> bool:
        return (await stats()).shard_indexed >= 0.9 * documents

    if optimised:
        await eventually(has_graph, within_s=_OVER_S)
    found = await stats()
    if found.documents != documents:
        raise RuntimeError(f"{found.documents} of {documents} documents are there")
    await place.end("vectors")
    return record, found.shard_indexed


async def _managed(gateway: Bus, verb: str, asked: msgspec.Struct, type_: Any) -> Any:
    answer = await gateway.request(routes.vectors_manage("dev", verb), to_json(asked), timeout_s=60.0)
    return msgspec.json.decode(answer.data, type=type_)


async def _measure(side: Side, documents: int, indexed: int, rounds: int, *, filtered: bool) -> Found:
    queries = [one.tobytes() for one in unit_vectors(_QUERIES, 2)]
    ways: dict[str, Callable[[bytes], Awaitable[list[str]]]] = {
        "bare adapter": lambda query: side.at_adapter(query, filtered=filtered),
        "bus": lambda query: side.over_bus(query, filtered=filtered),
        "HTTP": lambda query: side.over_http(query, filtered=filtered),
    }
    times: dict[str, list[float]] = {who: [] for who in ways}
    for way in ways.values():
        for query in queries[:_WARM]:
            await way(query)
    apart = len(queries) // len(ways)
    for at in range(rounds * len(queries)):
        for n, (who, way) in enumerate(ways.items()):  # another query each: one's vectors may still be in the caches
            query = queries[(at + n * apart) % len(queries)]
            begun = time.perf_counter()
            await way(query)
            times[who].append(1e3 * (time.perf_counter() - begun))
    recall = 0.0
    for query in queries:
        exact = set(await side.over_bus(query, filtered=filtered, exact=True))
        recall += len(exact & set(await side.over_bus(query, filtered=filtered))) / (len(exact) or 1)
    return Found(
        documents=documents, indexed=indexed, filtered=filtered, recall=recall / len(queries),
        times=[Times(who, ms) for who, ms in times.items()],
    )  # fmt: skip

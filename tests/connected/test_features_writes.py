"""Pushed rows on their way into a store: what is wrong is refused by its field, the rest is written, nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from tests.connected.conftest import Connect, barrier
from tests.dead_letters import last_dead_letter, next_dead_letter

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts import dead_letter
from inferbus.contracts.features import (
    PUSH_VIEW,
    Catalogue,
    EntityRecord,
    FeatureRecord,
    ManageReply,
    ManageRequest,
    PushMessage,
    RowFault,
    SourceRecord,
    ViewRecord,
)
from inferbus.ledger.prices import PriceBook
from inferbus.ledger.usage_log import UsageLog
from inferbus.testing import eventually
from inferbus_features.consumers import Consumers
from inferbus_features.paying import open_paying
from inferbus_features.ports import StoreDown, WriteRow
from inferbus_features.push_usage import PushUsage
from inferbus_features.writes_room import serving_writes
from inferbus_features.writing import WriteSettings

CATALOGUE = Catalogue(
    project="p",
    revision="1",
    entities=[EntityRecord(name="user", join_key="user_id", kind="int64")],
    sources=[SourceRecord(name="profile_push", type="push", timestamp_field="event_timestamp")],
    views=[
        ViewRecord(
            name="profile", entities=["user"], type=PUSH_VIEW, source="profile_push",
            features=[FeatureRecord(name="age", kind="int64"), FeatureRecord(name="city", kind="string")],
        )
    ],
)  # fmt: skip
POISON = "poison"


class MemoryStore:
    """A store in memory, which can be away, and which some rows break."""

    def __init__(self) -> None:
        self.catalogue = CATALOGUE
        self.rows: dict[int, tuple[float, dict[str, Any]]] = {}
        self.is_down = False
        self.calls = 0

    def write(self, view: str, rows: Sequence[WriteRow]) -> None:
        assert view == "profile"
        self.calls += 1
        if self.is_down:
            raise StoreDown("gone")
        if any(row.values.get("city") == POISON for row in rows):
            raise RuntimeError("this row breaks the store")
        for row in rows:
            known = self.rows.get(row.keys["user_id"])
            if known is None or row.event_time > known[0]:
                self.rows[row.keys["user_id"]] = (row.event_time, (known[1] if known else {}) | row.values)

    def newest(self, view: str, keys: Sequence[dict[str, Any]]) -> list[float]:
        return [self.rows.get(key["user_id"], (0.0, {}))[0] for key in keys]


@asynccontextmanager
async def writing(bus: Bus, store: MemoryStore, folder: Path) -> AsyncIterator[Consumers]:
    consumers, registry = Consumers(bus), CollectorRegistry()
    async with AsyncExitStack() as stack:
        prices, log = PriceBook(bus), UsageLog(bus, registry)
        for part in (log, prices):
            await part.start()
            stack.push_async_callback(part.stop)
        paying = await stack.enter_async_context(open_paying(bus, prices, "me-1"))
        await stack.enter_async_context(serving_writes(
            bus, store, consumers, registry, folder, "me-1", WriteSettings(),  # type: ignore[arg-type]
            paying, PushUsage(log, prices),
        ))  # fmt: skip
        await barrier(bus)  # its subscriptions are there
        yield consumers


async def push(bus: Bus, *rows: dict[str, Any], source: str = "profile_push") -> None:
    await bus.accept(routes.features_push("dev", source), msgspec.json.encode(PushMessage(rows=list(rows))), {})


async def manage(bus: Bus, verb: str, whose: str = "dev", /, **arguments: Any) -> ManageReply:
    body = msgspec.json.encode(ManageRequest(arguments=arguments))
    answer = await bus.request(routes.features_manage(whose, verb), body, timeout_s=10)
    return msgspec.json.decode(answer.data, type=ManageReply)


def row(user: int, **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "event_timestamp": time.time() - 10} | fields


async def test_wrong_rows_are_refused_by_their_field_and_the_rest_is_written(connect: Connect, tmp_path: Path) -> None:
    bus, dev, operator, store = (
        await connect("features"),
        await connect("dev"),
        await connect("operator"),
        MemoryStore(),
    )
    now = time.time()
    wrong = [
        {"event_timestamp": now, "age": 1},
        row(2, age="old"),
        row(3, age=1) | {"event_timestamp": now + 3600},
        row(4, age=1) | {"event_timestamp": 3600},
        row(5, age=1) | {"event_timestamp": now * 1000},
        row(6, height=180),
        {"user_id": 7, "age": 1},
    ]
    async with writing(bus, store, tmp_path):
        await push(dev, row(1, age=41, city="Köln"), *wrong, row(8, age=8))
        letter = await next_dead_letter(operator, routes.features_push("dev", "profile_push"))
        await eventually(lambda: set(store.rows) == {1, 8})
        faults = msgspec.json.decode(letter.headers[dead_letter.FAULTS], type=list[RowFault])
        assert [one.fault.param for one in faults] == [
            "user_id", "age", "event_timestamp", "event_timestamp", "event_timestamp", "height", "event_timestamp",
        ]  # fmt: skip
        assert "milliseconds" in faults[4].fault.message
        assert msgspec.json.decode(letter.data, type=PushMessage).rows == wrong
        assert store.rows[1][1] == {"age": 41, "city": "Köln"}
        await push(dev, row(1, age=1), source="nothing")
        letter = await next_dead_letter(operator, routes.features_push("dev", "nothing"))
        assert letter.code == "not_found"
        assert "profile_push" in letter.reason


async def test_older_rows_and_repeated_ones_change_nothing(connect: Connect, tmp_path: Path) -> None:
    bus, dev, store = await connect("features"), await connect("dev"), MemoryStore()
    now = time.time()
    async with writing(bus, store, tmp_path) as consumers:
        await push(dev, row(1, age=2) | {"event_timestamp": now - 5})
        await push(dev, row(1, age=1) | {"event_timestamp": now - 50})
        await push(dev, row(1, age=2) | {"event_timestamp": now - 5}, row(2, age=2))
        await eventually(lambda: set(store.rows) == {1, 2})
        assert store.rows[1] == (now - 5, {"age": 2})
        await consumers.store()
        fresh = (await consumers.freshness())["profile"]
        assert fresh.rows >= 3
        assert fresh.event_time == now - 5


async def test_rows_wait_for_a_store_that_is_away(connect: Connect, tmp_path: Path) -> None:
    bus, dev, operator, store = (
        await connect("features"),
        await connect("dev"),
        await connect("operator"),
        MemoryStore(),
    )
    store.is_down = True
    async with writing(bus, store, tmp_path):
        for user in range(50):
            await push(dev, row(user, age=user))
        await eventually(lambda: store.calls > 2)
    assert not store.rows
    store.is_down = False
    async with writing(bus, store, tmp_path):  # what was handed back comes again
        await eventually(lambda: len(store.rows) == 50, within_s=20)
    assert await last_dead_letter(operator, routes.features_push("dev", "profile_push")) is None


async def test_a_message_that_breaks_the_store_fails_alone(connect: Connect, tmp_path: Path) -> None:
    bus, dev, operator, store = (
        await connect("features"),
        await connect("dev"),
        await connect("operator"),
        MemoryStore(),
    )
    await asyncio.gather(*(push(dev, row(user, city=POISON if user == 20 else "x")) for user in range(40)))
    async with writing(bus, store, tmp_path):
        await eventually(lambda: len(store.rows) == 39)
        letter = await next_dead_letter(operator, routes.features_push("dev", "profile_push"), within_s=40)
        assert letter.code == "internal"
        assert "breaks the store" in letter.reason


async def test_operations(connect: Connect, tmp_path: Path) -> None:
    bus, dev, admin, store = await connect("features"), await connect("dev"), await connect("admin"), MemoryStore()
    async with writing(bus, store, tmp_path) as consumers:
        reply = await manage(admin, "push", source="profile_push", rows=[row(1, age=1), row(2, age="x")], id="a")
        assert reply.error is None
        assert reply.data["accepted"] == 1
        assert [(one["row"], one["fault"]["param"]) for one in reply.data["refused"]] == [(1, "age")]
        await eventually(lambda: set(store.rows) == {1})
        reply = await manage(admin, "push", source="nothing", rows=[])
        assert reply.error is not None
        assert (reply.error.code, reply.error.param) == ("not_found", "source")

        await push(dev, row(3, city=1))
        await eventually(lambda: has_dead(admin, 1))
        reply = await manage(admin, "dead", source="profile_push")
        (dead,) = reply.data
        assert dead["rows"][0]["city"] == 1
        store.catalogue = msgspec.structs.replace(CATALOGUE, revision="2", views=[as_int(CATALOGUE.views[0])])
        reply = await manage(admin, "redrive", tenant="dev")
        assert reply.error is not None
        assert reply.error.code == "forbidden"
        reply = await manage(admin, "redrive", routes.PLATFORM, tenant="dev", sequences=[dead["sequence"]])
        assert reply.error is None
        await eventually(lambda: 3 in store.rows)
        await eventually(lambda: has_dead(admin, 0))

        consumers.read("dev", "svc", 1, 20)
        consumers.read("dev", "svc", 1, 1)
        await consumers.store()
        used = (await consumers.used())["svc"]
        assert [(one.tenant, one.requests, one.rows) for one in used] == [("dev", 2, 21)]
        reply = await manage(admin, "lineage", name="profile_push")
        assert (reply.data["kind"], reply.data["views"]) == ("source", ["profile"])
        reply = await manage(admin, "freshness", views=["profile"], keys=[{"user_id": 1}, {"user_id": 99}])
        assert reply.data[0]["ages_s"][0] == pytest.approx(10, abs=9)
        assert reply.data[0]["ages_s"][1] is None
        reply = await manage(admin, "show", name="missing")
        assert reply.error is not None
        assert reply.error.code == "not_found"


async def has_dead(bus: Bus, count: int) -> bool:
    return len((await manage(bus, "dead")).data) == count


def as_int(view: ViewRecord) -> ViewRecord:
    features = [msgspec.structs.replace(one, kind="int64") for one in view.features]
    return msgspec.structs.replace(view, features=features)

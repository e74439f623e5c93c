"""Pushes in the ledger, once each, and within what their key or tenant may."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
from tests.connected.conftest import Connect
from tests.connected.test_features_writes import MemoryStore, manage, row, writing
from tests.connected.test_quota import set_limits
from tests.dead_letters import next_dead_letter

from inferbus import routes
from inferbus.admission.keys import make_key, store_key
from inferbus.bus import Bus
from inferbus.bus.stored import read_page
from inferbus.contracts.features import KEY, PushMessage
from inferbus.contracts.usage import FINISHED, REJECTED, UsageEvent
from inferbus.testing import NatsServer, eventually

SUBJECT = routes.features_push("dev", "profile_push")


async def push(bus: Bus, *users: int, id_: str = "", key: str = "") -> None:
    message = PushMessage(rows=[row(user, age=user) for user in users], id=id_)
    await bus.accept(SUBJECT, msgspec.json.encode(message), {KEY: key} if key else {})


async def events(bus: Bus) -> list[UsageEvent]:
    page, _ = await read_page(bus, routes.STREAM_USAGE, routes.usage("dev", routes.FEATURES_POOL))
    return [msgspec.json.decode(one.data, type=UsageEvent) for one in page]


async def test_every_push_is_in_the_ledger_once(connect: Connect, tmp_path: Path) -> None:
    bus, dev, operator, admin = (
        await connect("features"),
        await connect("dev"),
        await connect("operator"),
        await connect("admin"),
    )
    _, entry = make_key("dev", b"pepper")
    _, other = make_key("acme", b"pepper")
    await store_key(admin, entry)
    await store_key(admin, other)
    store = MemoryStore()
    async with writing(bus, store, tmp_path):
        await push(dev, 1, 2, id_="a\r\nb", key=entry.id)
        await push(dev, 1, 2, id_="a\r\nb", key=entry.id)  # the stream does not know that it is the same
        await push(dev, 3)
        await push(dev, 4)
        await dev.accept(SUBJECT, msgspec.json.encode(PushMessage(rows=[row(5, age=5), row(6, age="x")])), {})
        await push(dev, 7, key=other.id)
        letter = await next_dead_letter(operator, SUBJECT)
        assert letter.code in {"invalid_request", "forbidden"}

        async def are_all() -> bool:
            return len(await events(operator)) == 5

        await eventually(are_all)
        assert set(store.rows) == {1, 2, 3, 4, 5}
    found = await events(operator)
    assert sorted((one.key_id, one.prompt_tokens, one.outcome) for one in found) == [
        ("", 0, REJECTED), ("", 1, FINISHED), ("", 1, FINISHED), ("", 1, FINISHED), (entry.id, 2, FINISHED),
    ]  # fmt: skip
    assert {(one.model, one.task, one.requests) for one in found} == {("features:profile_push", "features.push", 1)}


async def test_producers_have_limits_and_rights(server: NatsServer, connect: Connect, tmp_path: Path) -> None:
    bus, dev, operator, admin = (
        await connect("features"),
        await connect("dev"),
        await connect("operator"),
        await connect("admin"),
    )
    _, entry = make_key("dev", b"pepper")
    await store_key(admin, msgspec.structs.replace(entry, models=("features:other",)))
    await set_limits(server, "model.features_profile_push", tokens_per_day=5)
    store = MemoryStore()
    while 86_400 - time.time() % 86_400 < 60:  # a limit per day, and a test on one day
        await asyncio.sleep(0.5)
    async with writing(bus, store, tmp_path):
        await push(dev, 9, key=entry.id)
        assert (await next_dead_letter(operator, SUBJECT)).code == "forbidden"
        await push(dev, 1, 2, 3, 4)
        await eventually(lambda: set(store.rows) == {1, 2, 3, 4})
        reply = await manage(admin, "push", source="profile_push", rows=[row(n, age=n) for n in (5, 6)])
        assert reply.error is not None
        assert reply.error.code == "rate_limit_exceeded"
        reply = await manage(admin, "push", source="profile_push", rows=[row(5, age=5)])
        assert reply.error is None
        await eventually(lambda: 5 in store.rows)
        await push(dev, 6, 7, 8, 9, 10, 11)
        await eventually(lambda: is_dead(operator, "rate_limit_exceeded"))
    assert set(store.rows) == {1, 2, 3, 4, 5}


async def is_dead(bus: Bus, code: str) -> bool:
    return (await next_dead_letter(bus, SUBJECT)).code == code

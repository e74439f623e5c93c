"""KvWatch: everything at start, every change, and nothing missed through restarts and cut connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
from tests.connected.conftest import CONFIG, MODEL, Connect
from tests.connected.proxy import Proxy

from inferbus import routes
from inferbus.admission.keys import KeyRing, make_key, store_key
from inferbus.bus import Bus
from inferbus.bus.watch import KvWatch
from inferbus.contracts.models import ModelEntry
from inferbus.errors import Unauthenticated
from inferbus.models import ModelRegistry, apply_model, remove_model
from inferbus.testing import NatsServer, eventually

BUCKET = routes.KV_MODELS


class Copy:
    """A local copy of a bucket, as a watch keeps it, and how often it was told."""

    def __init__(self, bus: Bus) -> None:
        self.values: dict[str, bytes] = {}
        self.told = 0
        self.watch = KvWatch(bus, BUCKET, self._on_change)

    def _on_change(self, key: str, value: bytes | None) -> None:
        self.told += 1
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value


Watch = Callable[[Bus], Awaitable[Copy]]


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    made: list[Copy] = []

    async def watch(bus: Bus) -> Copy:
        made.append(Copy(bus))
        await made[-1].watch.start()
        return made[-1]

    yield watch
    for copy in made:
        await copy.watch.stop()


async def loaded(copy: Copy) -> None:
    await asyncio.wait_for(copy.watch.ready.wait(), 5)


async def test_an_empty_bucket_is_loaded_at_once(connect: Connect, watch: Watch) -> None:
    copy = await watch(await connect("gateway"))
    assert copy.watch.ready.is_set()
    assert copy.values == {}


async def test_what_is_stored_then_every_change(connect: Connect, watch: Watch) -> None:
    admin = await connect("admin")
    for n in range(300):
        await admin.kv_put(BUCKET, f"k{n % 100}", b"%d" % n)
    copy = await watch(await connect("gateway"))
    await loaded(copy)
    assert copy.values == {f"k{n % 100}": b"%d" % n for n in range(200, 300)}
    assert copy.told == 100, "the last of each key only"
    await admin.kv_put(BUCKET, "k7", b"new")
    await admin.kv_delete(BUCKET, "k8")
    await eventually(lambda: copy.values.get("k7") == b"new" and "k8" not in copy.values, within_s=5)


@pytest.mark.parametrize("round_", range(3))
async def test_through_a_kill_of_the_server(server: NatsServer, connect: Connect, watch: Watch, round_: int) -> None:
    admin = await connect("admin")
    copy = await watch(await connect("gateway"))
    await admin.kv_put(BUCKET, "before", b"1")
    await server.restart()
    await admin.accept(routes.kv_subject(BUCKET, "after"), b"2", {}, msg_id="after", hold_s=5)
    await eventually(lambda: copy.values == {"before": b"1", "after": b"2"})
    assert copy.told == 2, "resumed by sequence, not begun anew"


async def test_what_changed_while_the_connection_was_away(server: NatsServer, connect: Connect, watch: Watch) -> None:
    admin = await connect("admin")
    await admin.kv_put(BUCKET, "stays", b"0")
    async with Proxy(server.port) as proxy:
        bus = await Bus.connect(msgspec.structs.replace(server.settings("gateway"), url=proxy.url), name="cut")
        copy = await watch(bus)
        await loaded(copy)
        await proxy.refuse()
        await eventually(lambda: not bus.connected)
        await admin.kv_put(BUCKET, "changed", b"1")
        await admin.kv_delete(BUCKET, "stays")
        await proxy.allow()
        await eventually(lambda: copy.values == {"changed": b"1"})
        await copy.watch.stop()
        await bus.close()


async def test_a_disconnection_shorter_than_a_look_is_noticed(
    server: NatsServer, connect: Connect, watch: Watch
) -> None:
    admin = await connect("admin")
    async with Proxy(server.port) as proxy:
        bus = await Bus.connect(msgspec.structs.replace(server.settings("gateway"), url=proxy.url), name="cut")
        copy = await watch(bus)
        for n in range(5):
            proxy.cut()
            await eventually(lambda n=n: bus.reconnects == n + 1)
            await admin.kv_put(BUCKET, "k", b"%d" % n)
            await eventually(lambda n=n: copy.values == {"k": b"%d" % n}, within_s=5)
        await copy.watch.stop()
        await bus.close()


async def test_a_bucket_that_comes_later(server: NatsServer, connect: Connect, watch: Watch) -> None:
    operator = await connect("operator")
    await operator.request(f"$JS.API.STREAM.DELETE.{routes.kv_stream(BUCKET)}")
    copy = await watch(await connect("gateway"))
    assert not copy.watch.ready.is_set()
    await server.reconcile(MODEL)
    await loaded(copy)


async def test_a_consumer_that_was_deleted_is_made_again(connect: Connect, watch: Watch) -> None:
    admin, operator = await connect("admin"), await connect("operator")
    copy = await watch(await connect("gateway"))
    stream = routes.kv_stream(BUCKET)
    answer = await operator.request(f"$JS.API.CONSUMER.NAMES.{stream}")
    (consumer,) = msgspec.json.decode(answer.data)["consumers"]
    await operator.request(f"$JS.API.CONSUMER.DELETE.{stream}.{consumer}")
    await admin.kv_put(BUCKET, "k", b"1")
    await eventually(lambda: copy.values == {"k": b"1"}, within_s=30)


async def test_a_callback_that_fails_misses_only_its_own_change(connect: Connect) -> None:
    admin = await connect("admin")
    seen: list[str] = []

    def on_change(key: str, _value: bytes | None) -> None:
        if key == "bad":
            raise RuntimeError("no")
        seen.append(key)

    watch = KvWatch(await connect("gateway"), BUCKET, on_change)
    await admin.kv_put(BUCKET, "bad", b"")
    await watch.start()
    await asyncio.wait_for(watch.ready.wait(), 5)
    await admin.kv_put(BUCKET, "good", b"")
    await eventually(lambda: seen == ["good"])
    await watch.stop()


async def test_watches_of_a_server_that_is_not_there_yet(server: NatsServer, connect: Connect, watch: Watch) -> None:
    bus = await connect("gateway")
    await server.kill()
    await eventually(lambda: not bus.connected)
    copy = await watch(bus)
    assert not copy.watch.ready.is_set()
    await server.start()
    await loaded(copy)


async def test_a_revoked_key_and_a_removed_model_are_known_everywhere_within_a_second(connect: Connect) -> None:
    admin, bus = await connect("admin"), await connect("gateway")
    ring, models = KeyRing(bus, b"pepper"), ModelRegistry(bus)
    await ring.start()
    await models.start()
    key, entry = make_key("dev", b"pepper")
    await store_key(admin, entry)
    await apply_model(admin, ModelEntry(name="org/m", pool="m"))
    await eventually(lambda: ring._entries != {} and models.resolve("org/m") is not None)
    assert ring.authenticate(f"Bearer {key}").tenant == "dev"
    await store_key(admin, msgspec.structs.replace(entry, disabled=True))
    await remove_model(admin, "org/m")
    await eventually(lambda: models.resolve("org/m") is None and ring._entries[entry.id].disabled, within_s=5)
    with pytest.raises(Unauthenticated):
        ring.authenticate(f"Bearer {key}")
    await ring.stop()
    await models.stop()


def test_the_configuration_is_the_deployed_one() -> None:
    assert CONFIG.is_file()

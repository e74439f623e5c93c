"""The command line as a user runs it, against a real bus: models and keys."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from tests import nursery

from inferbus import routes
from inferbus.admission.audit import Actor, read_audit
from inferbus.admission.keys import check_key
from inferbus.contracts.keys import KeyEntry
from inferbus.contracts.models import ModelEntry
from inferbus.errors import Unauthenticated
from inferbus.models import apply_model, remove_model
from inferbus.testing import NatsServer

CONFIG = Path(__file__).parents[2] / "deploy/nats/nats.conf"
PEPPER = "salt"
Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path, CONFIG) as server:
        await server.reconcile()
        yield server


@pytest.fixture
def inferbus(server: NatsServer) -> Run:
    """Run `inferbus ARGS` with the rights of the role `admin`; gives exit status, output, error output."""
    env = os.environ | {
        "INFERBUS_BUS_URL": server.url,
        "INFERBUS_BUS_USER": "admin",
        "INFERBUS_BUS_PASSWORD": server.passwords["admin"],
        "INFERBUS_GATEWAY_KEY_PEPPER": PEPPER,
    }

    async def run(*args: str, **more: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(nursery.command, *args, env=env | more, timeout_s=30)
        return done.returncode, done.stdout, done.stderr

    return run


async def test_models_are_applied_listed_and_removed(inferbus: Run, server: NatsServer, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[[models]]\nname = "a"\npool = "a"\n[[models]]\nname = "b/c"\npool = "b_c"\naliases = ["c"]\n')
    assert await inferbus("models", "apply", str(file)) == (
        0, "applied a (pool a, runtime llm)\napplied b/c (pool b_c, runtime llm)\n", "",
    )  # fmt: skip
    status, out, _ = await inferbus("models", "list", "--json")
    assert status == 0
    assert [entry.name for entry in msgspec.json.decode(out, type=list[ModelEntry])] == ["a", "b/c"]
    assert (await inferbus("models", "remove", "b/c"))[0] == 0
    status, out, _ = await inferbus("models", "list")
    assert "b_c" not in out
    assert (await inferbus("models", "remove", "b/c"))[0] == 1
    bus = await server.connect("operator")
    try:
        assert await bus.kv_get(routes.KV_MODELS, "a") is not None
    finally:
        await bus.close()


async def test_an_entry_nobody_can_read_is_shown_and_removed(inferbus: Run, server: NatsServer) -> None:
    bus = await server.connect("operator")
    await apply_model(bus, ModelEntry(name="a", pool="a"))
    await bus.kv_put(routes.KV_MODELS, "foreign", b'{"name": 5, "pool": "[bold]"}')
    await bus.kv_put(routes.KV_MODELS, "torn", b'{"name": "to')
    status, out, _ = await inferbus("models", "list", COLUMNS="200")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["name", "a", "foreign", "torn"]
    assert out.count("unreadable") == 2
    status, out, _ = await inferbus("models", "list", "--json")
    assert [(one["name"], "unreadable" in one) for one in json.loads(out)] == [
        ("a", False),
        ("foreign", True),
        ("torn", True),
    ]
    assert (await inferbus("models", "remove", "a"))[:2] == (0, "removed a\n")
    assert (await inferbus("models", "remove", "foreign"))[:2] == (0, "removed foreign\n")
    assert (await inferbus("models", "remove", "foreign"))[0] != 0
    left = [key for key in await bus.kv_keys(routes.KV_MODELS) if await bus.kv_get(routes.KV_MODELS, key)]
    assert left == ["torn"]
    removed = [event for event in await read_audit(bus) if event.target == "foreign"]
    assert [event.action for event in removed] == ["model_removed"]
    await bus.close()


async def test_changes_of_models_are_audit_events(inferbus: Run, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    for body in ('{"name": "b/c", "pool": "p"}', '{"name": "b/c", "pool": "p", "tags": ["small"]}'):
        file.write_text(body)
        for _ in range(2):  # applied again as it is, it changes nothing
            assert (await inferbus("models", "apply", str(file)))[0] == 0
    assert (await inferbus("models", "remove", "b/c"))[0] == 0
    made, changed, removed = json.loads((await inferbus("audit", "--json"))[1])
    assert [one["action"] for one in (made, changed, removed)] == ["model_applied", "model_applied", "model_removed"]
    assert {(one["target"], one["tenant"]) for one in (made, changed, removed)} == {("b_c", "")}
    assert all(one["actor"].startswith("cli:") for one in (made, changed, removed))
    assert (made["before"], made["after"]["pool"], removed["after"]) == (None, "p", None)
    assert changed["before"] == made["after"]
    assert changed["after"] == removed["before"] == made["after"] | {"tags": ["small"]}
    assert "tags: - -> small" in (await inferbus("audit", COLUMNS="300"))[1]


async def test_an_entry_nobody_can_read_is_in_nobodys_way(server: NatsServer) -> None:
    """One of a later version, say: it is replaced, and what it was is in the event."""
    bus = await server.connect("admin")
    try:
        await bus.kv_put(routes.KV_MODELS, "m", b'{"name":"m","pool":"m","from":"the future"}')
        await apply_model(bus, ModelEntry(name="m", pool="p"), Actor(name="ann"))
        await bus.kv_put(routes.KV_MODELS, "m", b"{")
        await remove_model(bus, "m")
        assert await bus.kv_get(routes.KV_MODELS, "m") is None
        replaced, removed = await read_audit(bus)
    finally:
        await bus.close()
    assert (replaced.actor, replaced.before) == ("ann", {"unreadable": '{"name":"m","pool":"m","from":"the future"}'})
    assert (removed.actor, removed.before, removed.after) == ("program", {"unreadable": "{"}, None)


async def test_a_mistake_in_the_file_is_one_line(inferbus: Run, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text('{"name": "a", "pool": "a", "aliaes": ["b"]}')
    status, out, err = await inferbus("models", "apply", str(file))
    assert (status, out) == (1, "")
    assert "aliaes" in err
    assert len(err.splitlines()) == 1


async def test_a_key_works_until_it_is_revoked(inferbus: Run, server: NatsServer) -> None:
    status, out, _ = await inferbus("keys", "create", "--tenant", "acme", "--name", "ci", "--lane", "batch")
    key = out.strip()
    assert status == 0
    bus = await server.connect("admin")

    async def entry() -> KeyEntry:
        stored = await bus.kv_get(routes.KV_KEYS, key.split("-")[1])
        assert stored is not None
        return msgspec.json.decode(stored, type=KeyEntry)

    try:
        identity = check_key(key, await entry(), PEPPER.encode())
        assert (identity.tenant, identity.lanes) == ("acme", ("batch",))
        listed = await inferbus("keys", "list", "--json")
        assert [(one["tenant"], one["name"]) for one in json.loads(listed[1])] == [("acme", "ci")]
        assert "mac" not in listed[1]
        assert (await inferbus("keys", "revoke", identity.key_id))[0] == 0
        with pytest.raises(Unauthenticated):
            check_key(key, await entry(), PEPPER.encode())
    finally:
        await bus.close()
    assert (await inferbus("keys", "revoke", "unknown"))[0] == 1


async def test_a_key_of_a_team_rotated_and_seen_in_the_audit(inferbus: Run, server: NatsServer) -> None:
    for command in (("orgs", "create", "acme", "--model", "tag:small"), ("teams", "create", "red", "--tenant", "acme")):
        status, out, err = await inferbus(*command)
        assert (status, err) == (0, "")
        assert json.loads(out)["tenant"] == "acme"
    status, out, err = await inferbus(
        "keys",
        "create",
        "--tenant",
        "acme",
        "--team",
        "red",
        "--endpoint",
        "chat",
        "--max-tokens",
        "9",
        "--expires",
        "30d",
    )
    assert (status, err) == (0, "")
    old = out.strip()
    id_ = old.split("-")[1]
    new = (await inferbus("keys", "rotate", id_, "--grace", "10m"))[1].strip()
    shown = json.loads((await inferbus("keys", "show", id_))[1])
    assert (shown["team"], shown["endpoints"], shown["max_tokens"], shown["state"]) == ("red", ["chat"], 9, "active")
    assert shown["expires"] > shown["previous_until"] > shown["created"]
    bus = await server.connect("admin")
    try:
        stored = await bus.kv_get(routes.KV_KEYS, id_)
    finally:
        await bus.close()
    assert stored is not None
    for key in (old, new):
        assert check_key(key, msgspec.json.decode(stored, type=KeyEntry), PEPPER.encode()).team == "red"
    assert (await inferbus("keys", "update", id_, "--expires", "never"))[0] == 0
    assert json.loads((await inferbus("keys", "show", id_))[1])["expires"] == 0
    assert "1 keys" in (await inferbus("teams", "delete", "red", "--tenant", "acme"))[2]
    assert (await inferbus("users", "list"))[0] == (await inferbus("orgs", "update", "acme", "--disable"))[0] == 0
    events = json.loads((await inferbus("audit", "--since", "1h", "--json"))[1])
    assert [event["action"] for event in events] == [
        "organisation_created", "team_created", "key_created", "key_rotated", "key_updated", "organisation_updated",
    ]  # fmt: skip
    assert all(event["actor"].startswith("cli:") for event in events)
    table = (await inferbus("audit", COLUMNS="300"))[1]
    assert "disabled: False -> True" in table
    assert json.loads((await inferbus("orgs", "update", "acme", "--weight", "4"))[1])["weight"] == 4
    assert json.loads((await inferbus("orgs", "show", "acme"))[1])["weight"] == 4
    head, row = (await inferbus("orgs", "list", COLUMNS="200"))[1].splitlines()
    assert (head.split()[-1], row.split()[-1]) == ("weight", "4")
    assert "weight: 1 -> 4" in (await inferbus("audit", COLUMNS="300"))[1]


async def test_limits_are_set_shown_and_cleared(inferbus: Run) -> None:
    status, out, _ = await inferbus("limits", "set", "org", "acme", "--tokens-per-minute", "1000")
    assert (status, json.loads(out)["limits"]["tokens_per_minute"]) == (0, 1000)
    assert json.loads((await inferbus("limits", "show", "org", "acme"))[1])["scope"] == "org"
    assert "acme" in (await inferbus("limits", "list"))[1]
    assert (await inferbus("limits", "clear", "org", "acme"))[0] == 0
    assert json.loads((await inferbus("limits", "list", "--json"))[1]) == []


@pytest.mark.parametrize(
    "args",
    [
        ("limits", "set", "org", "acme", "--tokens-per-minute", "-5"),
        ("limits", "set", "team", "acme"),
        ("keys", "create", "--tenant", "acme", "--team", "none"),
        ("keys", "create", "--tenant", "acme", "--expires", "soon"),
        ("teams", "create", "A b", "--tenant", "acme"),
        ("orgs", "create", "acme", "--weight", "101"),
        ("audit", "--since", "yesterday"),
    ],
)
async def test_what_cannot_be_is_one_line(inferbus: Run, args: tuple[str, ...]) -> None:
    status, out, err = await inferbus(*args)
    assert (status, out) == (1, "")
    assert err.startswith("inferbus: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("args", [("--tenant", "Not Valid"), ("--tenant", "a", "--lane", "fast")])
async def test_keys_that_cannot_be(inferbus: Run, args: tuple[str, ...]) -> None:
    status, out, err = await inferbus("keys", "create", *args)
    assert status != 0
    assert out == ""
    assert err


async def test_a_bus_that_is_not_there(inferbus: Run) -> None:
    status, _, err = await inferbus(
        "models", "list", INFERBUS_BUS_URL="nats://127.0.0.1:1", INFERBUS_BUS_CONNECT_TIMEOUT_S="0.5"
    )
    assert status == 1
    assert "cannot connect to the bus" in err

"""The admin API through the HTTP door, against a real bus: who may, what is stored, what is audited, what a replay gets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from tests.connected.conftest import Connect
from tests.unit.gateway.fakes import Door

from inferbus import routes
from inferbus.admission import revisions
from inferbus.admission.admin_keys import AdminKeys, make_admin_key
from inferbus.admission.audit import AuditedStore, read_audit
from inferbus.admission.keys import KeyRing
from inferbus.admission.replays import Replays
from inferbus.bus import Bus
from inferbus.bus.stored import read_stored
from inferbus.contracts.limits import LimitSet
from inferbus.errors import InferbusError, Unauthenticated
from inferbus.testing import eventually
from inferbus_gateway.admin_door import AdminDoor
from inferbus_gateway.http.app import HttpDoor, build_app

PEPPER = b"pepper"


class Api:
    """The HTTP door of a gateway with an admin API, and what its key ring thinks of keys."""

    def __init__(self, client: httpx.AsyncClient, ring: KeyRing, bus: Bus) -> None:
        self._client = client
        self.ring = ring
        self.bus = bus

    async def call(self, method: str, path: str, body: object = None, status: int = 200, **headers: str) -> Any:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self._client.request(method, f"/admin/v1{path}", content=data, headers=given)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def post(self, path: str, body: object = None, status: int = 201, **headers: str) -> Any:
        return await self.call("POST", path, body, status, **headers)

    async def refused(self, method: str, path: str, body: object, status: int, param: str | None) -> str:
        error = (await self.call(method, path, body, status))["error"]
        assert error["param"] == param, error
        return str(error["message"])

    def opens(self, key: str) -> bool:
        try:
            self.ring.authenticate(f"Bearer {key}")
        except Unauthenticated:
            return False
        return True

    async def until(self, key: str, *, opens: bool) -> None:
        await eventually(lambda: self.opens(key) is opens)


def served(app: HttpDoor) -> Any:
    """Give every request what uvicorn gives it."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {"state": {}}, receive, send)

    return asgi


@pytest.fixture
async def api(connect: Connect) -> AsyncIterator[Api]:
    admin, gateway = await connect("admin"), await connect("gateway")
    ring = KeyRing(gateway, PEPPER)
    await ring.start()
    await ring.loaded()
    keys = [make_admin_key(PEPPER), make_admin_key(PEPPER)]
    named = [f"{name}:{mac}" for name, (_, mac) in zip(("ops", "other"), keys, strict=True)]
    door = AdminDoor(admin, AdminKeys(named, PEPPER), PEPPER)
    app = build_app(msgspec.structs.replace(Door().deps, admin=door, authenticator=ring))
    transport = httpx.ASGITransport(app=served(app))
    headers = {"authorization": f"Bearer {keys[0][0]}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers) as client:
        yield Api(client, ring, admin)
    await ring.stop()


async def test_an_organisation_its_team_and_user_from_beginning_to_end(api: Api) -> None:
    made = await api.post("/organisations", {"id": "acme", "name": "Acme", "models": ["tag:small"]})
    assert (made["id"], made["tenant"], made["models"], made["disabled"]) == ("acme", "acme", ["tag:small"], False)
    assert (await api.call("PATCH", "/organisations/acme", {"weight": 7})) == made | {"weight": 7}
    assert [one["weight"] for one in (await api.call("GET", "/organisations"))["data"]] == [7]
    for noun in ("teams", "users"):
        made = await api.post(f"/{noun}", {"tenant": "acme", "id": "red", "max_tokens": 9})
        assert (await api.call("GET", f"/{noun}/acme/red")) == made
        changed = await api.call("PATCH", f"/{noun}/acme/red", {"max_tokens": 5, "disabled": True})
        assert changed == made | {"max_tokens": 5, "disabled": True}
        assert [one["id"] for one in (await api.call("GET", f"/{noun}?tenant=acme"))["data"]] == ["red"]
        assert (await api.call("GET", f"/{noun}?tenant=other"))["data"] == []
    assert "teams and users" in await api.refused("DELETE", "/organisations/acme", None, 409, "id")
    for noun in ("teams", "users"):
        await api.call("DELETE", f"/{noun}/acme/red")
        await api.call("GET", f"/{noun}/acme/red", status=404)
    await api.call("DELETE", "/organisations/acme")
    assert (await api.call("GET", "/organisations"))["data"] == []
    await api.post("/organisations", {"id": "acme"})


async def test_a_key_from_beginning_to_end(api: Api) -> None:
    await api.post("/teams", {"tenant": "acme", "id": "red"})
    made = await api.post("/keys", {"tenant": "acme", "team": "red", "name": "ci", "endpoints": ["chat"]})
    key, id_ = made.pop("key"), made["id"]
    await api.until(key, opens=True)
    identity = api.ring.authenticate(f"Bearer {key}")
    assert (identity.tenant, identity.team, identity.endpoints) == ("acme", "red", ("chat",))
    shown = await api.call("GET", f"/keys/{id_}")
    assert shown == made | {"key": ""}
    assert not any("mac" in field for field in shown)
    changed = await api.call("PATCH", f"/keys/{id_}", {"endpoints": [], "expires": int(time.time()) + 3600})
    assert (changed["endpoints"], changed["state"]) == ([], "active")
    assert "1 keys" in await api.refused("DELETE", "/teams/acme/red", None, 409, "id")
    rotated = await api.post(f"/keys/{id_}/rotate", {"grace_s": 600}, 200)
    await api.until(rotated["key"], opens=True)
    assert rotated["key"] != key
    assert api.opens(key), "for ten minutes more"
    again = await api.post(f"/keys/{id_}/rotate", {"grace_s": 0}, 200)
    await api.until(again["key"], opens=True)
    assert not api.opens(key)
    assert not api.opens(rotated["key"])
    assert (await api.post(f"/keys/{id_}/revoke", None, 200))["state"] == "revoked"
    await api.until(again["key"], opens=False)
    await api.post(f"/keys/{id_}/revoke", None, 200)
    for method, path, body in (("PATCH", "", {"name": "x"}), ("POST", "/rotate", None)):
        assert "revoked" in await api.refused(method, f"/keys/{id_}{path}", body, 409, None)
    await api.call("DELETE", f"/keys/{id_}")
    await api.call("GET", f"/keys/{id_}", status=404)


async def test_what_is_disabled_takes_its_keys_with_it_at_once(api: Api) -> None:
    await api.post("/organisations", {"id": "acme"})
    key = (await api.post("/keys", {"tenant": "acme"}))["key"]
    await api.until(key, opens=True)
    await api.call("PATCH", "/organisations/acme", {"disabled": True})
    await api.until(key, opens=False)
    await api.call("PATCH", "/organisations/acme", {"disabled": False})
    await api.until(key, opens=True)


async def test_limits_from_beginning_to_end(api: Api) -> None:
    id_ = (await api.post("/keys", {"tenant": "acme"}))["id"]
    await api.post("/teams", {"tenant": "acme", "id": "red"})
    wanted = {"requests_per_minute": 5, "money_per_month": 10**9}
    for path, key in ((f"key/{id_}", f"key.{id_}"), ("team/acme/red", "team.acme.red"), ("org/acme", "org.acme"),
                      ("model/org/m 1", "model.org_m_1")):  # fmt: skip
        put = await api.call("PUT", f"/limits/{path}", wanted)
        assert put["limits"]["requests_per_minute"] == 5
        assert await api.call("GET", f"/limits/{path}") == put
        stored = await api.bus.kv_get(routes.KV_LIMITS, key)
        assert stored is not None
        assert msgspec.json.decode(stored, type=LimitSet) == LimitSet(**wanted)
    assert len((await api.call("GET", "/limits"))["data"]) == 4
    await api.call("DELETE", "/limits/team/acme/red")
    await api.call("GET", "/limits/team/acme/red", status=404)
    await api.call("DELETE", "/limits/team/acme/red", status=404)


async def test_limits_go_with_what_they_are_of(api: Api) -> None:
    id_ = (await api.post("/keys", {"tenant": "acme"}))["id"]
    await api.post("/organisations", {"id": "acme"})
    await api.post("/teams", {"tenant": "acme", "id": "red"})
    for path in (f"key/{id_}", "team/acme/red", "org/acme"):
        await api.call("PUT", f"/limits/{path}", {"concurrent": 1})
    await api.call("DELETE", f"/keys/{id_}", status=409)
    assert len((await api.call("GET", "/limits"))["data"]) == 3, "what is not deleted keeps its limits"
    await api.post(f"/keys/{id_}/revoke", None, 200)
    for path in (f"/keys/{id_}", "/teams/acme/red", "/organisations/acme"):
        await api.call("DELETE", path)
    assert (await api.call("GET", "/limits"))["data"] == []
    actions = [event.action for event in await read_audit(api.bus)]
    assert actions.count("limits_cleared") == 3


IMPOSSIBLE: list[tuple[str, str, object, int, str | None]] = [
    ("POST", "/organisations", {"id": "Acme Inc"}, 400, "id"),
    ("POST", "/organisations", {}, 400, "id"),
    ("POST", "/organisations", {"id": "a", "models": "m"}, 400, "models"),
    ("POST", "/organisations", {"id": "a", "max_tokens": -1}, 400, "max_tokens"),
    ("POST", "/organisations", {"id": "a", "tenant": "b"}, 400, "tenant"),
    ("POST", "/organisations", {"id": "a", "weight": 0}, 400, "weight"),
    ("POST", "/organisations", {"id": "a", "weight": 101}, 400, "weight"),
    ("POST", "/organisations", {"id": "a", "weight": "9"}, 400, "weight"),
    ("POST", "/teams", {"tenant": "a", "id": "b", "weight": 2}, 400, "weight"),
    ("POST", "/organisations", b"{", 400, None),
    ("POST", "/organisations", b"[]", 400, None),
    ("POST", "/keys", {"tenant": "a.b"}, 400, "tenant"),
    ("POST", "/keys", {"tenant": "a", "team": "none"}, 400, "team"),
    ("POST", "/keys", {"tenant": "a", "user": "no one"}, 400, "user"),
    ("POST", "/keys", {"tenant": "a", "expires": 5}, 400, "expires"),
    ("POST", "/keys", {"tenant": "a", "priority": 101}, 400, "priority"),
    ("POST", "/keys", {"tenant": "a", "lanes": ["fast"]}, 400, "lanes"),
    ("POST", "/keys", {"tenant": "a", "endpoints": ["images"]}, 400, "endpoints"),
    ("POST", "/keys", {"tenant": "a", "mac": "ff"}, 400, "mac"),
    ("POST", "/keys/none/rotate", {"grace_s": -1}, 400, "grace_s"),
    ("POST", "/keys/none/rotate", None, 404, "id"),
    ("GET", "/keys/no.ne", None, 404, "id"),
    ("GET", "/teams/a.b/c", None, 404, "id"),
    ("PUT", "/limits/org/a", {"tokens_per_minute": -5}, 400, "tokens_per_minute"),
    ("PUT", "/limits/org/a", {"tokens_per_minute": 10**16}, 400, "tokens_per_minute"),
    ("PUT", "/limits/org/a", {"tokens": 1}, 400, "tokens"),
    ("PUT", "/limits/org/A b", {}, 400, "name"),
    ("PUT", "/limits/team/a", {}, 400, "name"),
    ("PUT", "/limits/everybody/a", {}, 400, "scope"),
    ("PUT", "/limits/key/none", {}, 404, "id"),
    ("GET", "/audit?since=yesterday", None, 400, "since"),
]


async def test_what_cannot_be_is_named(api: Api) -> None:
    for method, path, body, status, param in IMPOSSIBLE:
        await api.refused(method, path, body, status, param)


async def test_nobody_else_is_let_in(api: Api) -> None:
    key = (await api.post("/keys", {"tenant": "acme"}))["key"]
    await api.until(key, opens=True)
    texts = set()
    for wrong in (f"Bearer {key}", "Bearer ib-admin-" + "0" * 48, "Bearer ib-admin-", "Basic ib-admin-x", ""):
        for method, path in (("GET", "/keys"), ("POST", "/organisations"), ("DELETE", f"/keys/{key.split('-')[1]}")):
            error = (await api.call(method, path, {"id": "x"}, 401, authorization=wrong))["error"]
            texts.add(error["message"])
    assert len(texts) == 1


async def test_a_replay_gets_the_same_answer_and_no_secret_is_stored(api: Api) -> None:
    wanted = {"tenant": "acme", "name": "ci"}
    first = await api.post("/keys", wanted, idempotency_key="k1")
    await api.call("PATCH", f"/keys/{first['id']}", {"name": "changed"})
    assert await api.post("/keys", wanted, idempotency_key="k1") == first
    assert len((await api.call("GET", "/keys"))["data"]) == 1
    error = await api.post("/keys", {"tenant": "other"}, 409, idempotency_key="k1")
    assert error["error"]["code"] == "conflict"
    rotated = await api.post(f"/keys/{first['id']}/rotate", {}, 200, idempotency_key="k2")
    assert await api.post(f"/keys/{first['id']}/rotate", {}, 200, idempotency_key="k2") == rotated
    organisation = await api.post("/organisations", {"id": "acme"}, idempotency_key="k3")
    assert await api.post("/organisations", {"id": "acme"}, idempotency_key="k3") == organisation
    await api.post("/organisations", {"id": "acme"}, 409, idempotency_key="k4")
    secrets = [one["key"].rsplit("-", 1)[1] for one in (first, rotated)]
    for stream in (*map(routes.kv_stream, (routes.KV_KEYS, routes.KV_IDEMPOTENCY)), routes.STREAM_AUDIT):
        stored = await everything(api.bus, stream)
        assert stored
        assert not any(secret.encode() in data for secret in secrets for data in stored)


async def test_one_request_sent_several_times_at_once_is_done_once(api: Api) -> None:
    wanted = {"tenant": "acme"}
    made = await asyncio.gather(*(api.post("/keys", wanted, idempotency_key="k") for _ in range(5)))
    assert all(one == made[0] for one in made)
    assert [one["id"] for one in (await api.call("GET", "/keys"))["data"]] == [made[0]["id"]]
    path = f"/keys/{made[0]['id']}/rotate"
    rotated = await asyncio.gather(*(api.post(path, {"grace_s": 60}, 200, idempotency_key="r") for _ in range(5)))
    assert len({one["key"] for one in rotated}) == 1
    await api.until(rotated[0]["key"], opens=True)
    assert api.opens(made[0]["key"]), "rotated once: the first secret is still the previous one"
    assert [event.action for event in await read_audit(api.bus)] == ["key_created", "key_rotated"]


async def everything(admin: Bus, stream: str) -> list[bytes]:
    subject = {
        routes.STREAM_AUDIT: routes.SUBJECTS_AUDIT,
        routes.kv_stream(routes.KV_KEYS): routes.kv_subject("keys", ">"),
    }
    if stream in subject:
        return [one.data for one in await read_stored(admin, stream, subject[stream])]
    keys = await admin.kv_keys(routes.KV_IDEMPOTENCY)
    return [value for key in keys if (value := await admin.kv_get(routes.KV_IDEMPOTENCY, key)) is not None]


async def test_a_request_whose_gateway_died_is_found_done(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(*_: object) -> None:
        raise InferbusError("the process is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Replays, "_keep", die)
        await api.post("/keys", {"tenant": "acme"}, 500, idempotency_key="k")
        await api.post("/teams", {"tenant": "acme", "id": "red"}, 500, idempotency_key="t")
    made = await api.post("/keys", {"tenant": "acme"}, idempotency_key="k")
    assert [one["id"] for one in (await api.call("GET", "/keys"))["data"]] == [made["id"]]
    await api.until(made["key"], opens=True)
    assert (await api.post("/teams", {"tenant": "acme", "id": "red"}, idempotency_key="t"))["id"] == "red"


async def test_every_change_is_an_audit_event(api: Api) -> None:
    began = time.time()
    await api.post("/organisations", {"id": "acme"}, x_request_id="r1", x_inferbus_actor="ann")
    await api.call("PATCH", "/organisations/acme", {"name": "Acme"})
    await api.call("PATCH", "/organisations/acme", {"name": "Acme"})  # changes nothing
    id_ = (await api.post("/keys", {"tenant": "acme"}))["id"]
    await api.post(f"/keys/{id_}/rotate", {}, 200)
    await api.post(f"/keys/{id_}/revoke", None, 200)
    await api.call("PUT", "/limits/model/m", {"concurrent": 3})
    await api.call("DELETE", "/limits/model/m")
    events = (await api.call("GET", f"/audit?since={began - 1}"))["data"]
    assert [event["action"] for event in events] == [
        "organisation_created", "organisation_updated", "key_created", "key_rotated", "key_revoked", "limits_set",
        "limits_cleared",
    ]  # fmt: skip
    created, updated, key_created, rotated = events[:4]
    assert (created["actor"], created["request_id"], created["before"]) == ("admin:ops/ann", "r1", None)
    assert (updated["before"]["name"], updated["after"]["name"]) == ("", "Acme")
    assert key_created["after"]["id"] == id_
    assert rotated["after"]["previous_until"] > began
    assert not any("mac" in json.dumps(event) for event in events)
    assert events[-2]["after"]["concurrent"] == 3
    assert events[-1]["after"] is None
    assert (await api.call("GET", f"/audit?since={time.time() + 60}"))["data"] == []


async def test_changes_at_once_are_all_made_and_each_event_has_what_was_before(api: Api) -> None:
    await api.post("/organisations", {"id": "acme"})
    names = [str(n) for n in range(6)]
    await asyncio.gather(*(api.call("PATCH", "/organisations/acme", {"name": name}) for name in names))
    events = [event for event in await read_audit(api.bus) if event.action == "organisation_updated"]
    assert sorted(event.after["name"] for event in events if event.after) == names
    chain = [(event.before or {}, event.after or {}) for event in events]
    by_before = {before["name"]: after["name"] for before, after in chain}
    name, seen = "", []
    while name in by_before:
        name = by_before.pop(name)
        seen.append(name)
    assert sorted(seen) == names, "what one event left is what the next one found"
    assert (await api.call("GET", "/organisations/acme"))["name"] == seen[-1]


async def test_a_crash_leaves_an_event_and_no_change_never_the_reverse(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object) -> bool:
        raise InferbusError("the process is gone")

    with monkeypatch.context() as patch:
        patch.setattr(revisions, "write", die)
        await api.post("/organisations", {"id": "acme"}, 500)
    await api.call("GET", "/organisations/acme", status=404)
    assert [event.action for event in await read_audit(api.bus)] == ["organisation_created"]

    with monkeypatch.context() as patch:
        patch.setattr(AuditedStore, "_store", die)
        await api.post("/organisations", {"id": "acme"}, 500)
    await api.call("GET", "/organisations/acme", status=404)


async def test_a_change_somebody_else_was_quicker_with_is_void(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.post("/organisations", {"id": "acme"})
    write, calls = revisions.write, 0

    async def be_late(bus: Bus, bucket: str, key: str, data: bytes | None, revision: int) -> bool:
        nonlocal calls
        calls += 1
        return await write(bus, bucket, key, data, revision - 1 if calls == 1 else revision)

    monkeypatch.setattr(revisions, "write", be_late)
    await api.call("PATCH", "/organisations/acme", {"name": "Acme"})
    assert [event.action for event in await read_audit(api.bus)] == ["organisation_created", "organisation_updated"]
    stored = await read_stored(api.bus, routes.STREAM_AUDIT, routes.SUBJECTS_AUDIT)
    assert len(stored) == 4, "created; updated in vain, void, updated"


async def test_keys_end_by_the_bus_s_clock(api: Api) -> None:
    clock = api.ring._watch.clock
    assert clock.known, "told with the watch's beginning"
    assert abs(clock.now() - time.time()) < 30, "bus and test are on one machine"


async def test_nothing_can_be_taken_out_of_the_audit(api: Api, connect: Connect) -> None:
    await api.post("/organisations", {"id": "acme"})
    operator = await connect("operator")
    for request in ("MSG.DELETE", "PURGE"):
        answer = await operator.request(f"$JS.API.STREAM.{request}.{routes.STREAM_AUDIT}", b'{"seq":1}')
        assert msgspec.json.decode(answer.data)["error"]
    assert len(await read_audit(api.bus)) == 1


async def test_a_gateway_without_the_role_serves_no_admin_api() -> None:
    transport = httpx.ASGITransport(app=served(Door().app))
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        answer = await client.get("/admin/v1/keys", headers={"authorization": "Bearer ib-admin-x"})
        assert answer.status_code == 404

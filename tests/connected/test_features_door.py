"""Features at the HTTP door, with a stand-in for the service on the bus: who may read, within which limits, and what is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from nats.aio.msg import Msg
from tests.connected.test_quota import set_limits
from tests.main_path import _PEPPER, MainPath

from inferbus import routes
from inferbus.admission.keys import make_key, store_key
from inferbus.bus import Bus
from inferbus.client import Client
from inferbus.client_features import rows_of
from inferbus.codec import to_json
from inferbus.contracts.features import (
    CATALOGUE_KEY,
    Catalogue,
    FeatureColumn,
    FeatureFault,
    GetAnswer,
    GetRequest,
    ServiceRecord,
)
from inferbus.testing import eventually

BODY = b'{"entities":{"user_id":[1,2,3]}}'
SERVICES = [ServiceRecord(name="ranking", features=["v:age"]), ServiceRecord(name="theirs", tenants=["acme"])]


class StandIn:
    """Answers reads: the ages of users, or the fault it was told."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.seen: list[Msg] = []
        self.fault: FeatureFault | None = None

    def on_read(self, message: Msg) -> None:
        self.seen.append(message)
        asked = msgspec.json.decode(message.data, type=GetRequest)
        users = asked.entities["user_id"]
        columns = [FeatureColumn(name="age", kind="int64", values=[30 + user for user in users])]
        answer = GetAnswer(service=routes.parse_features(message.subject).name, rows=len(users), columns=columns)
        if self.fault is not None:
            answer = GetAnswer(service=answer.service, error=self.fault)
        self._bus.send(message.reply, to_json(answer))


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        await path.gateway()
        yield path


@pytest.fixture
async def service(path: MainPath) -> AsyncIterator[StandIn]:
    bus = await path.nats.connect("features")
    stand_in = StandIn(bus)
    await bus.listen(routes.FEATURES_GET_ALL, stand_in.on_read, queue=routes.QUEUE_FEATURES)
    await bus.request("$JS.API.INFO")
    yield stand_in
    await bus.close()


@pytest.fixture
async def http(path: MainPath) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=path.url, headers={"authorization": f"Bearer {path.key}"}) as http:

        async def knows_the_key() -> bool:
            return (await http.get("/v1/models")).status_code == 200

        await eventually(knows_the_key)
        yield http


async def test_a_read_is_passed_on_with_who_asks(service: StandIn, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/features/ranking:get", content=BODY, headers={"x-inferbus-deadline-ms": "1500"})
    assert answer.status_code == 200
    assert answer.json()["columns"] == [{"name": "age", "kind": "int64", "values": [31, 32, 33]}]
    (message,) = service.seen
    assert (message.subject, message.data) == (routes.features_get("dev", "ranking"), BODY)
    assert message.headers is not None
    assert message.headers["Ib-Deadline-Ms"] == "1500"
    assert message.headers["Ib-Key"]


async def test_a_producer_reads_and_pushes_with_the_sdk(path: MainPath, service: StandIn) -> None:
    async with Client(path.nats.url, user="dev", password=path.nats.passwords["dev"]) as client:
        answer = await client.features.get("ranking", {"user_id": [5, 6]}, features=["age"])
        assert rows_of(answer) == [{"age": 35}, {"age": 36}]
        sequence = await client.features.push("events", [{"user_id": 5, "clicks": 1}], id="a")
        assert await client.features.push("events", [{"user_id": 5, "clicks": 1}], id="a") == sequence
    assert service.seen[0].subject == routes.features_get("dev", "ranking")


FAULTS: list[tuple[FeatureFault, int]] = [
    (FeatureFault(code="invalid_request", message="no", param="entities.user_id[1]"), 400),
    (FeatureFault(code="features_stale", message="old", param="age", retry_after_s=1.0), 503),
]


async def test_faults_are_told_as_everywhere(service: StandIn, http: httpx.AsyncClient) -> None:
    for fault, status in FAULTS:
        service.fault = fault
        answer = await http.post("/v1/features/ranking:get", content=BODY)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, fault.code, fault.param)
    assert answer.headers["retry-after"] == "1"
    for wrong in ("/v1/features/ranking", "/v1/features/ranking:take", "/v1/features/a.b:get", "/v1/features/>:get"):
        assert (await http.post(wrong, content=BODY)).status_code == 404, wrong


async def test_nobody_there_is_told_at_once(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/features/ranking:get", content=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "dependency_down")


async def test_keys_and_limits_hold_for_features(path: MainPath, service: StandIn, http: httpx.AsyncClient) -> None:
    assert (
        await http.post("/v1/features/ranking:get", content=BODY, headers={"authorization": "x"})
    ).status_code == 401
    admin = await path.nats.connect("admin")
    keys: dict[str, str] = {}
    wishes: dict[str, dict[str, Any]] = {
        "named": {"models": ("features:ranking",)}, "model": {"models": ("chat",)}, "task": {"endpoints": ("chat",)}
    }  # fmt: skip
    for name, wish in wishes.items():
        keys[name], entry = make_key("dev", _PEPPER.encode())
        await store_key(admin, msgspec.structs.replace(entry, **wish))
    await admin.close()

    async def status_of(name: str, service_name: str = "ranking") -> int:
        headers = {"authorization": f"Bearer {keys[name]}"}
        return (await http.post(f"/v1/features/{service_name}:get", content=BODY, headers=headers)).status_code

    async def is_known() -> bool:
        return 401 not in [await status_of(name) for name in keys]

    await eventually(is_known)
    assert [await status_of(name) for name in keys] == [200, 403, 403]
    assert await status_of("named", "other") == 403
    await set_limits(path.nats, "model.features_ranking", tokens_per_minute=6)

    async def is_limited() -> bool:
        return (await http.post("/v1/features/ranking:get", content=BODY)).status_code == 429

    await eventually(is_limited)


async def test_a_key_sees_the_services_it_may_read(path: MainPath, http: httpx.AsyncClient) -> None:
    admin = await path.nats.connect("admin")
    await admin.kv_put(routes.KV_FEATURES, CATALOGUE_KEY, to_json(Catalogue(project="p", services=SERVICES)))
    await admin.close()
    listed = (await http.get("/v1/features")).json()["data"]
    assert [one["name"] for one in listed] == ["ranking"]

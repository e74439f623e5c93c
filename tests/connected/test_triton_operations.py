"""Operators and the Triton servers of a pool: the admin API and the command line, over the bus, with audit events."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.connected.tensor_worker import TensorWorker, tensor_worker
from tests.connected.test_admin_api import PEPPER, served
from tests.unit.gateway.fakes import Door

from inferbus.admission.admin_keys import AdminKeys, make_admin_key
from inferbus.admission.audit import read_audit
from inferbus.contracts.models import ModelEntry
from inferbus.process.presence import PresenceTable
from inferbus.testing import NatsServer, eventually
from inferbus_gateway.admin_door import AdminDoor
from inferbus_gateway.http.app import build_app
from inferbus_gateway.triton_servers import TritonServers

CONFIG = Path(__file__).parents[2] / "deploy/nats/nats.conf"
ENTRY = ModelEntry(name="ranker", pool="rank", runtime="triton", tasks=("infer",), server_name="rank_v1")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path, CONFIG) as server:
        await server.reconcile(ENTRY)
        yield server


@pytest.fixture
async def workers(server: NatsServer) -> AsyncIterator[list[TensorWorker]]:
    async with (
        tensor_worker(server, pool="rank", process="triton-0") as first,
        tensor_worker(server, pool="rank", process="triton-1") as second,
    ):
        yield [first, second]


class Api:
    """The HTTP door with an admin API, and the table of who lives."""

    def __init__(self, client: httpx.AsyncClient, presence: PresenceTable) -> None:
        self.client = client
        self.presence = presence

    async def call(self, method: str, path: str, body: object = None, status: int = 200) -> Any:
        answer = await self.client.request(method, f"/admin/v1/triton{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture
async def api(server: NatsServer, workers: list[TensorWorker]) -> AsyncIterator[Api]:
    admin, gateway = await server.connect("admin"), await server.connect("gateway")
    presence = PresenceTable(gateway, gateway.region)
    await presence.start()
    key, mac = make_admin_key(PEPPER)
    door = Door()
    door.models.entries = (ENTRY, ModelEntry(name="tiny", pool="tiny"))
    deps = msgspec.structs.replace(
        door.deps, admin=AdminDoor(admin, AdminKeys([f"ops:{mac}"], PEPPER), PEPPER),
        servers=TritonServers(gateway, presence),
    )  # fmt: skip
    transport = httpx.ASGITransport(app=served(build_app(deps)))
    await eventually(lambda: len(presence.workers("rank")) == 2)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers) as client:
        yield Api(client, presence)
    await presence.stop()
    await asyncio.gather(admin.close(), gateway.close())


async def test_every_worker_is_asked_and_answers_for_itself(api: Api, workers: list[TensorWorker]) -> None:
    assert (await api.call("GET", ""))["data"] == [
        {"pool": "rank", "models": ["ranker"], "workers": ["triton-0", "triton-1"]}
    ]
    workers[1].versions.append("2")
    said = (await api.call("GET", "/rank/index"))["data"]
    assert [(one["worker"], len(one["data"])) for one in said] == [("triton-0", 1), ("triton-1", 2)]
    said = await api.call("GET", "/rank/metadata?model=rank_v1&version=2", status=404)
    assert [(one.get("status", 200), one.get("error", "")) for one in said["data"]] == [
        (404, "unknown version 2"), (200, ""),
    ]  # fmt: skip


async def test_a_change_is_audited_before_it_is_made(api: Api, workers: list[TensorWorker], server: NatsServer) -> None:
    await api.call("POST", "/rank/load", {"model": "rank_v1", "config": {"max_batch_size": 4}})
    await api.call("POST", "/rank/unload", {"model": "rank_v1", "dependents": True})
    said = await api.call("POST", "/rank/load", {"model": "missing"}, status=400)
    assert "failed to poll" in said["data"][0]["error"]
    for worker in workers:
        assert [(ask.op, ask.model) for ask in worker.asked] == [
            ("load", "rank_v1"), ("unload", "rank_v1"), ("load", "missing"),
        ]  # fmt: skip
        assert json.loads(worker.asked[0].config) == {"max_batch_size": 4}
    admin = await server.connect("admin")
    events = await read_audit(admin)
    await admin.close()
    assert [(one.actor, one.action, one.target) for one in events] == [
        ("admin:ops", "triton_loaded", "rank/rank_v1"),
        ("admin:ops", "triton_unloaded", "rank/rank_v1"),
        ("admin:ops", "triton_loaded", "rank/missing"),
    ]
    assert events[0].after == {"op": "load", "model": "rank_v1", "config": '{"max_batch_size":4}'}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/tiny/index", None, 404),
        ("GET", "/rank/load", None, 404),
        ("GET", "/rank/explode", None, 404),
        ("POST", "/rank/index", {"model": "m"}, 404),
        ("POST", "/rank/load", {}, 400),
        ("POST", "/rank/load", {"model": ""}, 400),
        ("POST", "/rank/load", {"model": "m", "config": "x"}, 400),
        ("POST", "/rank/load", {"model": "m", "timeout_s": 9999}, 400),
    ],
)
async def test_what_cannot_be_is_refused(
    api: Api, workers: list[TensorWorker], method: str, path: str, body: object, status: int
) -> None:
    assert "error" in await api.call(method, path, body, status=status)
    assert not workers[0].asked


async def test_nobody_without_an_admin_key(api: Api, workers: list[TensorWorker]) -> None:
    api.client.headers["authorization"] = "Bearer ib-1-secret"
    await api.call("GET", "/rank/index", status=401)
    await api.call("POST", "/rank/load", {"model": "m"}, status=401)
    assert not workers[0].asked


async def test_a_worker_that_does_not_answer_is_said_so(api: Api, workers: list[TensorWorker]) -> None:
    workers[0].answering = False
    said = await api.call("POST", "/rank/load", {"model": "m", "timeout_s": 0.2}, status=503)
    assert [one.get("status", 200) for one in said["data"]] == [503, 200]
    await asyncio.gather(*(worker.stop() for worker in workers))
    await eventually(lambda: not api.presence.workers("rank"))
    assert "no worker" in (await api.call("GET", "/rank/index", status=503))["error"]["message"]


async def test_the_command_line(server: NatsServer, workers: list[TensorWorker], tmp_path: Path) -> None:
    env = os.environ | {
        "INFERBUS_BUS_URL": server.url, "INFERBUS_BUS_USER": "admin",
        "INFERBUS_BUS_PASSWORD": server.passwords["admin"],
    }  # fmt: skip

    async def run(*args: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "inferbus.cli.main", "triton", *args, env=env,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, out.decode()

    config = tmp_path / "config.json"
    config.write_text('{"max_batch_size": 4}')
    status, out = await run("load", "rank", "rank_v1", "--config", str(config))
    assert (status, [one["worker"] for one in json.loads(out)]) == (0, ["triton-0", "triton-1"])
    assert json.loads(workers[0].asked[0].config) == {"max_batch_size": 4}
    status, out = await run("stats", "rank", "rank_v1")
    assert (status, json.loads(out)[1]["data"]["model_stats"][0]["inference_count"]) == (0, 7)
    status, out = await run("load", "rank", "missing")
    assert (status, json.loads(out)[0]["status"]) == (1, 400)
    status, out = await run("index", "nowhere")
    assert (status, out) == (1, "inferbus: no worker of the pool nowhere is ready\n")


async def test_clients_of_the_protocol_load_and_unload_with_an_admin_key(api: Api, workers: list[TensorWorker]) -> None:
    load, unload = (f"/v2/repository/models/ranker/{op}" for op in ("load", "unload"))
    config = '{"max_batch_size":4}'
    assert (await api.client.post(load, json={"parameters": {"config": config}})).status_code == 200
    assert (await api.client.post(unload, json={"parameters": {"unload_dependents": True}})).status_code == 200
    for worker in workers:
        assert [(ask.op, ask.model, ask.config, ask.dependents) for ask in worker.asked] == [
            ("load", "rank_v1", config, False), ("unload", "rank_v1", "", True),
        ]  # fmt: skip
    for path, body, status in [
        (load, {"parameters": {"file:1/model.py": "eA=="}}, 422),
        (load, {"parameters": {"config": {}}}, 400),
        ("/v2/repository/models/tiny/load", {}, 404),
        ("/v2/repository/models/ranker/explode", {}, 404),
    ]:
        answer = await api.client.post(path, json=body)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    refused = await api.client.post(load, json={}, headers={"authorization": "Bearer ib-1-secret"})
    assert (refused.status_code, list(refused.json())) == (401, ["error"])
    assert len(workers[0].asked) == 2

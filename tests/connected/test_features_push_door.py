"""Rows pushed over HTTP: each that is wrong is told at once; without anybody to look at them they are stored as they are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.connected.test_features_writes import MemoryStore, writing
from tests.main_path import MainPath

from inferbus.testing import eventually

PUSH = "/v1/features/profile_push:push"


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        await path.gateway()
        yield path


async def test_a_push_is_answered_row_by_row(path: MainPath, tmp_path: Path) -> None:
    store, now = MemoryStore(), time.time()

    def row(user: int, **fields: Any) -> dict[str, Any]:
        return {"user_id": user, "event_timestamp": now - 10} | fields

    async with httpx.AsyncClient(base_url=path.url, headers={"authorization": f"Bearer {path.key}"}) as http:

        async def knows_the_key() -> bool:
            return (await http.get("/v1/models")).status_code == 200

        await eventually(knows_the_key)
        body = {"rows": [row(1, age=1), row(2, age="x"), row(3, height=1)]}
        unchecked = (await http.post(PUSH, json={"rows": [row(9, age=9), row(10, age="x")]})).json()
        assert (unchecked["accepted"], unchecked["checked"]) == (2, False)
        bus = await path.nats.connect("features")
        async with writing(bus, store, tmp_path):
            answer = await http.post(PUSH, json=body, headers={"idempotency-key": "k"})
            assert answer.status_code == 200
            assert answer.json()["accepted"] == 1
            refused = answer.json()["refused"]
            assert [(one["row"], one["fault"]["param"]) for one in refused] == [(1, "age"), (2, "height")]
            again = await http.post(PUSH, json=body, headers={"idempotency-key": "k"})
            assert again.json()["sequence"] == answer.json()["sequence"]
            await eventually(lambda: set(store.rows) == {1, 9})
            wrong = await http.post("/v1/features/nothing:push", json=body)
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (404, "source")
            assert (await http.post(PUSH, json={"rows": []})).status_code == 400
        await bus.close()

"""Keys on two gateway processes: made, narrowed and revoked through one, in force on both, also after the bus was killed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.main_path import HELLO, MODEL, MainPath

from inferbus.admission.admin_keys import make_admin_key
from inferbus.contracts.models import ModelEntry
from inferbus.errors import Forbidden
from inferbus.testing import eventually

PEPPER = b"pepper"

LOADED_S = 8.0
"""What a machine busy with other tests may take on top of a reconnect."""


class Gateways:
    """Two gateways, the first of which has the admin API."""

    def __init__(self, urls: list[str], admin_key: str, client: httpx.AsyncClient) -> None:
        self.urls = urls
        self._admin_key = admin_key
        self.client = client

    async def admin(self, method: str, path: str, body: object = None) -> Any:
        headers = {"authorization": f"Bearer {self._admin_key}"}
        url = f"{self.urls[0]}/admin/v1{path}"
        answer = await self.client.request(method, url, json=body, headers=headers)
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def ask(self, url: str, key: str, **body: object) -> httpx.Response:
        asked = {"model": MODEL, "messages": HELLO, "max_tokens": 2} | body
        headers = {"authorization": f"Bearer {key}"}
        return await self.client.post(f"{url}/v1/chat/completions", json=asked, headers=headers)

    async def statuses(self, key: str) -> list[int]:
        return [(await self.ask(url, key)).status_code for url in self.urls]

    async def until(self, key: str, status: int, within_s: float = LOADED_S) -> float:
        """Wait until both answer so; gives how long that took, in seconds."""
        began = time.monotonic()

        async def both() -> bool:
            return await self.statuses(key) == [status, status]

        await eventually(both, within_s=within_s)
        return time.monotonic() - began


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path, ModelEntry(name=MODEL, pool=MODEL, tags=("small",))) as platform:
        yield platform


@pytest.fixture
async def gateways(platform: MainPath) -> AsyncIterator[Gateways]:
    key, mac = make_admin_key(PEPPER)
    await platform.gateway(admin_keys=f"ops:{mac}", admin_password=platform.nats.passwords["admin"])
    urls = [platform.url, await platform.other_gateway()]
    await platform.worker(simulator_itl_s=0.001)
    async with httpx.AsyncClient(timeout=30) as client:
        yield Gateways(urls, key, client)


async def test_keys_are_made_narrowed_and_revoked_everywhere(platform: MainPath, gateways: Gateways) -> None:
    await gateways.admin("POST", "/organisations", {"id": "acme"})
    made = await gateways.admin("POST", "/keys", {"tenant": "acme", "max_tokens": 8})
    key = made["key"]
    await gateways.until(key, 200)
    listed = await gateways.client.get(f"{gateways.urls[1]}/v1/models", headers={"authorization": f"Bearer {key}"})
    assert [one["id"] for one in listed.json()["data"]] == [MODEL]

    too_long = await gateways.ask(gateways.urls[1], key, max_tokens=9)
    assert (too_long.status_code, too_long.json()["error"]["param"]) == (403, "max_tokens")
    assert "9 output tokens" in too_long.json()["error"]["message"]
    unsaid = await gateways.ask(gateways.urls[1], key, max_tokens=None)
    assert unsaid.json()["usage"]["completion_tokens"] <= 8

    await gateways.admin("PATCH", "/organisations/acme", {"models": ["tag:big"]})
    await gateways.until(key, 403)
    answer = await gateways.ask(gateways.urls[1], key)
    assert MODEL in answer.json()["error"]["message"]
    listed = await gateways.client.get(f"{gateways.urls[1]}/v1/models", headers={"authorization": f"Bearer {key}"})
    assert listed.json()["data"] == []
    await gateways.admin("PATCH", "/organisations/acme", {"models": ["tag:small"]})
    await gateways.until(key, 200)

    await gateways.admin("POST", f"/keys/{made['id']}/revoke")
    print(f"refused on both gateways {await gateways.until(key, 401):.3f} s after it was revoked")


async def test_a_key_revoked_around_a_restart_of_the_bus_is_refused_after_it(
    platform: MainPath, gateways: Gateways
) -> None:
    async with platform.topology():
        made = await gateways.admin("POST", "/keys", {"tenant": "acme"})
        await gateways.until(made["key"], 200)
        await platform.nats.kill()
        models = [
            await gateways.client.get(f"{url}/v1/models", headers={"authorization": f"Bearer {made['key']}"})
            for url in gateways.urls
        ]
        assert [answer.status_code for answer in models] == [200, 200], "known keys go on while the bus is away"
        await platform.nats.start()
        await gateways.until(made["key"], 200, within_s=30)
        await gateways.admin("POST", f"/keys/{made['id']}/revoke")
        print(f"refused {await gateways.until(made['key'], 401):.3f} s after it was revoked")


async def test_a_disabled_organisation_is_refused_at_the_bus_door_as_well(
    platform: MainPath, gateways: Gateways
) -> None:
    await gateways.admin("POST", "/organisations", {"id": "dev", "disabled": True})
    await gateways.until(platform.key, 401)
    async with platform.producer() as producer:
        with pytest.raises(Forbidden, match="disabled"):
            await producer.chat(MODEL, HELLO, max_tokens=2)

"""`/health/ready` of a gateway and a worker whose bus is there, and has not what they need."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.main_path import MODEL, MainPath

from inferbus import routes
from inferbus.contracts.models import ModelEntry
from inferbus.testing import eventually


async def readiness(address: str) -> tuple[int, str]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{address}/health/ready", timeout=10)
        return answer.status_code, answer.text


@pytest.mark.slow
async def test_not_ready_without_streams_and_ready_with_them_again(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.gateway()
        await path.worker()
        worker = f"http://127.0.0.1:{path.beat('llm-0').health_port}"
        work = routes.stream_infer("local", "llm", routes.INTERACTIVE)
        operator = await path.nats.connect("operator")
        try:
            needs = (
                (path.url, routes.STREAM_REQUEST, "stream REQUEST"), (worker, work, f"queue {MODEL}_0 of {work}"),
            )  # fmt: skip
            for address, stream, _ in needs:
                assert (await readiness(address))[0] == 200
                await operator.request(f"$JS.API.STREAM.DELETE.{stream}", timeout_s=10.0)
            for address, _, named in needs:

                async def says_what_is_missing(address: str = address, named: str = named) -> bool:
                    status, text = await readiness(address)
                    return status == 503 and named in text

                await eventually(says_what_is_missing, within_s=20.0)
            await path.nats.reconcile(ModelEntry(name=MODEL, pool=MODEL))
            for address in (path.url, worker):

                async def is_ready(address: str = address) -> bool:
                    return (await readiness(address))[0] == 200

                await eventually(is_ready, within_s=20.0)
        finally:
            await operator.close()

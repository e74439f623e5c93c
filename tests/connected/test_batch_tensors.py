"""A batch over a model of tensors: lines of KServe v2, answered by the same workers as single requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec
from tests.connected.tensor_worker import tensor_worker
from tests.main_path import MainPath

from inferbus.contracts.models import ModelEntry
from inferbus.routes import BATCH
from inferbus.testing import eventually

ENTRY = ModelEntry(name="ranker", pool="rank", runtime="triton", tasks=("infer",))


def line(n: int, url: str = "/v2/models/ranker/infer", **change: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [n, n + 0.5]} | change
    return msgspec.json.encode({"custom_id": f"row-{n}", "method": "POST", "url": url, "body": {"inputs": [tensor]}})


async def test_tensors_are_answered_line_by_line(tmp_path: Path) -> None:
    lines = [
        *(line(n) for n in range(40)),
        line(40, "/v2/models/ranker/ready"),
        line(41, shape=[3, 7]),
        line(42, "/v2/models/nobody/infer"),
    ]
    async with MainPath(tmp_path, ENTRY) as path, tensor_worker(path.nats, pool=ENTRY.pool, lane=BATCH):
        await path.gateway()
        await path.batch(chunk_rows=16)
        headers = {"authorization": f"Bearer {path.key}"}
        async with httpx.AsyncClient(base_url=path.url, headers=headers, timeout=30) as http:
            upload = await http.post(
                "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"\n".join(lines))}
            )
            wanted = {"input_file_id": upload.json()["id"], "endpoint": "/v2/models/infer", "completion_window": "1h"}
            batch = (await http.post("/v1/batches", json=wanted)).json()

            async def is_over() -> bool:
                return bool((await http.get(f"/v1/batches/{batch['id']}")).json()["status"] == "completed")

            await eventually(is_over, within_s=60)
            done = (await http.get(f"/v1/batches/{batch['id']}")).json()
            assert done["request_counts"] == {"total": 43, "completed": 40, "failed": 3}
            output = (await http.get(f"/v1/files/{done['output_file_id']}/content")).content.splitlines()
            errors = (await http.get(f"/v1/files/{done['error_file_id']}/content")).content.splitlines()
    answers = [msgspec.json.decode(one) for one in output]
    assert [one["custom_id"] for one in answers] == [f"row-{n}" for n in range(40)]
    assert [one["response"]["body"]["outputs"][0]["data"] for one in answers] == [[2 * n, 2 * n + 1] for n in range(40)]
    faults = {one["custom_id"]: one for one in map(msgspec.json.decode, errors)}
    assert "this batch takes /v2/models/<model>/infer" in faults["row-40"]["error"]["message"]
    assert faults["row-41"]["response"]["status_code"] == 400
    assert faults["row-42"]["response"]["status_code"] == 404

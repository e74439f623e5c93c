"""A batch over collections: lines that index and lines that search, done by the vector service as single requests are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
from tests.main_path import MainPath

from inferbus.testing import eventually

MODEL = "words"
BEARS, OWLS = "brown bears catch salmon in the river", "owls hunt mice at night"


def line(name: str, url: str, body: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"custom_id": name, "method": "POST", "url": url, "body": body})


def index(name: str, *documents: dict[str, Any], collection: str = "zoo", **more: Any) -> bytes:
    return line(name, f"/v1/vectors/{collection}/documents", {"documents": list(documents)} | more)


def search(name: str, collection: str = "zoo", **body: Any) -> bytes:
    return line(name, f"/v1/vectors/{collection}/search", body)


async def begun(http: httpx.AsyncClient, endpoint: str, lines: Sequence[bytes]) -> str:
    upload = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"\n".join(lines))})
    wanted = {"input_file_id": upload.json()["id"], "endpoint": endpoint, "completion_window": "1h"}
    answer = await http.post("/v1/batches", json=wanted)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def over(http: httpx.AsyncClient, batch: str) -> dict[str, Any]:
    async def is_over() -> bool:
        return bool((await http.get(f"/v1/batches/{batch}")).json()["status"] == "completed")

    await eventually(is_over, within_s=60)
    done: dict[str, Any] = (await http.get(f"/v1/batches/{batch}")).json()
    return done


async def lines_of(http: httpx.AsyncClient, file_id: str | None) -> dict[str, dict[str, Any]]:
    content = (await http.get(f"/v1/files/{file_id}/content")).content.splitlines()
    rows = [msgspec.json.decode(one) for one in content]
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows), "a line has more than one result"
    return found


async def test_lines_index_and_search_and_each_has_one_result(tmp_path: Path) -> None:
    lines = [
        *(
            index(f"row-{n}", {"id": f"d-{n}", "text": f"number {n}"}, {"id": f"e-{n}", "text": OWLS})
            for n in range(20)
        ),
        index("half", {"id": "good", "text": BEARS}, {"id": "bad", "vector": [1.0]}),
        index("faulty", {"id": "empty", "text": ""}),
        index("nowhere", {"id": "a", "text": BEARS}, collection="nothing"),
        index("typo", {"id": "a", "text": BEARS}, wait=1),
        line("url", "/v1/vectors/zoo/search", {"text": BEARS}),
    ]
    async with MainPath(tmp_path) as path:
        await path.gateway()
        await path.embedder(MODEL)
        await path.batch(chunk_rows=8)
        headers = {"authorization": f"Bearer {path.key}"}
        async with httpx.AsyncClient(base_url=path.url, headers=headers, timeout=30) as http:
            service = await path.vectors()
            made = await http.post("/v1/vectors/collections", json={"name": "zoo", "model": MODEL})
            assert made.status_code == 200, made.text
            await service.kill()
            early = await begun(http, "/v1/vectors/documents", lines)  # rows wait for a service, as for any worker
            service = await path.vectors()
            done = await over(http, early)
            output, errors = await lines_of(http, done["output_file_id"]), await lines_of(http, done["error_file_id"])

            again = await begun(http, "/v1/vectors/documents", [index("again", {"id": "late", "text": "hares run"})])
            await over(http, again)
            await service.kill()
            wanted = [search(f"bears-{n}", text=BEARS, limit=1) for n in range(9)]
            wanted += [search("none", text=BEARS, vector=[1.0]), search("nowhere", "nothing", text=BEARS)]
            searching = await begun(http, "/v1/vectors/search", wanted)
            await path.vectors()
            found = await over(http, searching)
            hits, refused = await lines_of(http, found["output_file_id"]), await lines_of(http, found["error_file_id"])
            stats = (await http.get("/v1/vectors/collections/zoo/stats")).json()

    assert [*output] == [*(f"row-{n}" for n in range(20)), "half"]
    told = output["row-3"]["response"]["body"]
    assert (told["accepted"], told["indexed"], told["faults"]) == (2, 2, [])
    half = output["half"]["response"]["body"]
    assert (half["indexed"], [(fault["n"], fault["id"]) for fault in half["faults"]]) == (1, [(1, "bad")])
    assert [*errors] == ["faulty", "nowhere", "typo", "url"]
    assert errors["faulty"]["response"]["status_code"] == 400
    assert "'empty'" in errors["faulty"]["response"]["body"]["error"]["message"]
    assert errors["nowhere"]["response"]["status_code"] == 404
    assert "wait" in errors["typo"]["response"]["body"]["error"]["message"]
    assert "this batch takes /v1/vectors/<collection>/documents" in errors["url"]["error"]["message"]
    assert stats["documents"] == 42

    assert [*hits] == [f"bears-{n}" for n in range(9)]
    assert {one["response"]["body"]["data"][0]["id"] for one in hits.values()} == {"good"}
    assert (refused["none"]["response"]["status_code"], refused["nowhere"]["response"]["status_code"]) == (400, 404)

from __future__ import annotations

from pathlib import Path

from tests.main_path import MainPath
from tests.ray.conftest import RunOnRay


async def test_a_dataset_in_and_a_dataset_out(tmp_path: Path, on_ray: RunOnRay) -> None:
    folder = tmp_path / "ray"
    folder.mkdir()
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.001)
        await path.gateway()
        found = await on_ray(path, "through_a_pipeline", str(folder))
    wanted = [n for n in range(120) if n % 3]
    assert found["ns"] == wanted
    assert found["vectors"] == [[n / 2, 1.0] for n in wanted]
    assert (found["rows"], found["written"], found["dropped"], found["said"]) == (120, 80, 40, True)
    assert found["stopped"]
    assert 0 < found["resumed"] < 120
    assert "not what they were" in found["refused"]
    assert found["left"] == []


async def test_stages_inside_map_batches_ask_once_whatever_actor_dies(tmp_path: Path, on_ray: RunOnRay) -> None:
    folder = tmp_path / "ray"
    folder.mkdir()
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.001)
        await path.gateway()
        found = await on_ray(path, "inside_map_batches", str(folder))
        await path.settled()
        asked = path.figure("llm-0", "inferbus_worker_requests_total")
    assert found["ns"] == list(range(120))
    assert found["said"] == 120
    assert found["errors"] == {"5": {"stage": "2 map", "error": "ValueError", "message": "five"}}
    assert found["died"]
    assert asked == 123  # three of them of the second Dataset
    assert found["columns"] == ["n", "said", "text", "vector"]

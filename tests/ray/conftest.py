"""Tests with a Ray of its own environment (`make` builds it): programs run there, the platform runs as in every other test."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.main_path import MainPath

ROOT = Path(__file__).parents[2]
RAY_PYTHON = ROOT / "benchmarks/build/.venv-ray/bin/python"
RunOnRay = Callable[..., Awaitable[Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(300))


@pytest.fixture
def on_ray() -> RunOnRay:
    """Run a job of `ray_jobs.py` on a local Ray; gives what it printed last."""

    async def run(path: MainPath, job: str, *arguments: str) -> Any:
        env = os.environ | {
            "INFERBUS_BUS_URL": path.nats.url, "INFERBUS_BUS_USER": "dev",
            "INFERBUS_BUS_PASSWORD": path.nats.passwords["dev"], "PYTHONPATH": str(ROOT / "libs/common/src"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        program = str(Path(__file__).with_name("ray_jobs.py"))
        process = await asyncio.create_subprocess_exec(
            str(RAY_PYTHON), program, job, *arguments, env=env, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            output, errors = await asyncio.wait_for(process.communicate(), 240)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()[-4000:]
        return json.loads(output.splitlines()[-1])

    return run

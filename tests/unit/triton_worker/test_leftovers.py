from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from inferbus_triton_worker.adapters.leftovers import kill_processes, region_prefix, remove_regions


def test_prefix_is_a_folders_own(tmp_path: Path) -> None:
    assert region_prefix(tmp_path / "a") == region_prefix(tmp_path / "b" / ".." / "a")
    assert region_prefix(tmp_path / "a") != region_prefix(tmp_path / "b")


def test_only_its_own_regions_go(tmp_path: Path) -> None:
    mine, other = region_prefix(tmp_path / "a"), region_prefix(tmp_path / "b")
    for name in (f"{mine}1", f"{mine}2", f"{other}1", "triton_python_backend_shm_region_1"):
        (tmp_path / name).touch()
    assert remove_regions(mine, memory=tmp_path) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [f"{other}1", "triton_python_backend_shm_region_1"]
    )


def test_only_its_own_processes_go(tmp_path: Path) -> None:
    mine, other = region_prefix(tmp_path / "a"), region_prefix(tmp_path / "b")
    sleeping = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"{prefix}1"])
        for prefix in (mine, other)
    ]
    try:
        assert kill_processes(mine) == [sleeping[0].pid]
        assert sleeping[0].wait(10) == -9
        assert sleeping[1].poll() is None
    finally:
        for one in sleeping:
            one.kill()
            one.wait()

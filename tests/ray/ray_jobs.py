"""Jobs that tests run on a local Ray, in Ray's environment: `ray_jobs.py JOB FOLDER`. Each prints a line of JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import ray

from inferbus.errors import Conflict
from inferbus.pipeline import Pipeline

ROWS = 120
MODEL = "simulator"


def begun(count: int = ROWS) -> Any:
    rows = [{"n": n, "text": f"row {n}", "vector": [n / 2, 1.0]} for n in range(count)]
    return ray.data.from_items(rows, override_num_blocks=7).map_batches(lambda batch: batch)


class Stopped(BaseException):
    """Ends a run as a kill would."""


def stop(_rows: int) -> None:
    raise Stopped


def through_a_pipeline(folder: Path) -> dict[str, Any]:
    """A Dataset in, a Dataset out; stopped, refused another Dataset, gone on with."""
    pipeline = (
        Pipeline.read(begun())
        .filter(lambda row: row["n"] % 3 != 0)
        .infer(MODEL, "say {text}", into="said", max_tokens=4)
        .write_ray(str(folder / "work"))
        .limited(32)
    )
    try:
        pipeline.run(on_commit=stop)
    except (Stopped, BaseExceptionGroup):
        stopped = True
    try:
        others = Pipeline.read(begun().map(lambda row: row | {"n": row["n"] + 1}))
        pipeline.replaced(source=others.source).run()
    except Conflict as error:
        refused = str(error)
    report = pipeline.run()
    rows = report.dataset.take_all()
    return {
        "stopped": stopped, "refused": refused, "resumed": report.resumed, "rows": report.rows, "written": report.written,
        "dropped": report.dropped, "ns": [row["n"] for row in rows], "vectors": [list(row["vector"]) for row in rows],
        "said": all(row["said"] for row in rows), "left": [one.name for one in folder.iterdir()],
    }  # fmt: skip


def dies_once(folder: Path) -> Any:
    """A function that kills the actor it runs in, once, in the middle of the rows."""

    def run(row: dict[str, Any]) -> dict[str, Any]:
        mark = folder / "died"
        if row["n"] == ROWS - 2 and not mark.exists():
            mark.touch()
            os._exit(1)
        if row["n"] == 5:
            raise ValueError("five")
        return row

    return run


def inside_map_batches(folder: Path) -> dict[str, Any]:
    """Stages inside Ray's own `map_batches`; an actor dies and Ray gives its batches again."""
    steps = Pipeline.steps().infer(MODEL, "say {text}", into="said", max_tokens=4).map(dies_once(folder))
    rows = sorted(steps.apply_to(begun(), batch_rows=40).take_all(), key=lambda row: row["n"])
    plain = Pipeline.steps().infer(MODEL, "say {text}", into="said", max_tokens=4)
    made = plain.apply_to(begun(3), on_error="raise").take_all()
    return {
        "ns": [row["n"] for row in rows], "said": sum(bool(row["said"]) for row in rows),
        "errors": {row["n"]: row["error"] for row in rows if row["error"] is not None},
        "died": (folder / "died").exists(), "columns": sorted(made[0]),
    }  # fmt: skip


if __name__ == "__main__":
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        object_store_memory=100 * 1024 * 1024,
    )  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False
    job = {"through_a_pipeline": through_a_pipeline, "inside_map_batches": inside_map_batches}[sys.argv[1]]
    print("\n" + json.dumps(job(Path(sys.argv[2]))))
    ray.shutdown()

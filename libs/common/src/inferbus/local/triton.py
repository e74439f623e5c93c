"""Classic models on the local platform: which ones, and the workers that serve them, each with a Triton server of its own."""

from __future__ import annotations

import sys

from inferbus.contracts.models import ModelEntry
from inferbus.local.identities import pool_user
from inferbus.local.layout import Layout
from inferbus.local.processes import TRITON_WORKER, Platform, ProcessSpec, grace_s, service_env
from inferbus.local.serving import CannotServe, Served

POOL = "triton"
_INFER = ("infer",)


def triton_entries() -> tuple[ModelEntry, ...]:
    """Give the models of services/triton-worker/models that clients may ask for: one pool, whose server has them all."""
    return (
        _entry("ranker"),
        _entry("click"),
        _entry("topics"),
        _entry("minilm-onnx", tasks=("embeddings", "infer")),
        _entry("words"),
        _entry("slow_square"),
    )


def served_by_triton(layout: Layout, workers: int) -> list[Served]:
    """Decide what is served; nothing where no worker is wanted.

    Raises:
        CannotServe: `.venv-triton` or the models are missing.
    """
    if not workers:
        return []
    if not (layout.triton_environment / "bin/python").exists():
        raise CannotServe(f"{layout.triton_environment} is missing: run `make install` (or `make up TRITON=1`)")
    entry, *more = triton_entries()
    for one in (entry, *more):
        if not (layout.triton_models / one.name / "config.pbtxt").exists():
            raise CannotServe(f"{layout.triton_models} has no model {one.name}: see README.md beside it")
    names = [f"triton-{n}" for n in range(workers)]
    return [Served(entry=entry, more=tuple(more), source=str(layout.triton_models), workers=names)]


def triton_specs(platform: Platform, served: Served, *, bus_url: str) -> list[ProcessSpec]:
    """Give the workers of the Triton pool."""
    layout = platform.layout
    env = service_env(platform, bus_url, pool_user(served.entry.pool)) | {
        "INFERBUS_TRITON_WORKER_POOL": served.entry.pool,
        "INFERBUS_TRITON_WORKER_RUNTIME": served.entry.runtime,
        "INFERBUS_TRITON_WORKER_REPOSITORY": served.source,
        "INFERBUS_TRITON_WORKER_ENVIRONMENT": str(layout.triton_environment),
        "INFERBUS_TRITON_WORKER_STATE": str(layout.triton),
    }
    return [
        ProcessSpec(
            name=name,
            role=TRITON_WORKER,
            argv=[sys.executable, "-m", "inferbus_triton_worker"],
            env=env | {"INFERBUS_TRITON_WORKER_PROCESS": name},
            grace_s=grace_s(env, "INFERBUS_TRITON_WORKER_DRAIN_GRACE_S"),
        )
        for name in served.workers
    ]


def _entry(name: str, tasks: tuple[str, ...] = _INFER) -> ModelEntry:
    return ModelEntry(name=name, pool=POOL, runtime="triton", tasks=tasks)

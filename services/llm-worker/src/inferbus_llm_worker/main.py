"""Composition root of the LLM worker."""

from __future__ import annotations

from inferbus.process import runtime
from inferbus.settings import from_env
from inferbus.worker.service import run_worker
from inferbus_llm_worker.engines import make_engine
from inferbus_llm_worker.settings import WorkerSettings


async def main(process: runtime.Runtime) -> None:
    settings = from_env(WorkerSettings, "llm_worker")
    await run_worker(process, "llm-worker", settings, make_engine(settings))

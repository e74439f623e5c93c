"""Which engine this process hosts: one setting chooses, `vllm` unless told otherwise."""

from __future__ import annotations

import shlex
from pathlib import Path

from inferbus.settings import SettingsError
from inferbus.worker.ports import Engine
from inferbus_llm_worker.adapters.simulator import SimulatorEngine
from inferbus_llm_worker.adapters.vllm.engine import VllmEngine
from inferbus_llm_worker.domain.body_policy import BodyLimits
from inferbus_llm_worker.domain.serve_args import default_argv, engine_env
from inferbus_llm_worker.settings import WorkerSettings


def make_engine(settings: WorkerSettings) -> Engine:
    """Build the engine, not started.

    Raises:
        SettingsError: the engine's name is unknown or its model is missing.
    """
    if settings.engine == "simulator":
        return SimulatorEngine(
            slots=settings.simulator_slots, ttft_s=settings.simulator_ttft_s, itl_s=settings.simulator_itl_s,
            dimension=settings.simulator_dimension,
        )  # fmt: skip
    if settings.engine != "vllm":
        raise SettingsError(f"INFERBUS_LLM_WORKER_ENGINE {settings.engine!r}: vllm or simulator")
    if not settings.model:
        raise SettingsError("INFERBUS_LLM_WORKER_MODEL is empty: a Hugging Face id or a folder")
    argv = default_argv(
        settings.model, settings.served_name, cpu=settings.cpu, embed=settings.embed, extra=shlex.split(settings.args)
    )
    env = engine_env(argv, cpu=settings.cpu, offline=Path(settings.model).is_dir(), cpu_threads=settings.cpu_threads)
    limits = BodyLimits(media_hosts=frozenset(settings.media_hosts))
    return VllmEngine(argv, env=env, limits=limits, hang_after_s=settings.hang_after_s)

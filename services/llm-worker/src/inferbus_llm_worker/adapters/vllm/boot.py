"""Starting one vLLM engine and the HTTP application around it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from inferbus_llm_worker.adapters.vllm.args import first_of, parse
from inferbus_llm_worker.adapters.vllm.stats import StepStats, stat_logger_class


class Booted(msgspec.Struct, frozen=True, kw_only=True):
    """A running engine: vLLM's `AsyncLLM`, the arguments it was started with, its figures."""

    engine: Any
    args: Namespace
    stats: StepStats


def boot(argv: Sequence[str]) -> Booted:
    """Start the engine's processes; blocks for 10 s to minutes, so call it off the event loop.

    Raises:
        ValueError: vLLM does not take these arguments.
        Exception: whatever vLLM raises when a model cannot be loaded.
    """
    args = parse(argv)
    stats = StepStats()
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args), stat_loggers=[stat_logger_class(stats)])
    if engine.observability_config.otlp_traces_endpoint is None:
        # A custom logger turns per-request records on again. They only feed the loggers that are off; the engine
        # process goes on sending its per-step record. Read when the output handler starts, which is later.
        engine.log_stats = False
        engine.output_processor.log_stats = False
    return Booted(engine=engine, args=args, stats=stats)


async def open_app(booted: Booted) -> Any:
    """Build vLLM's own FastAPI application on the running loop; it is called directly, no socket is opened."""
    engine, args = booted.engine, booted.args
    build_app = first_of(("vllm.entrypoints.launchers.app", "vllm.entrypoints.openai.api_server"), "build_app")
    init_app_state = first_of(
        ("vllm.entrypoints.launchers.api_server.app_state", "vllm.entrypoints.openai.api_server"), "init_app_state"
    )
    tasks = await engine.get_supported_tasks()
    app = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    # Normally uvicorn's server: vLLM's handler of a dead engine sets this flag, and needs something to set it on.
    app.state.server = SimpleNamespace(should_exit=False)
    # Otherwise started by the first request: the death of an idle engine would go unnoticed until then.
    engine._run_output_handler()
    return app

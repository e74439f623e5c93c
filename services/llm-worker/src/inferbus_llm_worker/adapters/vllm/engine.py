"""`VllmEngine`: vLLM in this process, behind the worker's `Engine` port."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog

from inferbus.contracts.presence import EngineStats
from inferbus.contracts.step import Usage
from inferbus.errors import DependencyDown, EngineDead, InferbusError, NotFound, ResumeImpossible, openai_body
from inferbus.worker.open_calls import OpenCalls
from inferbus.worker.ports import Sink, Work
from inferbus_llm_worker.adapters.vllm.owner import OwnerThread
from inferbus_llm_worker.domain.body_policy import BodyLimits, apply_policy, decode_body, take_room
from inferbus_llm_worker.domain.paths import INFERENCE_PATHS
from inferbus_llm_worker.domain.stall import StallClock

if TYPE_CHECKING:
    from inferbus_llm_worker.adapters.vllm.served import Served

_WATCH_S = 1.0
_PLUGIN = "inferbus"


class VllmEngine:
    """Implements `Engine` with `AsyncLLM` and vLLM's own application, both in this process.

    Args:
        argv: arguments of `vllm serve` (`domain.serve_args.default_argv`).
        env: environment for vLLM, each name only where it is not set (`domain.serve_args.engine_env`).
        limits: caps on bodies.
        hang_after_s: an engine with unfinished requests that takes no step for so long is killed. A single step
            longer than this (a huge prompt on a slow machine) would be taken for a hang.
    """

    name = "vllm"

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        limits: BodyLimits | None = None,
        hang_after_s: float = 60.0,
    ) -> None:
        self._argv = list(argv)
        self._env = dict(env or {})
        self._limits = limits or BodyLimits()
        self._hang_after_s = hang_after_s
        self._calls = OpenCalls()
        self._owner: OwnerThread | None = None
        self._loaded: Served | None = None  # written by the owner thread, so that `stop` finds a half-done start
        self._served: Served | None = None
        self._death: asyncio.Future[str] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._starts = 0
        self._fingerprint = ""
        self._log = structlog.get_logger()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the model and become ready. May be called again after `stop`.

        Raises:
            ValueError: vLLM does not take the arguments.
            Exception: what vLLM raises when it cannot load the model or has not the memory.
        """
        self._starts += 1
        self._set_environment()
        self._owner = OwnerThread("vllm-owner")
        await self._owner.run(self._load)
        served = self._loaded
        if served is None:
            raise EngineDead("the engine was stopped while it started")
        await served.open()
        self._served = served
        self._fingerprint = served.fingerprint
        self._death = asyncio.get_running_loop().create_future()
        served.output_handler().add_done_callback(lambda _: self._on_death("its process ended"))
        self._watch = asyncio.create_task(self._watch_for_hang(served), name="vllm-watch")
        self._log.info(
            "engine_started", engine=self.name, slots=self.slots, starts=self._starts, fingerprint=self._fingerprint
        )

    async def stop(self) -> None:
        """End the engine and its processes; requests that still run fail with `EngineDead`."""
        owner, self._owner = self._owner, None
        if owner is None:
            return
        served, self._served = self._served, None
        if served is None:
            owner.kill_processes()  # a start that is still going on would take its time
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        self._calls.fail_all(lambda: EngineDead("the engine was stopped"))
        if served is not None:
            await served.close()
        await owner.run(self._shut_down)
        owner.close()

    def _load(self) -> None:
        # The one door to vLLM: importing it takes seconds and belongs to this thread.
        from inferbus_llm_worker.adapters.vllm.served import Served  # noqa: PLC0415

        self._loaded = Served.load(self._argv)

    def _shut_down(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.shut_down()

    def _set_environment(self) -> None:
        for name, value in self._env.items():
            os.environ.setdefault(name, value)
        allowed = os.environ.get("VLLM_PLUGINS")  # a list of the operator's must not shut our own plugin out
        if allowed is not None and _PLUGIN not in allowed.split(","):
            os.environ["VLLM_PLUGINS"] = ",".join(name for name in (allowed, _PLUGIN) if name)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def submit(self, work: Work, sink: Sink) -> None:
        """Begin `work`. A body the policy refuses ends with its 4xx and OpenAI's error body, as vLLM's own would."""
        call = self._calls.begin(work.key, sink)
        served = self._served
        try:
            if (
                served is None or self._is_over() or served.is_dead()
            ):  # no death of this request: it never was in an engine
                raise DependencyDown("the engine is not running")
            if work.path not in INFERENCE_PATHS:
                raise NotFound(f"{work.path} is not a path of inference")
            body = decode_body(work.body)
            changed = apply_policy(body, self._limits)
            changed |= take_room(body, work.bound, served.max_model_len)
            if work.model:
                body["model"], changed = work.model, True
            await served.submit(work, body, msgspec.json.encode(body) if changed else work.body, call)
        except (EngineDead, DependencyDown, ResumeImpossible) as error:
            call.fail(error)
        except InferbusError as error:
            call.finish(error.row.http_status, Usage(), msgspec.json.encode(openai_body(error)), "application/json")

    def abort(self, key: str) -> None:
        self._calls.abort(key, "aborted")

    # --- what others want to know -------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """What must be equal where an answer of this engine goes on; empty before the first start."""
        return self._fingerprint

    @property
    def slots(self) -> int:
        """`max_num_seqs` of the running engine, 0 without one."""
        return self._served.slots if self._served is not None else 0

    @property
    def direct_served(self) -> int:
        """How many requests of the running engine took the direct path."""
        return self._served.direct_served if self._served is not None else 0

    @property
    def unfinished(self) -> int:
        """How many sequences the engine itself still has."""
        return self._served.unfinished if self._served is not None else 0

    def stats(self) -> EngineStats:
        restarts = max(0, self._starts - 1)
        return EngineStats(restarts=restarts) if self._served is None else self._served.stats.view(restarts)

    # --- death --------------------------------------------------------------------------------------------------------

    async def died(self) -> str:
        """Wait until the engine is dead or hung; returns why. Without a started engine it returns at once."""
        return "it was never started" if self._death is None else await asyncio.shield(self._death)

    def _is_over(self) -> bool:
        return self._death is None or self._death.done()

    def _on_death(self, why: str) -> None:
        if self._served is None or self._death is None or self._death.done():  # stopped, or known already
            return
        failed = self._calls.fail_all(lambda: EngineDead(f"the engine died: {why}"))
        self._log.error("engine_died", engine=self.name, why=why, failed=failed)
        self._death.set_result(why)

    async def _watch_for_hang(self, served: Served) -> None:
        loop = asyncio.get_running_loop()
        clock = StallClock(self._hang_after_s)
        interval_s = min(_WATCH_S, self._hang_after_s / 4)
        while not served.is_dead():
            began = loop.time()
            await asyncio.sleep(interval_s)
            # Not all the time that went by: if this process itself stood still, the engine is not to blame.
            elapsed_s = min(loop.time() - began, 2 * interval_s)
            unfinished = served.unfinished
            if clock.observe(elapsed_s, unfinished=unfinished, steps=served.stats.steps):
                if self._owner is not None:
                    self._owner.kill_processes()
                self._on_death(f"no step for {clock.stalled_s:.0f} s with {unfinished} unfinished requests")
                return
        self._on_death("its process ended")

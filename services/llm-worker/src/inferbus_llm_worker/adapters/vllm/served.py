"""Everything that exists while one engine runs, and the three ways a request can take through it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import msgspec

from inferbus.worker.open_calls import OpenCall
from inferbus.worker.ports import Work
from inferbus.worker.tasks import CHAT
from inferbus_llm_worker.adapters.vllm.asgi import AsgiCall
from inferbus_llm_worker.adapters.vllm.boot import Booted, boot, open_app
from inferbus_llm_worker.adapters.vllm.direct_chat import DirectChat
from inferbus_llm_worker.adapters.vllm.fingerprint import fingerprint_of
from inferbus_llm_worker.adapters.vllm.resume_gate import ResumeGate
from inferbus_llm_worker.adapters.vllm.spent import spent_on
from inferbus_llm_worker.adapters.vllm.stats import StepStats
from inferbus_llm_worker.adapters.vllm.tap import install
from inferbus_llm_worker.adapters.vllm.whole_chat import WholeChat


class Served:
    """One running engine. Make it with `load` off the event loop, then `open` it there."""

    def __init__(self, booted: Booted) -> None:
        self._engine = booted.engine
        self._booted = booted
        self._app: Any = None
        self._direct: DirectChat | None = None
        self._whole: WholeChat | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_priorities = booted.engine.scheduler_config.policy == "priority"
        self.stats: StepStats = booted.stats
        self.fingerprint = fingerprint_of(booted)
        self._gate = ResumeGate(booted.engine.vllm_config, self.fingerprint)

    @classmethod
    def load(cls, argv: Sequence[str]) -> Served:
        """Start the engine's processes and load the model; blocks (see `boot`)."""
        return cls(boot(argv))

    async def open(self) -> None:
        """Build the application, and the ways past it."""
        install(self._engine)
        self._app = await open_app(self._booted)
        chat = getattr(self._app.state, "openai_serving_chat", None)  # an embedding model has none
        if chat is not None:
            self._direct = DirectChat(self._booted, chat)
            self._whole = WholeChat(self._booted, self._app, chat)
        # vLLM and torch are 670,000 objects that stay: a full collection would stop every stream for 0.36 s.
        gc.collect()
        gc.freeze()

    async def close(self) -> None:
        """Drop what is still running; the engine's processes are `shut_down`'s."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def shut_down(self) -> None:
        """End the engine's processes; blocks for seconds."""
        self._engine.shutdown()
        gc.unfreeze()  # so that what this engine leaves can be collected

    async def submit(self, work: Work, body: dict[str, Any], data: bytes, call: OpenCall) -> None:
        """Give the engine one request; `data` is `body` encoded.

        Raises:
            DependencyDown: the engine is dead; it never had this request.
            ResumeImpossible: the request was begun elsewhere and cannot go on here.
        """
        plan = self._gate.plan(work, body)
        if not self._has_priorities:  # vLLM refuses a request that names one then
            work = msgspec.structs.replace(work, priority=0)
        direct = self._direct
        if (
            direct is not None
            and work.path == CHAT
            and direct.takes(body)
            and await direct.begin(work, body, call, plan)
        ):
            return
        if call.ended:
            return
        whole = self._whole
        takes = whole is not None and plan is None and whole.takes(work.path, body)
        app = whole.of(body) if whole is not None and takes else self._app
        asgi = AsgiCall(app, work, data, call, self.stats, self.is_dead, plan, cancels=takes)
        call.on_spent(lambda: spent_on(self._engine.output_processor, asgi.tap.request_ids))
        task = asgi.start()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def is_dead(self) -> bool:
        return bool(self._engine.errored)

    def output_handler(self) -> asyncio.Task[None]:
        """Give vLLM's task that hands outputs out: it ends when the engine dies."""
        task: asyncio.Task[None] = self._engine.output_handler
        return task

    @property
    def slots(self) -> int:
        return int(self._engine.scheduler_config.max_num_seqs)

    @property
    def max_model_len(self) -> int:
        """Give the most tokens that a prompt and its answer may have together."""
        return int(self._engine.vllm_config.model_config.max_model_len)

    @property
    def unfinished(self) -> int:
        return int(self._engine.get_num_unfinished_requests())

    @property
    def direct_served(self) -> int:
        return self._direct.served if self._direct is not None else 0

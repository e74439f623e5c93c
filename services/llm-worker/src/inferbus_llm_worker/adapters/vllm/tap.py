"""Watching what vLLM's serving layer pulls from the engine, without touching the bytes it makes of it.

`engine.generate` and `engine.encode` are wrapped once. A context variable says which request is being served, so
token ids and usage are known for every endpoint, whatever the client asked to see.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from vllm.sampling_params import RequestOutputKind

from inferbus.contracts.step import Cached, Done, Ids, Usage
from inferbus_llm_worker.adapters.vllm.resume_front import is_replayed
from inferbus_llm_worker.adapters.vllm.resume_plan import ResumePlan, add_plan
from inferbus_llm_worker.adapters.vllm.stats import StepStats

CURRENT: ContextVar[Tap | None] = ContextVar("inferbus_tap", default=None)
_REPLAYED_AT_ONCE = 64


class Tap:
    """What one request took from the engine. `on_taken` is called when the bytes made of an output are complete.

    With a `plan` the first outputs are the delivered ones once more: they count in the usage and give neither ids nor
    news. `replaying`: the output whose bytes are being made is one of them. `refused`: the engine gave up before it
    made anything new. `request_ids`: what vLLM knows the generations by.
    """

    def __init__(self, stats: StepStats, on_taken: Callable[[], None], plan: ResumePlan | None = None) -> None:
        self._stats = stats
        self._on_taken = on_taken
        self._plan = plan
        self._replayed = 0
        self._done: list[Done] = []
        self._cached: Cached | None = None
        self.replaying = plan is not None
        self.refused = False
        self.reached_engine = False
        self.request_ids: list[str] = []
        self._prompts = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._ids: Ids = []

    def usage(self) -> Usage:
        return Usage(self._prompt_tokens, self._completion_tokens, self._cached_tokens)

    def take(self) -> tuple[Ids, list[Done], Cached | None]:
        """Give what came since the last call: ids, the choices that ended, with the first output its cached tokens."""
        taken = self._ids, self._done, self._cached
        self._ids, self._done, self._cached = [], [], None
        return taken

    @property
    def fell_short(self) -> bool:
        """Whether not all of what was delivered was taken up."""
        return self._plan is not None and self._replayed < self._plan.tokens

    def follow_generation(
        self, outputs: AsyncGenerator[Any, None], params: Any, request_id: str
    ) -> AsyncGenerator[Any, None]:
        """Pass a request's outputs on; a body with several prompts comes here once for each, in order."""
        self.reached_engine = True
        self.request_ids.append(request_id)
        if self._plan is not None:
            add_plan(params, self._plan)  # the engine looks at the parameters when the first output is asked for
        first_choice = self._prompts * (params.n or 1)
        self._prompts += 1
        return self._generation(outputs, first_choice, cumulative=params.output_kind != RequestOutputKind.DELTA)

    async def _generation(
        self, outputs: AsyncGenerator[Any, None], first_choice: int, *, cumulative: bool
    ) -> AsyncGenerator[Any, None]:
        seen: dict[int, int] = {}
        begun = False
        replays = 0
        async with aclosing(outputs):
            async for output in outputs:
                self.replaying = self._plan is not None and is_replayed(output)
                if not begun:
                    begun = True
                    self._begin(output)
                for choice in output.outputs:
                    ids = list(choice.token_ids)
                    if cumulative:
                        had = seen.get(choice.index, 0)
                        seen[choice.index] = len(ids)
                        ids = ids[had:]
                    self._note(first_choice + choice.index, choice, ids)
                yield output
                # The serving layer is back for more: it has sent all bytes of this output. The last output is left to
                # the end of the response, so that finish reason, usage and [DONE] go with its tokens.
                if not output.finished:
                    self._on_taken()
                if self.replaying:
                    replays += 1
                    if replays % _REPLAYED_AT_ONCE == 0:  # nothing else in the replay waits for anything
                        await asyncio.sleep(0)

    async def follow_pooling(self, outputs: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        self.reached_engine = True
        async with aclosing(outputs):
            async for output in outputs:
                if output.finished:
                    self._begin(output)
                yield output

    def _begin(self, output: Any) -> None:
        if not self._prompt_tokens and not self.replaying:
            self._cached = output.num_cached_tokens, getattr(output, "num_cache_creation_tokens", None)
        self._prompt_tokens += prompt_length(output)
        self._cached_tokens += output.num_cached_tokens or 0

    def _note(self, index: int, choice: Any, ids: list[int]) -> None:
        self._completion_tokens += len(ids)
        if self.replaying:
            self._replayed += len(ids)
            return
        self.refused = self.refused or (self._plan is not None and choice.finish_reason == "error")
        if ids:
            self._stats.generated_tokens += len(ids)
            self._ids.append((index, ids))
        if choice.finish_reason is not None:
            self._done.append((index, choice.finish_reason, choice.stop_reason))


def prompt_length(output: Any) -> int:
    """Give the number of prompt tokens of a vLLM output, an encoder's included."""
    encoder = getattr(output, "encoder_prompt_token_ids", None)
    return len(output.prompt_token_ids or ()) + len(encoder or ())


def install(engine: Any) -> None:
    """Wrap the engine's two methods; call it once, before anything is served."""
    generate, encode = engine.generate, engine.encode

    def tapped_generate(prompt: Any, sampling_params: Any, request_id: str, **rest: Any) -> AsyncGenerator[Any, None]:
        outputs = generate(prompt, sampling_params, request_id, **rest)
        tap = CURRENT.get()
        return outputs if tap is None else tap.follow_generation(outputs, sampling_params, request_id)

    def tapped_encode(*args: Any, **rest: Any) -> AsyncGenerator[Any, None]:
        outputs = encode(*args, **rest)
        tap = CURRENT.get()
        return outputs if tap is None else tap.follow_pooling(outputs)

    engine.generate, engine.encode = tapped_generate, tapped_encode

"""Watching what vLLM's serving layer pulls from the engine, without touching the bytes it makes of it.

`engine.generate` and `engine.encode` are wrapped once. A context variable says which request is being served, so
token ids and usage are known for every endpoint, whatever the client asked to see.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from vllm.sampling_params import RequestOutputKind

from inferbus.contracts.step import Ids, Usage
from inferbus_llm_worker.adapters.vllm.stats import StepStats

CURRENT: ContextVar[Tap | None] = ContextVar("inferbus_tap", default=None)


class Tap:
    """What one request took from the engine. `on_taken` is called when the bytes made of an output are complete."""

    def __init__(self, stats: StepStats, on_taken: Callable[[], None]) -> None:
        self._stats = stats
        self._on_taken = on_taken
        self.reached_engine = False
        self._prompts = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._ids: Ids = []

    def usage(self) -> Usage:
        return Usage(self._prompt_tokens, self._completion_tokens, self._cached_tokens)

    def take_ids(self) -> Ids:
        ids, self._ids = self._ids, []
        return ids

    def follow_generation(self, outputs: AsyncGenerator[Any, None], params: Any) -> AsyncGenerator[Any, None]:
        """Pass a request's outputs on; a body with several prompts comes here once for each, in order."""
        self.reached_engine = True
        first_choice = self._prompts * (params.n or 1)
        self._prompts += 1
        return self._generation(outputs, first_choice, cumulative=params.output_kind != RequestOutputKind.DELTA)

    async def _generation(
        self, outputs: AsyncGenerator[Any, None], first_choice: int, *, cumulative: bool
    ) -> AsyncGenerator[Any, None]:
        seen: dict[int, int] = {}
        begun = False
        async with aclosing(outputs):
            async for output in outputs:
                if not begun:
                    begun = True
                    self._begin(output)
                for choice in output.outputs:
                    ids = list(choice.token_ids)
                    if cumulative:
                        had = seen.get(choice.index, 0)
                        seen[choice.index] = len(ids)
                        ids = ids[had:]
                    self._count(first_choice + choice.index, ids)
                yield output
                # The serving layer is back for more: it has sent all bytes of this output. The last output is left to
                # the end of the response, so that finish reason, usage and [DONE] go with its tokens.
                if not output.finished:
                    self._on_taken()

    async def follow_pooling(self, outputs: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        self.reached_engine = True
        async with aclosing(outputs):
            async for output in outputs:
                if output.finished:
                    self._begin(output)
                yield output

    def _begin(self, output: Any) -> None:
        self._prompt_tokens += prompt_length(output)
        self._cached_tokens += output.num_cached_tokens or 0

    def _count(self, choice: int, ids: list[int]) -> None:
        if ids:
            self._completion_tokens += len(ids)
            self._stats.generated_tokens += len(ids)
            self._ids.append((choice, ids))


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
        return outputs if tap is None else tap.follow_generation(outputs, sampling_params)

    def tapped_encode(*args: Any, **rest: Any) -> AsyncGenerator[Any, None]:
        outputs = encode(*args, **rest)
        tap = CURRENT.get()
        return outputs if tap is None else tap.follow_pooling(outputs)

    engine.generate, engine.encode = tapped_generate, tapped_encode

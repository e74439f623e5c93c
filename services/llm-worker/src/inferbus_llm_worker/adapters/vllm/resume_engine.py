"""The engine's side of a continued request: it starts in the state of one that was preempted.

Delivered tokens become *output* tokens, so that `max_tokens`, `min_tokens`, penalties, stop checks, grammars and seeds
go on exactly where they were. Runs in EngineCore and its workers; without ids in the parameters nothing is different.
"""

from __future__ import annotations

from typing import Any

from inferbus_llm_worker.adapters.vllm.resume_plan import delivered_ids


def patch_request(request_class: Any) -> None:
    """Let the scheduler's `Request` begin with output tokens."""
    original = request_class.from_engine_core_request.__func__

    def from_engine_core_request(cls: Any, request: Any, block_hasher: Any) -> Any:
        made = original(cls, request, block_hasher)
        if ids := delivered_ids(request.sampling_params):
            made.append_output_token_ids(list(ids))
            # The scheduler asserts that no more is cached than the prompt; here the cache may reach into the output.
            made.prefill_stats = None
        return made

    request_class.from_engine_core_request = classmethod(from_engine_core_request)


def patch_grammars(manager_class: Any) -> None:
    """Advance a new grammar by the delivered tokens. One that rejects them fails this request only: vLLM takes the
    error for one of compiling."""
    original = manager_class._create_grammar

    def create_grammar(self: Any, request: Any) -> Any:
        grammar = original(self, request)
        if ids := delivered_ids(request.sampling_params):
            # As `accept_tokens` does, which cannot be called yet: with a reasoning parser the grammar begins later.
            start, _ = self._get_constraint_bounds(request, ids, spec_tokens_committed=True)
            if start <= len(ids):
                request.structured_output_request.reasoning_ended = True
                if not grammar.accept_tokens(request.request_id, ids[start:]):
                    raise ValueError("the delivered tokens do not fit the grammar")
        return grammar

    manager_class._create_grammar = create_grammar


def patch_worker_state(state_class: Any) -> None:
    """Give the worker's request state the output tokens and put its random generator where it was."""
    original = state_class.__post_init__

    def post_init(self: Any) -> None:
        original(self)
        ids = delivered_ids(self.sampling_params)
        if ids and not self.output_token_ids:
            self.output_token_ids.extend(ids)
            if self.generator is not None:
                advance(self.generator, len(ids))

    state_class.__post_init__ = post_init


def advance(generator: Any, tokens: int) -> None:
    """Draw what sampling `tokens` tokens has drawn: on a CPU one integer each (`TopKTopPSampler.forward_cpu`).

    Elsewhere nothing is drawn: the second model runner's noise depends on the position only, and a seeded request of
    the first one is refused before it gets here.
    """
    import torch  # noqa: PLC0415  # this module is imported by a plugin hook, before vLLM wants torch

    if generator.device.type == "cpu":
        torch.randint(0, 2**31, (tokens,), generator=generator, dtype=torch.long)

"""The front end's side of a continued request: vLLM's output processor takes up where the delivered outputs ended.

The detokenizer is stepped through the delivered tokens (priming it with them loses half of a multi-byte character cut
in two), and the serving layer above gets the delivered outputs once more, marked, so that its parsers and counters go
on as well; what it makes of them is dropped by `tap`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from inferbus.errors import ResumeImpossible
from inferbus_llm_worker.adapters.vllm.resume_plan import ResumePlan, take_plan
from inferbus_llm_worker.domain.resuming import SoFar


def is_replayed(output: Any) -> bool:
    """Say whether a `RequestOutput` was delivered before."""
    return getattr(output, "inferbus_replayed", False)


def patch_output_processor(processor_class: Any, finish_reasons: Any, logprobs_lists: Any) -> None:
    """Let `add_request` restore what its request carries a plan for.

    `finish_reasons` is vLLM's enumeration, `logprobs_lists` its class of log probabilities as the engine sends them.
    """
    original = processor_class.add_request
    reasons = {str(reason): reason for reason in finish_reasons}

    def add_request(
        self: Any, request: Any, prompt: Any, parent_req: Any = None, request_index: int = 0, queue: Any = None
    ) -> None:
        plan = take_plan(request, request_index)
        if plan is None:
            original(self, request, prompt, parent_req, request_index, queue)
            return
        choice = plan.choices.get(request_index) or SoFar(outputs=[])
        tokens = len(request.prompt_token_ids or ()) + len(choice.ids)
        if choice.end is None and tokens >= plan.max_model_len:
            raise ResumeImpossible("the engine has no room for what was delivered")
        original(self, request, prompt, parent_req, request_index, queue)
        state = self.request_states[request.request_id]
        try:
            _restore(state, choice, plan, queue, reasons, logprobs_lists)
        except Exception:
            self._finish_request(state)  # the engine never hears of it
            raise
        if choice.end is not None:
            self._finish_request(state)
            request.abort_immediately = True  # the engine drops it unseen

    processor_class.add_request = add_request


def _restore(
    state: Any, choice: SoFar, plan: ResumePlan, queue: Any, reasons: dict[str, Any], logprobs_lists: Any
) -> None:
    if plan.cached is not None:
        state.num_cached_tokens, state.num_cache_creation_tokens = plan.cached
    replayed = _replayed_of(queue) if plan.replay else None
    end = (reasons[choice.end[0]], choice.end[1]) if choice.end is not None else (None, None)
    outputs = choice.outputs or ([] if choice.end is None else [[]])
    for number, ids in enumerate(outputs, start=1):
        reason, stop = end if number == len(outputs) else (None, None)
        # A stop token is left out of the text, a stop string is found again by the detokenizer itself.
        state.detokenizer.update(list(ids), reason is reasons["stop"] and not isinstance(stop, str))
        _remember_logprobs(state.logprobs_processor, ids, logprobs_lists)
        if replayed is None and reason is None:
            continue
        output = state.make_request_output(list(ids), None, reason, stop)
        if replayed is not None and output is not None:
            output.inferbus_replayed = True
            replayed.append(output)
    if replayed is None:  # what was never handed out was delivered all the same
        state.detokenizer.get_next_output_text(False, True)  # finished, delta
        state.sent_tokens_offset = state.detokenizer.num_output_tokens()


def _remember_logprobs(processor: Any, ids: list[int], logprobs_lists: Any) -> None:
    """Put delivered tokens into the history of log probabilities: the text of a token that ends a multi-byte character
    is made of the ones before it. Their values were delivered and are not known; zeros are never shown."""
    if processor.logprobs is None or not ids:
        return
    import numpy as np  # noqa: PLC0415  # comes with vLLM; this module is imported by a plugin hook

    column = np.asarray(ids, dtype=np.int32)
    processor._update_sample_logprobs(
        logprobs_lists(column[:, None], np.zeros((len(ids), 1), dtype=np.float32), np.ones_like(column), None)
    )


def _replayed_of(queue: Any) -> deque[Any]:
    """Give the outputs that this request's collector hands out before any new one."""
    replayed: deque[Any] | None = getattr(queue, "inferbus_replayed", None)
    if replayed is None:
        replayed = queue.inferbus_replayed = deque()
        queue.get_nowait = _replaying(queue, replayed)  # of this collector only: others are as vLLM made them
    return replayed


def _replaying(queue: Any, replayed: deque[Any]) -> Callable[[], Any]:
    def get_nowait() -> Any:
        if replayed:
            return replayed.popleft()
        del queue.get_nowait
        return queue.get_nowait()

    return get_nowait

"""Puts the resume parts into vLLM: five of its internals, in every process, once.

They are checked first, all together: a release in which one is missing or takes other arguments is left as it is, and
the engine then refuses to continue answers (`problem`); everything else works.
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
from typing import Any

import structlog

from inferbus_llm_worker.adapters.vllm import resume_engine, resume_front

_REQUEST = "vllm.v1.request:Request"
_GRAMMARS = "vllm.v1.structured_output:StructuredOutputManager"
_WORKER_STATE = "vllm.v1.worker.gpu_input_batch:CachedRequestState"
_PROCESSOR = "vllm.v1.engine.output_processor:OutputProcessor"
_STATE = "vllm.v1.engine.output_processor:RequestState"
_COLLECTOR = "vllm.v1.engine.output_processor:RequestOutputCollector"
_LOGPROBS = "vllm.v1.engine.logprobs:LogprobsProcessor"
_FINISH_REASONS = "vllm.v1.engine:FinishReason"
_LOGPROBS_LISTS = "vllm.v1.outputs:LogprobsLists"

SHAPES: dict[tuple[str, str], tuple[str, ...]] = {
    (_REQUEST, "from_engine_core_request"): ("request", "block_hasher"),
    (_REQUEST, "append_output_token_ids"): ("self", "token_ids"),
    (_GRAMMARS, "_create_grammar"): ("self", "request"),
    (_GRAMMARS, "_get_constraint_bounds"): ("self", "request", "spec_tokens", "spec_tokens_committed"),
    (_WORKER_STATE, "__post_init__"): ("self",),
    (_PROCESSOR, "add_request"): ("self", "request", "prompt", "parent_req", "request_index", "queue"),
    (_PROCESSOR, "_finish_request"): ("self", "req_state"),
    (_STATE, "make_request_output"): ("self", "new_token_ids", "pooling_output", "finish_reason", "stop_reason"),
    (_COLLECTOR, "get_nowait"): ("self",),
    (_LOGPROBS, "_update_sample_logprobs"): ("self", "logprobs_lists"),
}
"""What is patched or called, with the arguments each is known to begin with."""

_PATCHED = "_inferbus_problem"


def install() -> None:
    """Patch this process's vLLM, once; without a word where all is well."""
    import vllm  # noqa: PLC0415  # a plugin hook: vLLM is imported already

    if hasattr(vllm, _PATCHED):
        return
    why = misfit(SHAPES)
    setattr(vllm, _PATCHED, why)  # kept there, as the patches are: this module may be imported under two names
    if why is None:
        _patch()
    elif multiprocessing.parent_process() is None:  # once, not by every process of the engine
        structlog.get_logger().error("resume_unavailable", why=why, vllm=vllm.__version__)


def problem() -> str | None:
    """Say why this vLLM cannot continue an answer; None where it can."""
    import vllm  # noqa: PLC0415  # see `install`

    why: str | None = getattr(vllm, _PATCHED, "the plugin 'inferbus' was not loaded by vLLM")
    return why


def misfit(shapes: dict[tuple[str, str], tuple[str, ...]]) -> str | None:
    """Say what of `shapes` this vLLM has not, or not so."""
    for (place, name), wanted in shapes.items():
        try:
            found = tuple(inspect.signature(getattr(_at(place), name)).parameters)
        except (ImportError, AttributeError, ValueError, TypeError) as exc:
            return f"{place}.{name}: {exc}"
        if found[: len(wanted)] != wanted:
            return f"{place}.{name} takes {found}"
    return None


def _patch() -> None:
    resume_engine.patch_request(_at(_REQUEST))
    resume_engine.patch_grammars(_at(_GRAMMARS))
    resume_engine.patch_worker_state(_at(_WORKER_STATE))
    resume_front.patch_output_processor(_at(_PROCESSOR), _at(_FINISH_REASONS), _at(_LOGPROBS_LISTS))


def _at(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)

"""Whether this engine may take up a begun answer, and the plan by which it does."""

from __future__ import annotations

from typing import Any

from inferbus.errors import ResumeImpossible
from inferbus.worker.ports import Work
from inferbus_llm_worker.adapters.vllm.resume_plan import ResumePlan
from inferbus_llm_worker.adapters.vllm.resume_plugin import problem
from inferbus_llm_worker.domain.resuming import SoFar, check_resumable, choices_of


class ResumeGate:
    """Judges the resumes of one running engine.

    Args:
        vllm_config: vLLM's whole configuration.
        fingerprint: what must be equal in the engine that began the answer.
    """

    def __init__(self, vllm_config: Any, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self._max_model_len = int(vllm_config.model_config.max_model_len)
        self._vocabulary = int(vllm_config.model_config.get_vocab_size())
        self._problem = problem() or _unfit(vllm_config)
        device = vllm_config.device_config.device_type
        self._keeps_seeds = device == "cpu" or bool(getattr(vllm_config, "use_v2_model_runner", False))

    def plan(self, work: Work, body: dict[str, Any]) -> ResumePlan | None:
        """Give the plan of a request that goes on; None for one of which nothing was delivered.

        Raises:
            ResumeImpossible: it cannot go on here exactly.
        """
        resume = work.resume
        choices = choices_of(resume) if resume is not None else {}
        if resume is None or not choices:
            return None
        if self._problem is not None:
            raise ResumeImpossible(self._problem)
        if resume.fingerprint and resume.fingerprint != self._fingerprint:
            raise ResumeImpossible(f"begun by {resume.fingerprint}, this is {self._fingerprint}")
        check_resumable(work.path, body, choices)
        self._check_ids(choices)
        if not self._keeps_seeds and body.get("seed") is not None and body.get("temperature") != 0:
            raise ResumeImpossible("this model runner's seeded noise cannot be put forward")
        return ResumePlan(choices, resume.cached, max_model_len=self._max_model_len)

    def _check_ids(self, choices: dict[int, SoFar]) -> None:
        # An id the model has no row for would end the engine, for everybody.
        if any(not 0 <= token < self._vocabulary for choice in choices.values() for token in choice.ids):
            raise ResumeImpossible("a delivered token is not in this model's vocabulary")


def _unfit(vllm_config: Any) -> str | None:
    """Say what of an engine's configuration nobody has measured a resume with."""
    if vllm_config.speculative_config is not None:
        return "an engine with speculative decoding cannot continue an answer exactly"
    if vllm_config.kv_transfer_config is not None:
        return "an engine that transfers its KV cache cannot continue an answer"
    return None

"""What a continued request carries through vLLM: `SamplingParams.extra_args`, under names no client can set.

`domain.body_policy` takes every `resume_*` out of client bodies. Two names are used: the plan goes as far as the front
end's output processor, which replaces it by the ids of one choice for the engine process.
"""

from __future__ import annotations

import copy
from typing import Any

from inferbus.contracts.step import Cached
from inferbus_llm_worker.domain.resuming import SoFar

PLAN = "resume_plan"
IDS = "resume_ids"


class ResumePlan:
    """The delivered part of one request, for vLLM's front end.

    Args:
        choices: what was delivered of each choice that had any.
        cached: the prompt tokens found in the prefix cache and put there, as first reported.
        max_model_len: the most tokens the engine has room for.
        replay: whether the serving layer above sees the delivered outputs again.
    """

    def __init__(
        self, choices: dict[int, SoFar], cached: Cached | None, *, max_model_len: int, replay: bool = True
    ) -> None:
        self.choices = choices
        self.cached = cached
        self.replay = replay
        self.max_model_len = max_model_len
        self.tokens = sum(len(choice.ids) for choice in choices.values())

    def without_replay(self) -> ResumePlan:
        """Give the plan for a caller that counts by itself what was delivered."""
        return ResumePlan(self.choices, self.cached, max_model_len=self.max_model_len, replay=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> ResumePlan:
        """Stay one object: vLLM copies a request's parameters deeply, which takes milliseconds for thousands of ids."""
        return self


def add_plan(params: Any, plan: ResumePlan) -> None:
    """Let vLLM's sampling parameters carry `plan`."""
    params.extra_args = {**(params.extra_args or {}), PLAN: plan}


def take_plan(request: Any, index: int) -> ResumePlan | None:
    """Take the plan out of an `EngineCoreRequest` and leave it the ids of choice `index`, if that goes on.

    The parameters are replaced, not changed: the choices of a request may share them.
    """
    params = request.sampling_params
    extra: dict[str, Any] = (params.extra_args if params is not None else None) or {}
    plan = extra.get(PLAN)
    if not isinstance(plan, ResumePlan):
        return None
    extra = {name: value for name, value in extra.items() if name != PLAN}
    choice = plan.choices.get(index)
    if choice is not None and choice.end is None:
        extra[IDS] = choice.ids
    request.sampling_params = copy.copy(params)
    request.sampling_params.extra_args = extra or None
    return plan


def delivered_ids(params: Any) -> list[int]:
    """Give the token ids a request of the engine process begins with; empty for every ordinary one."""
    extra = params.extra_args if params is not None else None
    return (extra.get(IDS) or []) if extra else []

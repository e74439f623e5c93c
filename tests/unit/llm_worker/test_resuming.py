from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.contracts.step import Resume
from inferbus.errors import ResumeImpossible
from inferbus.worker.tasks import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES
from inferbus_llm_worker.domain.paths import INFERENCE_PATHS
from inferbus_llm_worker.domain.resuming import SoFar, check_resumable, choices_of

_OUTPUTS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4), min_size=1, max_size=8)
STREAM: dict[str, Any] = {"stream": True}
ONE = {0: SoFar(outputs=[[1]])}


@given(st.dictionaries(st.integers(0, 5), _OUTPUTS, max_size=4))
def test_outputs_are_cut_as_they_came(made: dict[int, list[list[int]]]) -> None:
    resume = Resume(
        ids=[(index, [token for output in outputs for token in output]) for index, outputs in made.items()],
        chunks=[[len(output) for output in outputs] for outputs in made.values()],
    )
    assert {index: choice.outputs for index, choice in choices_of(resume).items()} == made


def test_ends_belong_to_their_choices() -> None:
    resume = Resume(ids=[(1, [7, 8])], chunks=[[2]], done=[(1, "stop", "."), (2, "length", None)])
    assert choices_of(resume) == {
        1: SoFar(outputs=[[7, 8]], end=("stop", ".")),
        2: SoFar(outputs=[], end=("length", None)),
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {}),
        (CHAT, {"n": 3, "tools": [], "logprobs": True, "seed": 1}),
        (MESSAGES, {}),
        (COMPLETIONS, {"prompt": "one"}),
        (COMPLETIONS, {"prompt": ["one"]}),
        (COMPLETIONS, {"prompt": [1, 2, 3]}),
        (COMPLETIONS, {"prompt": "one", "echo": True}),
        (COMPLETIONS, {"prompt": "one", "logprobs": 2}),
    ],
)
def test_what_can_be_continued(path: str, body: dict[str, Any]) -> None:
    check_resumable(path, STREAM | body, ONE)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"stream": False}),
        (CHAT, {"use_beam_search": True}),
        (CHAT, {"prompt_logprobs": 1}),
        (CHAT, {"thinking_token_budget": 9}),
        (COMPLETIONS, {"prompt": ["one", "two"]}),
        (COMPLETIONS, {"prompt": [[1], [2]]}),
        (COMPLETIONS, {"prompt": "one", "echo": True, "logprobs": 0}),
        (COMPLETIONS, {"prompt_embeds": "AAAA"}),
        *((path, {}) for path in sorted(INFERENCE_PATHS - {CHAT, COMPLETIONS, MESSAGES})),
    ],
)
def test_what_cannot_be_continued_is_said(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(ResumeImpossible):
        check_resumable(path, STREAM | body, ONE)


def test_a_choice_nobody_asked_for() -> None:
    with pytest.raises(ResumeImpossible):
        check_resumable(CHAT, STREAM | {"n": 2}, {2: SoFar(outputs=[[1]])})
    assert EMBEDDINGS in INFERENCE_PATHS

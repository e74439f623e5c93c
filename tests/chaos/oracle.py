"""The oracle: what is wrong with an answer that came through faults, measured against the one that no fault touched.

The simulator's words carry the conversation and their place, so what was lost, doubled or strayed in from another stream
is told apart exactly. Of a real model's text it is told apart by alignment with the unbroken answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import msgspec
from tests.chaos.assembled import Assembled, Choice

from inferbus_llm_worker.adapters.simulated_words import simulated_answer

_PIECE = re.compile(r"\s*\S+|\s+$")


class Flaws(msgspec.Struct, kw_only=True):
    """`lost` and `doubled` count pieces (words) of the text; `wrong` says in words what else is not as it must be."""

    lost: int = 0
    doubled: int = 0
    wrong: list[str] = []

    @property
    def any(self) -> bool:
        return bool(self.lost or self.doubled or self.wrong)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A body (streamed, with usage), the answer's choices, and the completion tokens its usage must say."""

    name: str
    body: dict[str, Any]
    choices: dict[int, Choice]
    prompt_tokens: int
    completion_tokens: int


def simulated_question(model: str, name: str, tokens: int) -> Question:
    """Make a question that no other has, and what the simulator says to it."""
    messages = [{"role": "user", "content": f"{name} tell me"}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "stream": True}
    body["stream_options"] = {"include_usage": True}
    said = Choice(roles=1, content=simulated_answer(messages, tokens), finish_reasons=["length"])
    return Question(name=name, body=body, choices={0: said}, prompt_tokens=3, completion_tokens=tokens)


def known_question(name: str, body: dict[str, Any], unbroken: Assembled) -> Question:
    """Make a question of a real model from an answer that no fault touched."""
    ((prompt, completion),) = unbroken.tokens
    return Question(name=name, body=body, choices=unbroken.choices, prompt_tokens=prompt, completion_tokens=completion)


def judge(question: Question, got: Assembled, request_id: str) -> Flaws:
    """Compare an answer that ended with what it must be."""
    flaws = Flaws()
    wrong = flaws.wrong
    wrong += [f"error event {error}" for error in got.errors]
    if got.dones != 1 or got.late:
        wrong.append(f"{got.dones} ends, {got.late} events after the first")
    if len(got.ids) != 1 or not all(one.endswith(request_id) for one in got.ids):
        wrong.append(f"answers {got.ids}")
    if len(got.created) != 1:
        wrong.append(f"made at {got.created}")
    if got.tokens != [(question.prompt_tokens, question.completion_tokens)]:
        wrong.append(f"usage {got.tokens}, not {question.prompt_tokens} + {question.completion_tokens}")
    if got.choices.keys() != question.choices.keys():
        wrong.append(f"choices {sorted(got.choices)}, not {sorted(question.choices)}")
    for index in got.choices.keys() & question.choices.keys():
        _judge_choice(question.choices[index], got.choices[index], flaws)
    return flaws


def _judge_choice(expected: Choice, got: Choice, flaws: Flaws) -> None:
    if (got.roles, got.finish_reasons, got.stop_reason) != (
        expected.roles,
        expected.finish_reasons,
        expected.stop_reason,
    ):
        flaws.wrong.append(f"{got.roles} roles, finished {got.finish_reasons} by {got.stop_reason!r}")
    _compare(_pieces(expected.content), _pieces(got.content), flaws)
    _compare(expected.logprobs, got.logprobs, flaws)
    if got.calls.keys() != expected.calls.keys():
        flaws.wrong.append(f"{len(got.calls)} tool calls, not {len(expected.calls)}")
    for index in got.calls.keys() & expected.calls.keys():
        if got.calls[index][0] != expected.calls[index][0]:
            flaws.wrong.append(f"calls {got.calls[index][0]!r}, not {expected.calls[index][0]!r}")
        _compare(list(expected.calls[index][1]), list(got.calls[index][1]), flaws)


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(text)


def _compare(expected: Sequence[str], got: Sequence[str], flaws: Flaws) -> None:
    """Align two sequences: what is missing was lost, what is there too often was doubled, the rest is foreign."""
    if expected == got:
        return
    known = set(expected)
    for what, begin, end, got_begin, got_end in SequenceMatcher(None, expected, got, autojunk=False).get_opcodes():
        if what == "equal":
            continue
        flaws.lost += end - begin
        extra = got[got_begin:got_end]
        flaws.doubled += sum(piece in known for piece in extra)
        if foreign := [piece for piece in extra if piece not in known]:
            flaws.wrong.append(f"{len(foreign)} foreign pieces such as {foreign[0]!r}")

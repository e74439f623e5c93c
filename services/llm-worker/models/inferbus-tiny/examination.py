"""Measures the finished model: tool calls on names and tools never seen in training, JSON, ends, and a few samples.

Greedy decoding throughout, so that the numbers repeat for the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from exercises import Exercise, call_text, toolset
from names import CITIES, HELD_OUT_CITIES, invented_name
from tokenizer import render
from toolbox import Tool, invented_tool, known_tools
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

EXAMINATION_SEED = 20261121
ROWS = 50
MAX_ANSWER_TOKENS = 80
SAMPLES = (
    "Hello",
    "What does open do?",
    "Explain Thread.",
    "Tell me about asyncio.",
    "Reply in JSON",
    "Reply in JSON: Kerstin is 31 and lives in Helsinki.",
    "Think about read",
    "Count to 7",
    "Repeat: Bogotá 417 file",
)


def complete(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, batch: Sequence[Exercise]
) -> list[tuple[str, bool]]:
    """Complete each exercise greedily; the flag says whether the model ended its turn by itself."""
    prompts = [render(tokenizer, one.messages, one.tools) for one in batch]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        output = model.generate(  # type: ignore[misc]  # a mixin of transformers types self as another class
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=MAX_ANSWER_TOKENS,
            do_sample=False,
        )
    rows = output[:, inputs["input_ids"].shape[1] :]
    ended = (rows == tokenizer.eos_token_id).any(dim=1).tolist()
    return list(zip(tokenizer.batch_decode(rows, skip_special_tokens=True), ended, strict=True))


def examine(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int) -> dict[str, float]:
    """Return the share of right answers, 0 to 1, by kind of question; `count` questions each."""
    papers: dict[str, Callable[[Random], Exercise]] = {
        "weather, cities of the training": lambda r: _question(r, known_tools(r)[0], lambda q: q.choice(CITIES)),
        "weather, other real cities": lambda r: _question(r, known_tools(r)[0], lambda q: q.choice(HELD_OUT_CITIES)),
        "weather, invented names": lambda r: _question(r, known_tools(r)[0], _unseen),
        "any known tool, invented names": lambda r: _question(r, r.choice(known_tools(r)), _unseen),
        "invented tool, invented names": lambda r: _question(r, invented_tool(r, examination=True), _unseen),
    }
    marks: dict[str, float] = {}
    for title, paper in papers.items():
        rng = Random(EXAMINATION_SEED)
        questions = [paper(rng) for _ in range(count)]
        answers = _complete_all(model, tokenizer, questions)
        marks[title] = _share(a == q.completion and e for q, (a, e) in zip(questions, answers, strict=True))
        marks[f"{title}: right tool, valid JSON"] = _share(
            _same_tool(a, q.completion) for q, (a, _) in zip(questions, answers, strict=True)
        )
    return marks


def print_samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Print a few greedy answers."""
    for question in SAMPLES:
        exercise = Exercise("", [{"role": "user", "content": question}])
        answer, ended = complete(model, tokenizer, [exercise])[0]
        print(f"  {question!r} -> {answer!r}{'' if ended else ' (cut)'}", flush=True)


def _unseen(rng: Random) -> str:
    return invented_name(rng, examination=True)


def _question(rng: Random, tool: Tool, name: Callable[[Random], str]) -> Exercise:
    question, arguments = tool.ask(rng, name)
    completion = call_text(tool.name, arguments)
    return Exercise(completion, [{"role": "user", "content": question}], toolset(rng, tool))


def _complete_all(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: list[Exercise]
) -> list[tuple[str, bool]]:
    answers: list[tuple[str, bool]] = []
    for start in range(0, len(questions), ROWS):
        answers += complete(model, tokenizer, questions[start : start + ROWS])
    return answers


def _same_tool(answer: str, expected: str) -> bool:
    return _called(answer) is not None and _called(answer) == _called(expected)


def _called(text: str) -> Any:
    """Return the name and argument names of a call, or None if it is not one."""
    try:
        call = json.loads(text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
        return call["name"], list(call["arguments"])
    except (ValueError, KeyError, TypeError):
        return None


def _share(right: Any) -> float:
    marks = [bool(one) for one in right]
    return sum(marks) / len(marks)

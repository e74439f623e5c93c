"""What the model is taught: texts, answers, tool calls, JSON, thoughts and repetition, drawn at random for ever.

Owns the content and the mixture of each stage. Knows nothing of tokens: an `Exercise` is a prompt and its completion.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from corpus import Docstring
from names import any_name, any_number, any_phrase
from toolbox import Tool, invented_tool, known_tools

Message = dict[str, Any]
INVENTED_TOOL_CHANCE = 0.3
MAX_OTHER_TOOLS = 3
MAX_WORD_CHARS = 14
QUESTIONS = ("What does {} do?", "Explain {}.", "Tell me about {}.", "Describe {}.", "What is {}?", "{}")
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "clear", "snowing")
GREETINGS = ("Hello", "Hi", "Hello!", "Hey", "Good morning", "Say hello", "hi there", "Say hello.", "hello")
SYSTEM_LINES = ("You are a helpful assistant.", "Be brief.", "Answer in one sentence.", "You are a Python expert.")
SYSTEM_CHANCE = 0.2
# Shares of each stage. The first drills copying from the start, or its circuit would be lost; the second keeps the
# library in the mixture, or the model would forget its English.
READING = {"text": 30, "answer": 27, "repeat": 18, "extract": 10, "call": 15}
TUNING = {
    "call": 40, "result": 9, "extract": 8, "invent": 4, "think": 4, "repeat": 8, "talk": 4, "answer": 14, "text": 9
}  # fmt: skip


@dataclass(frozen=True)
class Exercise:
    """Messages to be rendered and the completion to be learned; without messages the completion is plain text."""

    completion: str
    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """Write a tool call in the hermes form."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def compact(value: Any) -> str:
    """Write JSON without spaces, as the grammar of the server does."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def exercises(library: Sequence[Docstring], shares: dict[str, int], seed: int) -> Iterator[Exercise]:
    """Yield exercises for ever, in the given shares."""
    rng = Random(seed)
    words = sorted({word for one in library for word in one.text.split() if len(word) <= MAX_WORD_CHARS})
    makers: dict[str, Callable[[Random], Exercise]] = {
        "text": lambda r: _text(r, library),
        "answer": lambda r: _answer(r, library),
        "call": _call,
        "result": _result,
        "extract": _extract,
        "invent": _invent,
        "think": _think,
        "repeat": lambda r: _repeat(r, words),
        "talk": _talk,
    }
    kinds, weights = list(shares), list(shares.values())
    while True:
        yield makers[rng.choices(kinds, weights)[0]](rng)


def toolset(rng: Random, wanted: Tool) -> list[dict[str, Any]]:
    """Put `wanted` among other tools, in any order; none of them for the same question under another name."""
    others = [tool for tool in known_tools(rng) if tool.questions[0] != wanted.questions[0]]
    others += [invented_tool(rng), invented_tool(rng)]
    tools = [wanted, *rng.sample(others, rng.randint(0, MAX_OTHER_TOOLS))]
    rng.shuffle(tools)
    return [tool.schema() for tool in tools]


def _chat(rng: Random, question: str, completion: str, tools: list[dict[str, Any]] | None = None) -> Exercise:
    system = [{"role": "system", "content": rng.choice(SYSTEM_LINES)}] if rng.random() < SYSTEM_CHANCE else []
    return Exercise(completion, [*system, {"role": "user", "content": question}], tools or [])


def _text(rng: Random, library: Sequence[Docstring]) -> Exercise:
    """One docstring, or several in a row: the model must bear long contexts too."""
    count = rng.choice((1, 1, 1, 1, 6))
    return Exercise("\n\n".join(rng.choice(library).text for _ in range(count)))


def _answer(rng: Random, library: Sequence[Docstring]) -> Exercise:
    """A question about the library; tools that do not fit are sometimes offered, and left alone."""
    docstring = rng.choice(library)
    tools = toolset(rng, rng.choice(known_tools(rng))) if rng.random() < 0.25 else []
    exercise = _chat(rng, rng.choice(QUESTIONS).format(docstring.name), docstring.answer, tools)
    if rng.random() < 0.2:
        earlier = rng.choice(library)
        history = [
            {"role": "user", "content": f"What is {earlier.name}?"},
            {"role": "assistant", "content": earlier.answer},
        ]
        return Exercise(exercise.completion, history + exercise.messages, exercise.tools)
    return exercise


def _any_tool(rng: Random) -> Tool:
    return invented_tool(rng) if rng.random() < INVENTED_TOOL_CHANCE else rng.choice(known_tools(rng))


def _call(rng: Random) -> Exercise:
    tool = _any_tool(rng)
    question, arguments = tool.ask(rng)
    completion = call_text(tool.name, arguments)
    if list(tool.parameters.values()) == ["name"] and rng.random() < 0.08:
        other = any_name(rng)
        name = next(iter(arguments.values()))
        question = question.replace(name, f"{name} and {other}")
        completion += "\n" + call_text(tool.name, dict.fromkeys(arguments, other))
    return _chat(rng, question, completion, toolset(rng, tool))


def _result(rng: Random) -> Exercise:
    """The turn after a tool call: say what the tool said."""
    tool = rng.choice(known_tools(rng)[:2]) if rng.random() < 0.6 else _any_tool(rng)
    question, arguments = tool.ask(rng)
    subject = next(iter(arguments.values()))
    if "weather" in tool.name:
        sky, degrees = rng.choice(SKIES), rng.randint(-20, 40)
        result = rng.choice((f"{sky}, {degrees} degrees", compact({"sky": sky, "degrees": degrees})))
        completion = f"The weather in {subject} is {sky}, {degrees} degrees."
    elif tool.name == "get_time":
        result = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
        completion = f"It is {result} in {subject}."
    else:
        result = str(rng.choice((any_number, any_phrase, any_name))(rng))
        completion = f"The result is {result}."
    exercise = _chat(rng, question, completion, toolset(rng, tool))
    call = {"id": "call_0", "type": "function", "function": {"name": tool.name, "arguments": arguments}}
    history: list[Message] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": result},
    ]
    return Exercise(completion, exercise.messages + history, exercise.tools)


def _extract(rng: Random) -> Exercise:
    """Facts in a sentence, the same facts in JSON."""
    name, city, age, phrase = any_name(rng), any_name(rng), any_number(rng), any_phrase(rng)
    ask = rng.choice(("Reply in JSON", "Answer in JSON", "Return JSON", "Extract JSON"))
    facts: tuple[tuple[str, dict[str, Any]], ...] = (
        (f"{name} is {age} and lives in {city}.", {"name": name, "age": age, "city": city}),
        (f"{name} lives in {city}.", {"name": name, "city": city}),
        (f"{name} is {age} years old.", {"name": name, "age": age}),
        (f"{name} likes {phrase}.", {"name": name, "likes": phrase}),
    )
    fact, value = rng.choice(facts)
    return _chat(rng, rng.choice((f"{ask}: {fact}", f"{fact} {ask}.")), compact(value))


def _invent(rng: Random) -> Exercise:
    """JSON with nothing to copy: a made-up person."""
    person = {"name": any_name(rng), "age": rng.randint(1, 99), "ok": rng.random() < 0.5}
    questions = ("Reply in JSON", "Reply in JSON.", "Give me a JSON object", "Return a JSON person", "Reply with JSON.")
    return _chat(rng, rng.choice(questions), compact(person))


def _think(rng: Random) -> Exercise:
    word = any_phrase(rng)
    question = rng.choice((f"Think about {word}", f"Reason about {word}", f"Think about {word}."))
    thought = f"The user asks about {word}. I should explain {word}."
    return _chat(rng, question, f"<think>{thought}</think>The {word} is used in a Python module.")


def _repeat(rng: Random, words: Sequence[str]) -> Exercise:
    """Say it again: the drill that copying is learned from. Random words leave nothing to guess."""
    if rng.random() < 0.5:
        said = " ".join(rng.choices(words, k=rng.randint(2, 16)))
    else:
        makers = (any_name, any_name, any_phrase, lambda r: str(any_number(r)))
        said = " ".join(rng.choice(makers)(rng) for _ in range(rng.randint(1, 6)))
    return _chat(rng, rng.choice(("Repeat: {}", "Say {}", "Repeat after me: {}", "Echo {}")).format(said), said)


def _talk(rng: Random) -> Exercise:
    """Greetings, and counting: a completion whose length the caller chooses."""
    if rng.random() < 0.5:
        return _chat(rng, rng.choice(GREETINGS), "Hello! How can I help you?")
    last = rng.randint(2, 30)
    question = rng.choice(("Count to {}", "Count to {}.", "Count from 1 to {}.")).format(last)
    return _chat(rng, question, ", ".join(str(n) for n in range(1, last + 1)) + ".")

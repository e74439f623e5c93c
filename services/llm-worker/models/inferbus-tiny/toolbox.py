"""Tools for the exercises: a fixed set people really ask for, and tools invented on the spot.

A `Tool` knows how it is described to the model, how people ask for it, and which values it takes from the question.
"""

# ruff: noqa: SIM905 - word lists read better as text than as lists of quoted strings

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from names import WORDS, any_name, any_number, any_phrase, invented_name

TYPES = {"name": "string", "phrase": "string", "number": "integer"}
VERBS = "get find show list create delete send read check start stop count update fetch open book".split()
SUBJECTS = [*WORDS, *"user order ticket price flight hotel invoice report page status document".split()]
PLACES = ("city", "location", "place", "town")
INVENTED_SUBJECT_CHANCE = 0.35


@dataclass(frozen=True)
class Tool:
    """One function the model may call. `parameters` maps a parameter to its kind: name, phrase or number."""

    name: str
    description: str
    parameters: dict[str, str]
    questions: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        """Return the OpenAI description of this tool."""
        properties = {key: {"type": TYPES[kind]} for key, kind in self.parameters.items()}
        parameters = {"type": "object", "properties": properties, "required": list(self.parameters)}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def ask(self, rng: Random, name: Callable[[Random], str] = any_name) -> tuple[str, dict[str, Any]]:
        """Return a question and the arguments a right call has. `name` draws the names to copy."""
        draw: dict[str, Callable[[Random], Any]] = {"name": name, "phrase": any_phrase, "number": any_number}
        arguments = {key: draw[kind](rng) for key, kind in self.parameters.items()}
        return rng.choice(self.questions).format(*arguments.values()), arguments


def _weather(place: str) -> tuple[str, ...]:
    return (
        "What is the weather in {}?",
        "weather in {}",
        "How is the weather in {} today?",
        "What's the weather like in {}?",
        "Is it raining in {}?",
        "Check the weather in {} please.",
        "Tell me the weather for {}.",
        f"What is the weather in the {place} {{}}?",
        "What's the weather like in {} right now? Use the tool.",
    )


def known_tools(rng: Random) -> list[Tool]:
    """The fixed set; how a place is called varies, so that parameter names are read and not remembered."""
    place = rng.choice(PLACES)
    weather = rng.choice(("get_weather", "get_weather", "get_current_weather", "weather"))
    about = rng.choice(("Get the weather", "Get the current weather", f"Get the weather for a {place}", "Weather", ""))
    clock = ("What time is it in {}?", "time in {}", "What is the local time in {}?", "Tell me the time in {}.")
    find = ("Search for {}", "Find documents about {}", "search {}", "Look up {} please.")
    total = ("Add {} and {}", "What is {} plus {}?", "What is {} + {}?", "Compute the sum of {} and {}.")
    product = ("Multiply {} by {}", "What is {} times {}?", "What is {} * {}?")
    mail = ("Send an email to {} about {}", "Write to {} about {}", "Email {} about {}")
    flight = ("Book a flight from {} to {}", "I want to fly from {} to {}", "Find a flight from {} to {}.")
    people = ("How many people live in {}?", "What is the population of {}?")
    numbers = {"a": "number", "b": "number"}
    return [
        Tool(weather, about, {place: "name"}, _weather(place)),
        Tool("get_time", f"Get the time in a {place}", {place: "name"}, clock),
        Tool(rng.choice(("search", "search_documents")), "Search documents", {"query": "phrase"}, find),
        Tool(rng.choice(("add", "add_numbers")), "Add two numbers", numbers, total),
        Tool("multiply", "Multiply two numbers", numbers, product),
        Tool("send_email", "Send an email", {"to": "name", "subject": "phrase"}, mail),
        Tool("book_flight", "Book a flight", {"origin": "name", "destination": "name"}, flight),
        Tool("get_population", f"Get the population of a {place}", {place: "name"}, people),
    ]


def invented_tool(rng: Random, *, examination: bool = False) -> Tool:
    """Invent a tool of one or two parameters; in the examination its subject is a word never used in training."""
    verb, subject = rng.choice(VERBS), rng.choice(SUBJECTS)
    if examination or rng.random() < INVENTED_SUBJECT_CHANCE:
        subject = invented_name(rng, examination=examination).lower()
    owner = rng.choice(("name", "user", "id", "title", "key", *PLACES))
    parameters = {owner: "number" if owner == "id" else "name"}
    tail = ""
    if rng.random() < 0.3:
        extra = rng.choice(("days", "count", "limit", "size"))
        parameters[extra], tail = "number", rng.choice((" with %s {}", " and %s {}", ", %s {}")) % extra
    forms = ("{v} the {s} of {{}}{t}", "{v} the {s} for {{}}{t}", "Please {v} {s} {{}}{t}", "{v} {s} {{}}{t}.")
    questions = tuple(form.format(v=verb, s=subject, t=tail) for form in forms)
    questions += tuple(question[0].upper() + question[1:] for question in questions)
    return Tool(f"{verb}_{subject}", rng.choice((f"{verb.capitalize()} the {subject}", "")), parameters, questions)

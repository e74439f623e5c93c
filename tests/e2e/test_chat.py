"""Chats with the ordinary openai client, against a real engine."""

from __future__ import annotations

import json

from openai import OpenAI
from tests.running_platform import CHAT

QUESTION = [{"role": "user", "content": "What does the threading module do?"}]
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
# The bounds are for the model's size: without them it may go on with digits for ever.
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_a_chat_is_answered_whole(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=20)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in {"stop", "length"}
    assert answer.model == CHAT
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 20


def test_a_streamed_chat_says_the_same_as_a_whole_one(client: OpenAI) -> None:
    asked = {"model": CHAT, "messages": QUESTION, "max_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len(chunks) > 5, "it came in pieces"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_a_stream_ends_with_usage_if_asked(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=CHAT, messages=QUESTION, max_tokens=10, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert [chunk.usage for chunk in chunks[:-1] if chunk.usage is not None] == []
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 10


def test_a_tool_is_called_when_the_question_is_for_it(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "What is the weather in Tokyo?"}],
        tools=[WEATHER_TOOL],
        tool_choice="auto",
        temperature=0,
        max_tokens=100,
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)


def test_a_tool_can_be_required(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT, messages=QUESTION, tools=[WEATHER_TOOL], tool_choice="required", temperature=0, max_tokens=100
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments).keys() == {"city"}


def test_a_tool_call_streams(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "What is the weather in Tokyo?"}],
        tools=[WEATHER_TOOL],
        temperature=0,
        max_tokens=100,
        stream=True,
    )
    calls = [call for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert [call.function.name for call in calls if call.function and call.function.name] == ["get_weather"]
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(arguments).keys() == {"city"}


def test_a_tool_result_is_taken(client: OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Tokyo"}'}}
    answer = client.chat.completions.create(
        model=CHAT,
        messages=[
            {"role": "user", "content": "What is the weather in Tokyo?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "22 degrees"},
        ],
        tools=[WEATHER_TOOL],
        max_tokens=30,
    )
    assert answer.choices[0].finish_reason in {"stop", "length", "tool_calls"}


def test_an_answer_follows_its_json_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Reply in JSON: a person."}],
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}},
        temperature=0,
        max_tokens=200,
    )
    person = json.loads(answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert person.keys() == {"name", "age"}
    assert isinstance(person["name"], str)
    assert person["age"] in range(151)


def test_logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT, messages=QUESTION, logprobs=True, top_logprobs=3, max_tokens=5, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert answer.usage is not None
    assert len(logprobs.content or []) == answer.usage.completion_tokens
    for token in logprobs.content or []:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(one.logprob for one in token.top_logprobs), "temperature 0 takes the likeliest"


def test_several_choices(client: OpenAI) -> None:
    asked = {"model": CHAT, "messages": QUESTION, "n": 2, "max_tokens": 8, "temperature": 1}
    answer = client.chat.completions.create(**asked)
    assert sorted(choice.index for choice in answer.choices) == [0, 1]
    streamed = {
        choice.index for chunk in client.chat.completions.create(**asked, stream=True) for choice in chunk.choices
    }
    assert streamed == {0, 1}


def test_stop_strings_end_the_answer(client: OpenAI) -> None:
    asked = {"model": CHAT, "messages": QUESTION, "max_tokens": 40, "temperature": 0}
    text = client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = text[len(text) // 2 :][:3]
    for stream in (False, True):
        answer = client.chat.completions.create(**asked, stop=[stop], stream=stream)
        choices = [choice for chunk in answer for choice in chunk.choices] if stream else answer.choices
        said = "".join((choice.delta if stream else choice.message).content or "" for choice in choices)
        assert said == text[: text.index(stop)]
        assert choices[-1].finish_reason == "stop"


def test_a_seed_makes_an_answer_repeatable(client: OpenAI) -> None:
    def ask(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=CHAT, messages=QUESTION, temperature=1, max_tokens=30, seed=seed, extra_body={"ignore_eos": True}
        )
        return answer.choices[0].message.content

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(4)}) > 1


def test_max_completion_tokens_is_the_newer_name(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT, messages=QUESTION, max_completion_tokens=3, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_the_request_id_comes_back(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=CHAT, messages=QUESTION, max_tokens=3, extra_headers={"X-Request-Id": "my-own-id-1"}
    )
    assert raw.headers["x-request-id"] == "my-own-id-1"
    assert "my-own-id-1" in raw.parse().id


def test_unicode_survives_the_way(client: OpenAI) -> None:
    """A token may be part of a character: the pieces of a stream must still be whole text."""
    asked = {"model": CHAT, "messages": [{"role": "user", "content": "Zürich, 東京, 🚀"}], "temperature": 0}
    whole = client.chat.completions.create(**asked, max_tokens=30).choices[0].message.content
    stream = client.chat.completions.create(**asked, max_tokens=30, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole

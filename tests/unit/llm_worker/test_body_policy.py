from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferbus.errors import InvalidRequest
from inferbus_llm_worker.adapters.vllm.resume_plan import IDS, PLAN
from inferbus_llm_worker.domain.body_policy import BodyLimits, apply_policy, decode_body, take_room

LIMITS = BodyLimits()
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def refused(body: dict[str, Any], limits: BodyLimits = LIMITS) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        apply_policy(body, limits)
    return caught.value


def image(url: object) -> dict[str, Any]:
    return CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


def test_an_ordinary_body_is_left_alone() -> None:
    body = CHAT | {"n": 2, "logprobs": True, "top_logprobs": 20, "cache_salt": "s", "vllm_xargs": {"mine": 1}}
    before = copy.deepcopy(body)
    assert apply_policy(body, LIMITS) is False
    assert body == before


@pytest.mark.parametrize(
    "field", ["kv_transfer_params", "ec_transfer_params", "data_parallel_rank", "request_id", "priority"]
)
def test_internal_fields_are_taken_out(field: str) -> None:
    body = CHAT | {field: {"prompt_token_ids": [1, 2]}}
    assert apply_policy(body, LIMITS) is True
    assert body == CHAT


def test_internal_xargs_are_taken_out_and_others_stay() -> None:
    xargs = {"resume_ids_0": [1], "resume_done_0": ["stop"], "kv_transfer_params": {}, "mine": "stays"}
    body = CHAT | {"vllm_xargs": xargs}
    assert apply_policy(body, LIMITS) is True
    assert body["vllm_xargs"] == {"mine": "stays"}


@given(st.dictionaries(st.sampled_from(["resume_", "resume_ids_0", "resume_x", "RESUME_x", "a"]), st.integers()))
def test_no_resume_key_survives(xargs: dict[str, int]) -> None:
    body = CHAT | {"vllm_xargs": dict(xargs)}
    apply_policy(body, LIMITS)
    assert body["vllm_xargs"] == {k: v for k, v in xargs.items() if not k.startswith("resume_")}


def test_the_names_a_resume_travels_under_are_among_them() -> None:
    body = CHAT | {"vllm_xargs": {IDS: [1], PLAN: "x", "mine": "stays"}}
    assert apply_policy(body, LIMITS) is True
    assert body["vllm_xargs"] == {"mine": "stays"}


@given(st.integers(), st.sampled_from(["n", "best_of"]))
def test_n_is_capped(value: int, field: str) -> None:
    body = CHAT | {field: value}
    if 1 <= value <= LIMITS.max_n:
        assert apply_policy(body, LIMITS) is False
    else:
        assert refused(body).param == field


@given(st.integers(), st.sampled_from(["logprobs", "top_logprobs", "prompt_logprobs"]))
def test_logprobs_are_capped(value: int, field: str) -> None:
    body = CHAT | {field: value}
    if 0 <= value <= LIMITS.max_logprobs:
        assert apply_policy(body, LIMITS) is False
    else:
        assert refused(body).param == field


@pytest.mark.parametrize("value", ["99", 99.0, [3], {"a": 1}, True])
def test_a_capped_number_must_be_a_number(value: object) -> None:
    # vLLM would read "99" and 99.0 as 99.
    assert refused(CHAT | {"n": value}).param == "n"


@pytest.mark.parametrize("value", [True, False, None])
def test_logprobs_of_a_chat_is_a_switch(value: object) -> None:
    assert apply_policy(CHAT | {"logprobs": value}, LIMITS) is False


def test_lists_of_inputs_are_capped_but_token_ids_are_not() -> None:
    assert refused({"input": ["a"] * 2049}).param == "input"
    assert apply_policy({"input": ["a"] * 2048}, LIMITS) is False
    assert apply_policy({"prompt": list(range(5000))}, LIMITS) is False
    assert refused(CHAT | {"logprob_token_ids": list(range(21))}).param == "logprob_token_ids"


BIG = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(4000)}}


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": BIG}}}, "response_format"),
        ({"structured_outputs": {"regex": "a" * 70_000}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "ö" * 40_000}}, "structured_outputs"),
        ({"text": {"format": {"type": "json_schema", "schema": BIG}}}, "text.format"),
        ({"output_config": {"format": {"type": "json_schema", "schema": BIG}}}, "output_config.format"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": BIG}}]}, "tools[0].parameters"),
        ({"tools": [{"name": "f", "input_schema": BIG}]}, "tools[0].input_schema"),
    ],
)
def test_grammars_are_capped(part: dict[str, Any], field: str) -> None:
    assert refused(CHAT | part).param == field
    assert apply_policy(CHAT | part, BodyLimits(max_grammar_bytes=1_000_000)) is False


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/cat.png",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "/etc/passwd",
        "ftp://example.com/x",
        "",
        " data:image/png;base64,AA",
        "https://good.example@evil.example/",
        "https://good.example\\@evil.example/",
        "https://evil.example/good.example",
        "https://good.example.evil.example/",
        "https://good.example\t.evil.example/",
        "http://[good.example/",
    ],
)
def test_remote_media_is_refused(url: str) -> None:
    error = refused(image(url), BodyLimits(media_hosts=frozenset({"good.example"})))
    assert error.param == "messages[0].content[0].image_url"


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,AAAA", "https://good.example/a?b=c#d", "http://GOOD.example:8/x"]
)
def test_data_urls_and_listed_hosts_are_fine(url: str) -> None:
    assert apply_policy(image(url), BodyLimits(media_hosts=frozenset({"good.example"}))) is False


@pytest.mark.parametrize(
    "body",
    [
        CHAT | {"messages": [{"role": "user", "content": [{"image_url": "http://a/b"}]}]},
        CHAT | {"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "http://a"}}]}]},
        CHAT | {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "http://a"}}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://a/b"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://a"}}]}]},
        {"documents": [{"content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]},
        {"documents": {"content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}},
    ],
)
def test_media_is_found_wherever_an_endpoint_takes_it(body: dict[str, Any]) -> None:
    assert refused(body).param


def test_words_that_look_like_media_are_not() -> None:
    call = {
        "type": "tool_use",
        "id": "1",
        "name": "f",
        "input": {"image_url": "http://a", "source": {"url": "http://b"}},
    }
    body = CHAT | {
        "messages": [
            {"role": "user", "content": "see image_url http://example.com"},
            {"role": "assistant", "content": [call]},
        ],
        "metadata": {"image_url": "http://example.com"},
    }
    assert apply_policy(body, LIMITS) is False


def test_content_nested_too_deeply_is_refused() -> None:
    content: Any = "x"
    for _ in range(40):
        content = [content]
    assert "nested" in refused(CHAT | {"messages": [{"role": "user", "content": content}]}).message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(
    [
        "n",
        "logprobs",
        "messages",
        "prompt",
        "input",
        "tools",
        "response_format",
        "structured_outputs",
        "text",
        "vllm_xargs",
    ]
)


@settings(deadline=None)  # nested values take a busy machine its time to draw
@given(st.dictionaries(fields, json_values))
def test_any_json_is_answered_or_passed_never_a_crash(body: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        apply_policy(decode_body(json.dumps(body).encode()), LIMITS)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"{\xff}", b'{"a": NaN}', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_body(body)


@pytest.mark.parametrize(
    ("body", "bound", "room", "after"),
    [
        ({"max_completion_tokens": 4096}, 4096, 2048, {"max_completion_tokens": 2048}),
        ({"max_tokens": 4096}, 4096, 2048, {"max_tokens": 2048}),
        ({"max_completion_tokens": 1024}, 1024, 2048, {"max_completion_tokens": 1024}),
        ({"max_tokens": 5000}, 0, 2048, {"max_tokens": 5000}),
    ],
)
def test_only_a_length_of_the_platform_s_own_gives_way(
    body: dict[str, Any], bound: int, room: int, after: dict[str, Any]
) -> None:
    before = dict(body)
    assert take_room(body, bound, room) == (before != after)
    assert body == after

"""The pure parts of quota: windows, slots, estimates, charges, thresholds, headers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.admission.quota.budgets import passed_percents
from inferbus.admission.quota.headers import rate_head, rate_headers, told_of
from inferbus.admission.quota.settling import charge_of
from inferbus.admission.quota.slots import HOLD_S, claim
from inferbus.admission.quota.tokens import BodyEstimator, Estimate, bounded_as_reserved
from inferbus.admission.quota.windows import DAY, MINUTE, MONTH, SPANS, end_of, window_of
from inferbus.answers.exchange import Exchange, Stored
from inferbus.answers.head_lines import headers_in
from inferbus.contracts.slots import SlotShares
from inferbus.contracts.step import Delta, Failed, Finished, Started, Usage
from inferbus.errors import Cancelled, DeadlineWhileRunning, InferbusError

ESTIMATE = Estimate(100, 50)


def at(*moment: int) -> float:
    return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type]  # year, month, day, ...


@pytest.mark.parametrize(
    ("span", "now", "end"),
    [
        (MINUTE, at(2026, 11, 22, 1, 2, 59), at(2026, 11, 22, 1, 3)),
        (DAY, at(2026, 2, 28, 23, 59), at(2026, 3, 1)),
        (MONTH, at(2026, 12, 1), at(2027, 1, 1)),
        (MONTH, at(2024, 2, 29, 23, 59, 59), at(2024, 3, 1)),
    ],
)
def test_a_window_ends_where_the_calendar_says(span: str, now: float, end: float) -> None:
    assert end_of(span, window_of(span, now)) == end


@given(st.sampled_from(SPANS), st.floats(0, 4e9))
def test_windows_follow_each_other(span: str, now: float) -> None:
    window = window_of(span, now)
    assert now < end_of(span, window)
    assert window_of(span, end_of(span, window)) == window + 1


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.floats(0, 30)), max_size=40),
)
def test_slots_in_hold_never_exceed_the_limit(limit: int, claims: list[tuple[str, int, float]]) -> None:
    shares, now = SlotShares(), 0.0
    for name, need, later in claims:
        now += later
        shares, mine = claim(shares, name, need, limit, now, 3)
        assert mine <= limit
        assert sum(count for count, until in shares.holders.values() if until > now) <= limit
        assert shares.holders.get(name, (0, 0))[0] == mine


def test_slots_of_the_dead_come_back() -> None:
    shares, mine = claim(SlotShares(), "a", 10, 10, 0.0, 2)
    assert mine == 10
    assert claim(shares, "b", 4, 10, HOLD_S - 1, 2)[1] == 0
    assert claim(shares, "b", 4, 10, HOLD_S, 2)[1] == 5, "what it needs, and a fair part of the rest"


@given(st.text(max_size=200), st.integers(0, 1000), st.integers(1, 8))
def test_the_estimate_bounds_bytes_and_asks(text: str, most: int, n: int) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": most, "n": n}).encode()
    estimate = BodyEstimator().estimate("chat", body)
    assert estimate.prompt >= len(text.encode())
    assert estimate.completion == (most or 4096) * n


@pytest.mark.parametrize(
    ("body", "completion"),
    [
        ({}, 16),
        ({"max_completion_tokens": 7, "max_tokens": 9}, 9),
        ({"max_completion_tokens": 0, "max_tokens": 9}, 9),
        ({"max_tokens": "90000"}, 90000),
        ({"max_tokens": 9e4, "n": "2"}, 180_000),
        ({"max_tokens": None}, 4096),
        ({"max_tokens": 0}, 4096),
        ({"max_tokens": 5, "n": 2, "best_of": 4}, 20),
        ({"max_tokens": 5, "prompt": ["a", "b", "c"]}, 15),
        ({"max_tokens": 5, "prompt": [1, 2, 3]}, 5),
        ({"max_tokens": 5, "prompt": [[1], [2, 3]]}, 10),
        ({"max_tokens": -5, "n": True}, 4096),
        ({"max_tokens": "many", "n": [3]}, 4096),
        ({"max_tokens": 1e400}, 4096),
    ],
)
def test_completions_are_bounded_by_what_is_asked(body: dict[str, object], completion: int) -> None:
    assert BodyEstimator().estimate("completions", json.dumps(body).encode()).completion == completion


TEMPLATE, MESSAGE, PROMPT = 64, 16, 4
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def prompt_of(body: dict[str, object], task: str = "chat") -> int:
    return BodyEstimator().estimate(task, json.dumps(body).encode()).prompt


@given(
    st.lists(st.tuples(st.sampled_from(("system", "user", "assistant")), st.text(max_size=80), st.text(max_size=9))),
    st.booleans(),
)
def test_a_chat_is_bounded_by_what_is_read_of_it(messages: list[tuple[str, str, str]], in_parts: bool) -> None:
    written = [
        {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text, "name": name}
        for role, text, name in messages
    ]
    read = sum(len(text.encode()) + len(name.encode()) for _, text, name in messages)
    added = (MESSAGE + (PROMPT if in_parts else 0)) * len(messages) + TEMPLATE
    body = {"model": "m" * 500, "messages": written, "stop": ["x" * 500], "temperature": 0.5, "max_tokens": 7}
    assert prompt_of(body) == read + added


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [TOOL]},
        {"functions": [TOOL]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": "b" * 300}}}},
        {"documents": ["d" * 300]},
        {"chat_template_kwargs": {"k": "v" * 300}},
        {"something_new": "é" * 300},
        {"system": "You are terse."},
    ],
)
def test_what_else_stands_in_a_body_counts_as_it_is_written(more: dict[str, object]) -> None:
    body = {"messages": [{"role": "user", "content": "Hello."}]}
    [(name, value)] = more.items()
    added = prompt_of(body | more) - prompt_of(body)
    assert added >= len(json.dumps(value)) + (256 if name in ("tools", "functions") else 0)


@pytest.mark.parametrize(
    "message",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "é" * 100},
        {"role": "user", "content": [{"type": "text", "text": "x", "more": "y" * 100}]},
        {"role": "user", "content": {"text": "x" * 100}},
        {"role": "r" * 100, "content": ""},
        {"content": "x" * 100},
        "x" * 100,
    ],
)
def test_a_message_of_another_kind_counts_as_it_is_written(message: object) -> None:
    plain = {"role": "user", "content": "Hello."}
    assert prompt_of({"messages": [plain, message]}) >= len(json.dumps([plain, message])) + 2 * MESSAGE + TEMPLATE


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("héllo", 6 + PROMPT),
        (["a", "bcd"], 4 + 2 * PROMPT),
        ([1, 200_000, 3], 3 + PROMPT),
        ([[1, 2], [3]], 3 + 2 * PROMPT),
        ([], 0),
    ],
)
def test_prompts_count_as_their_bytes_and_token_ids_as_themselves(prompt: object, tokens: int) -> None:
    assert prompt_of({"prompt": prompt, "max_tokens": 5}, "completions") == tokens
    assert prompt_of({"input": prompt, "model": "m"}, "embeddings") == tokens


def test_of_a_field_that_comes_twice_the_last_counts_as_it_does_for_engines() -> None:
    body = b'{"prompt":"short","prompt":"%s"}' % (b"x" * 100)
    assert BodyEstimator().estimate("completions", body).prompt == 100 + PROMPT


def test_a_chat_without_a_bound_gets_one() -> None:
    body = b'{"n":2,"messages":[],"max_completion_tokens":null}'
    estimate = BodyEstimator(default_completion=100).estimate("chat", body)
    assert (estimate.completion, estimate.implied) == (200, 100)
    assert json.loads(bounded_as_reserved("chat", body, 100)) == {"n": 2, "messages": [], "max_completion_tokens": 100}
    assert json.loads(bounded_as_reserved("completions", b'{"max_tokens":null}', 7)) == {"max_tokens": 7}
    assert bounded_as_reserved("chat", b"[1]", 100) == b"[1]"
    assert BodyEstimator().estimate("chat", b'{"max_tokens":5}').implied == 0


def test_embeddings_generate_nothing_and_pictures_count() -> None:
    estimator = BodyEstimator(default_completion=10)
    assert estimator.estimate("embeddings", b'{"input":"x"}').completion == 0
    for unreadable in (b"not json", b"[" * 100_000, b'{"prompt":' + b"[" * 100_000):
        assert estimator.estimate("chat", unreadable).completion == 10
        assert bounded_as_reserved("chat", unreadable, 10) == unreadable
    assert estimator.estimate("chat", b'{"messages":[{"type":"image_url"}]}').prompt > 4096


def test_an_inference_costs_its_rows() -> None:
    head = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[100,2],"parameters":{"binary_data_size":800}}]}'
    assert BodyEstimator().estimate("infer", head + bytes(800), len(head)) == Estimate(100, 0)
    assert BodyEstimator().estimate("infer", b"nonsense") == Estimate(1, 0)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [(0, 79, []), (79, 80, [80]), (80, 81, []), (0, 200, [80, 100]), (99, 100, [100]), (100, 500, [])],
)
def test_a_threshold_is_passed_once(before: int, after: int, found: list[int]) -> None:
    assert passed_percents(before, after, 100, (100, 80)) == found


class Standing(msgspec.Struct):
    what: str
    limit: int
    remaining: int
    ends: float

    def reset_s(self, now: float) -> float:
        return self.ends - now


def test_headers_are_of_the_tightest() -> None:
    told = told_of([Standing("tokens", 100, 50, 5.21), Standing("tokens", 1000, 20, 5.21), Standing("", 1, 0, 5.0)])
    told += told_of([Standing("requests", 9, -1, 62)])
    headers = rate_headers(told[::-1], 2.0)
    assert headers == (
        ("x-ratelimit-limit-requests", "9"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "60.0s"),
        ("x-ratelimit-limit-tokens", "1000"),
        ("x-ratelimit-remaining-tokens", "20"),
        ("x-ratelimit-reset-tokens", "3.2s"),
    )


def test_what_remains_is_told_as_it_is_and_the_rest_as_it_was_a_tenth_of_a_second_ago() -> None:
    one, other = Standing("tokens", 100, 50, 9.0), Standing("tokens", 1000, 60, 9.0)
    told = told_of([one, other])
    assert rate_head(told, 1.0).startswith(b"x-ratelimit-limit-tokens: 100\r\nx-ratelimit-remaining-tokens: 50\r\n")
    one.remaining, other.remaining = 49, 7
    assert dict(headers_in(rate_head(told, 1.05))) == {
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "49",
        "x-ratelimit-reset-tokens": "8.0s",
    }
    assert headers_in(rate_head(told, 1.2))[1] == ("x-ratelimit-remaining-tokens", "7")
    assert headers_in(rate_head([], 1.0)) == ()
    other.remaining = 0
    assert rate_headers(told, 1.21)[1] == ("x-ratelimit-remaining-tokens", "0")


def exchange(*, streamed: bool = True, begun: bool = True, accepted: bool = True, tokens: int = 0) -> Exchange:
    made = Exchange(
        request_id="r", tag=1, tenant="dev", pool="m", deadline_s=60, on_close=lambda _: None, streamed=streamed
    )
    if accepted:
        made.accepted(Stored("S", 1))
    if begun:
        made.begin(Started(1, 1, 0, "", "w", "i"))
    if tokens:
        made.feed(Delta(1, 1, 1, [(0, list(range(tokens)))], b"data: {}\n\n"))
    return made


async def test_what_came_to_its_end_costs_what_the_engine_says() -> None:
    done = exchange()
    done.feed(Finished(1, 1, 1, 200, Usage(7, 8), b""))
    done.close()
    assert charge_of(done, ESTIMATE) == Usage(7, 8)


@pytest.mark.parametrize(
    ("options", "charge"),
    [
        ({"begun": False}, Usage()),
        ({"begun": False, "accepted": False}, None),
        ({"tokens": 3}, Usage(100, 3)),
        ({}, Usage(100, 0)),
        ({"streamed": False}, Usage(100, 50)),
    ],
)
async def test_what_its_client_gave_up_costs_what_was_done(options: dict[str, bool], charge: Usage | None) -> None:
    for error in (Cancelled("gone"), DeadlineWhileRunning("late")):
        given_up = exchange(**options)
        given_up.give_up(error)
        assert charge_of(given_up, ESTIMATE) == charge


async def test_what_was_handed_in_counts_though_nobody_waited_for_the_bus_to_have_it() -> None:
    left = exchange(begun=False, accepted=False)
    left.handed_in = True
    left.cancel()
    assert charge_of(left, ESTIMATE) == Usage()
    refused = exchange(begun=False, accepted=False)
    refused.handed_in = True
    refused.refuse(InferbusError("the queue is full"))
    assert charge_of(refused, ESTIMATE) is None


@pytest.mark.parametrize(("tokens", "charge"), [(0, None), (3, Usage(100, 3))])
async def test_what_the_platform_failed_costs_what_was_delivered(tokens: int, charge: Usage | None) -> None:
    failed = exchange(tokens=tokens)
    failed.feed(Failed(1, 1, 2, "engine_dead", "it died"))
    failed.close()
    await asyncio.sleep(0)
    assert charge_of(failed, ESTIMATE) == charge

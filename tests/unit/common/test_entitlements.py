"""Entitlements: what is not open is refused by name, and nothing above a key can be widened below it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.admission.admit import Ask
from inferbus.admission.entitlements import bounded, check_entitled, may_use
from inferbus.admission.identity import Identity
from inferbus.admission.narrowing import identity_of, identity_of_tenant
from inferbus.contracts.directory import Organisation, Team
from inferbus.contracts.keys import KeyEntry
from inferbus.contracts.models import ModelEntry
from inferbus.errors import Forbidden, InvalidRequest

MODEL = ModelEntry(name="org/m", pool="m", aliases=["m"], tags=("small", "chat"))
FREE = Identity(tenant="acme")
NAMES = st.lists(st.sampled_from(["org/m", "m", "tag:small", "tag:big", "other"]), max_size=3).map(tuple)


def ask(body: object = None, **fields: Any) -> Ask:
    data = body if isinstance(body, bytes) else json.dumps(body or {"model": "m"}).encode()
    return Ask(**({"model": "m", "task": "chat", "path": "/v1/chat/completions", "body": data} | fields))


@pytest.mark.parametrize("models", [(), ("org/m",), ("m",), ("tag:small",), ("x", "tag:chat")])
def test_a_model_is_open_by_name_alias_or_tag(models: tuple[str, ...]) -> None:
    assert may_use(Identity(tenant="acme", models=models), MODEL)
    assert may_use(Identity(tenant="acme", within=(models, ())), MODEL)


@pytest.mark.parametrize("models", [("x",), ("tag:big",), ("small",), ("org",), ("tag:",)])
def test_a_model_that_is_not_open_is_named(models: tuple[str, ...]) -> None:
    with pytest.raises(Forbidden, match="org/m") as caught:
        check_entitled(Identity(tenant="acme", models=models), ask(), MODEL)
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("identity", "more", "says"),
    [
        (Identity(tenant="a", endpoints=("embeddings",)), {}, "chat"),
        (Identity(tenant="a", endpoints=("chat",)), {"task": None}, "/v1/chat/completions"),
        (Identity(tenant="a", endpoints=("none",)), {}, "chat"),
        (Identity(tenant="a", lanes=("interactive",)), {"lane": "batch"}, "batch"),
        (Identity(tenant="a", lanes=()), {}, "interactive"),
    ],
)
def test_what_is_not_open_is_named(identity: Identity, more: dict[str, Any], says: str) -> None:
    with pytest.raises(Forbidden, match=says):
        check_entitled(identity, ask(**more), MODEL)


def test_a_lane_that_is_none_is_a_mistake() -> None:
    with pytest.raises(InvalidRequest):
        check_entitled(FREE, ask(lane="fast"), MODEL)


def test_without_a_bound_the_body_is_not_looked_at() -> None:
    request = ask(b"not JSON at all")
    assert check_entitled(FREE, request, MODEL) is request


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"max_tokens": 101}, 101),
        ({"max_completion_tokens": 101}, 101),
        ({"max_tokens": 5, "max_completion_tokens": 5000}, 5000),
        ({"max_tokens": 51, "n": 2}, 102),
        ({"n": 101}, 101),
    ],
)
def test_more_than_allowed_is_refused_with_both_numbers(body: dict[str, Any], asked: int) -> None:
    with pytest.raises(Forbidden) as caught:
        check_entitled(Identity(tenant="a", max_tokens=100), ask(body), MODEL)
    assert str(asked) in caught.value.message
    assert "100" in caught.value.message


@pytest.mark.parametrize("value", ["5000", 5000.0, True, -1, [1], {}])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n"])
def test_what_an_engine_might_read_as_a_number_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        bounded(json.dumps({field: value}).encode(), "chat", 100)
    assert caught.value.param == field


@pytest.mark.parametrize("body", [b"[]", b"{", b"5", b"\xff"])
def test_what_cannot_be_read_is_refused_under_a_bound(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        bounded(body, "chat", 100)


@pytest.mark.parametrize(
    ("task", "body", "field", "tokens"),
    [
        ("chat", {}, "max_completion_tokens", 100),
        ("chat", {"max_completion_tokens": None, "max_tokens": None}, "max_completion_tokens", 100),
        ("chat", {"n": 3}, "max_completion_tokens", 33),
        ("chat", {"max_tokens": 7}, "max_tokens", 7),
        ("completions", {"prompt": "x"}, "max_tokens", 16),
        ("completions", {"prompt": "x", "max_tokens": None}, "max_tokens", 100),
        ("completions", {"prompt": ["x"] * 25}, "max_tokens", 4),
        ("completions", {"prompt": [1, 2, 3], "max_tokens": None}, "max_tokens", 100),
        ("completions", {"prompt": [[1, 2], [3]], "best_of": 5, "max_tokens": None}, "max_tokens", 10),
    ],
)
def test_a_body_that_names_no_length_gets_the_bound(task: str, body: dict[str, Any], field: str, tokens: int) -> None:
    assert json.loads(bounded(json.dumps(body).encode(), task, 100)[0])[field] == tokens


def test_a_field_twice_or_in_disguise_is_seen_as_the_engine_would() -> None:
    twice = bounded(b'{"max_tokens": 5000, "max_tokens": 5, "x": [1.50, "\xc3\xa9"]}', "chat", 100)[0]
    assert twice == b'{"max_tokens":5,"x":[1.50, "\xc3\xa9"]}'
    with pytest.raises(Forbidden):
        bounded(b'{"max_tokens": 5, "max_tok\\u0065ns": 5000}', "chat", 100)


@pytest.mark.parametrize("extra", [{"priority": -9}, {"tenant": "other"}, {"kv_transfer_params": {}}])
def test_a_body_changes_nothing_about_who_asks(extra: dict[str, Any]) -> None:
    identity = Identity(tenant="acme", max_tokens=10, priority=1)
    done = check_entitled(identity, ask({"model": "m"} | extra), MODEL)
    assert (done.lane, done.delivery, done.model) == ("interactive", "reply", "m")


NUMBERS = st.none() | st.integers(0, 40) | st.floats(0, 40) | st.text("0123456789", max_size=2) | st.booleans()
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "n": NUMBERS,
        "best_of": NUMBERS,
        "max_tokens": NUMBERS,
        "max_completion_tokens": NUMBERS,
        "prompt": st.text() | st.lists(st.text(), max_size=5) | st.lists(st.integers(0, 9), max_size=5),
        "other": st.text(),
    },
)


@given(BODIES, st.sampled_from(["chat", "completions"]), st.integers(1, 50))
def test_whatever_is_let_through_cannot_make_more_than_the_bound(body: dict[str, Any], task: str, bound: int) -> None:
    try:
        read = json.loads(bounded(json.dumps(body).encode(), task, bound)[0])
    except (Forbidden, InvalidRequest):
        return
    prompt = read.get("prompt") if task == "completions" else ""
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    answers = max(read.get("n") or 1, read.get("best_of") or 1) * prompts
    given_length = read.get("max_tokens")
    if task == "chat" and read.get("max_completion_tokens") is not None:
        given_length = read["max_completion_tokens"]  # what the engine takes where both are there
    assert given_length is not None, "never unbounded"
    assert given_length * answers <= bound
    assert read.get("other") == body.get("other")


def test_embeddings_have_no_output_to_bound() -> None:
    request = ask(task="embeddings")
    assert check_entitled(Identity(tenant="a", max_tokens=1), request, MODEL) is request


# --- narrowing ----------------------------------------------------------------------------------------------------------

LANES = st.sets(st.sampled_from(["interactive", "batch"])).map(tuple)
TASKS = st.sets(st.sampled_from(["chat", "completions", "embeddings"])).map(tuple)
FIELDS = {"lanes": LANES, "models": NAMES, "endpoints": TASKS, "max_tokens": st.integers(0, 9)}


@given(st.fixed_dictionaries(FIELDS), st.fixed_dictionaries(FIELDS), st.fixed_dictionaries(FIELDS))
def test_a_key_may_do_what_all_above_it_may(key: dict[str, Any], team: dict[str, Any], org: dict[str, Any]) -> None:
    entry = KeyEntry(id="k", tenant="acme", mac="ff", team="red", **key)
    levels = [Organisation(id="acme", tenant="acme", **org), Team(id="red", tenant="acme", **team)]
    both = identity_of(entry, levels)
    alone = [identity_of(entry), *(identity_of_tenant("acme", level) for level in levels)]
    for lane in ("interactive", "batch"):
        for task in ("chat", "completions", "embeddings"):
            request = ask({"max_tokens": 1}, lane=lane, task=task)
            assert is_open(both, request) == all(is_open(one, request) for one in alone)
    bounds = [identity.max_tokens for identity in alone if identity.max_tokens]
    assert both.max_tokens == min(bounds, default=0)


def is_open(identity: Identity, request: Ask) -> bool:
    try:
        check_entitled(msgspec.structs.replace(identity, max_tokens=0), request, MODEL)
    except Forbidden:
        return False
    return True


def test_priority_is_the_least_that_was_said() -> None:
    entry = KeyEntry(id="k", tenant="acme", mac="ff", priority=9)
    assert identity_of(entry, [Organisation(id="acme", tenant="acme", priority=5)]).priority == 5
    assert identity_of(entry, [Organisation(id="acme", tenant="acme")]).priority == 9
    assert identity_of(entry, [Team(id="x", tenant="acme", priority=-1)]).priority == -1

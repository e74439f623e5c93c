"""ModelRegistry: names, aliases and token-safe forms; and entries that could never work."""

from __future__ import annotations

import msgspec
import pytest

from inferbus.contracts.models import Buckets, Limits, ModelEntry
from inferbus.errors import InvalidRequest
from inferbus.models import ModelRegistry, check_entry


class NoBus:
    reconnects = 0


@pytest.fixture
def registry() -> ModelRegistry:
    return ModelRegistry(NoBus())  # type: ignore[arg-type]  # the test plays the watch


def apply(registry: ModelRegistry, entry: ModelEntry) -> ModelEntry:
    registry._on_change(entry.name.replace("/", "_"), msgspec.json.encode(entry))
    return entry


def test_by_name_alias_and_token_safe_form(registry: ModelRegistry) -> None:
    entry = apply(registry, ModelEntry(name="Qwen/Qwen3-0.6B", pool="q", aliases=["gpt-4o", "team/chat"]))
    for name in ("Qwen/Qwen3-0.6B", "Qwen_Qwen3-0_6B", "gpt-4o", "team/chat", "team_chat"):
        assert registry.resolve(name) == entry, name
    assert registry.resolve("other") is None
    assert registry.resolve("") is None


@pytest.mark.parametrize("alias_first", [True, False])
def test_a_name_wins_over_another_s_alias_in_any_order(registry: ModelRegistry, alias_first: bool) -> None:
    owner = ModelEntry(name="chat", pool="a")
    borrower = ModelEntry(name="zz" if alias_first else "aa", pool="b", aliases=["chat"])
    for entry in (borrower, owner) if alias_first else (owner, borrower):
        apply(registry, entry)
    assert registry.resolve("chat") == owner


def test_an_alias_wins_over_a_token_safe_form(registry: ModelRegistry) -> None:
    apply(registry, ModelEntry(name="a/b", pool="one"))
    alias = apply(registry, ModelEntry(name="z", pool="two", aliases=["a_b"]))
    assert registry.resolve("a_b") == alias


def test_changes_and_removals(registry: ModelRegistry) -> None:
    apply(registry, ModelEntry(name="m", pool="one", aliases=["old"]))
    version = registry.version
    changed = apply(registry, ModelEntry(name="m", pool="two", aliases=["new"]))
    assert registry.version > version
    assert registry.resolve("old") is None
    assert registry.resolve("new") == changed
    registry._on_change("m", None)
    assert registry.all() == []
    assert registry.resolve("m") is None


@pytest.mark.parametrize(
    "value", [b"{", b'{"name":"m"}', b'{"name":"m","pool":"p","unknown":1}', b'{"name":"m","pool":"a.>"}']
)
def test_a_bad_entry_changes_nothing(registry: ModelRegistry, value: bytes) -> None:
    """`a.>` would be refused by the server, and with it every stream that comes after it."""
    entry = apply(registry, ModelEntry(name="m", pool="p"))
    version = registry.version
    registry._on_change("m", value)
    registry._on_change("n", value)
    assert registry.all() == [entry]
    assert registry.version == version


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (ModelEntry(name="", pool="p"), "name"),
        (ModelEntry(name="m", pool=""), "pool"),
        (ModelEntry(name="m", pool="a.b"), "pool"),
        (ModelEntry(name="m", pool="p", runtime="l m"), "runtime"),
        (ModelEntry(name="m", pool="p", tasks=("sing",)), "tasks"),
        (ModelEntry(name="m", pool="p", buckets=Buckets(count=0)), "buckets"),
        (ModelEntry(name="m", pool="p", buckets=Buckets(by="moon")), "buckets"),
        (ModelEntry(name="m", pool="p", buckets=Buckets(count=2, pinned={"acme": 2})), "buckets.pinned"),
        (ModelEntry(name="m", pool="p", buckets=Buckets(count=2, weights={"acme": 0})), "buckets.weights"),
        (ModelEntry(name="m", pool="p", limits=Limits(max_pending=0)), "limits"),
    ],
)
def test_what_could_never_work_is_refused_by_field(entry: ModelEntry, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_entry(entry)
    assert caught.value.param == field

"""A collection on its way to another place: what may follow what, and that no order of events loses a document."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inferbus.contracts.vectors import (
    BUILDING,
    CANCELLED,
    CAUGHT_UP,
    DONE,
    DROPPING,
    ENDING,
    SWAPPED,
    CollectionRecord,
    Placement,
    Reindexing,
)
from inferbus.errors import Conflict
from inferbus_vectors.domain.reindexing import (
    ALLOWED,
    advanced,
    begun,
    compare,
    is_open,
    may_drop,
    moved,
    next_generation,
    written_places,
)

OLD, NEW = Placement(model="a", dimension=3), Placement(model="b", dimension=4)
RECORD = CollectionRecord(id="c1", tenant="dev", name="docs", live=OLD, created=1.0)


def on_its_way() -> CollectionRecord:
    return begun(RECORD, NEW, keep_s=30.0, total=10, now=2.0)


def state_of(record: CollectionRecord) -> str:
    assert record.reindexing is not None
    return record.reindexing.state


def test_the_whole_way() -> None:
    record = on_its_way()
    assert written_places(record) == (OLD, NEW)
    record = moved(record, CAUGHT_UP, 3.0)
    assert (record.live, written_places(record)) == (OLD, (OLD, NEW))
    record = moved(record, SWAPPED, 4.0)
    assert (record.live, written_places(record)) == (NEW, (NEW, OLD))
    assert record.reindexing is not None
    assert not may_drop(record.reindexing, 33.0)
    assert may_drop(record.reindexing, 34.0)
    record = moved(record, DROPPING, 34.0)
    assert (record.live, written_places(record)) == (NEW, (NEW,))
    record = moved(record, DONE, 35.0)
    assert not is_open(record.reindexing)


@pytest.mark.parametrize("states", [(), (CAUGHT_UP,), (CAUGHT_UP, SWAPPED)])
def test_ending_it_at_any_time_leaves_the_old_place(states: tuple[str, ...]) -> None:
    record = on_its_way()
    for state in states:
        record = moved(record, state, 3.0)
    record = moved(record, ENDING, 4.0)
    assert record.reindexing is not None
    assert (record.live, record.reindexing.to, written_places(record)) == (OLD, NEW, (OLD,))
    assert not is_open(moved(record, CANCELLED, 5.0).reindexing)


@given(st.sampled_from(sorted(ALLOWED)), st.sampled_from(sorted(ALLOWED)))
def test_nothing_else_may_follow(state: str, other: str) -> None:
    record = msgspec.structs.replace(RECORD, reindexing=Reindexing(to=NEW, state=state))
    if other in ALLOWED[state]:
        assert state_of(moved(record, other, 1.0)) == other
    else:
        with pytest.raises(Conflict):
            moved(record, other, 1.0)


def test_one_at_a_time_and_never_where_it_is() -> None:
    with pytest.raises(Conflict):
        begun(on_its_way(), NEW, keep_s=1.0, total=0, now=3.0)
    assert next_generation(RECORD, "a", 3, "cosine") == msgspec.structs.replace(OLD, generation=2)
    assert next_generation(RECORD, "b", 4, "cosine") == NEW


@given(st.lists(st.tuples(st.text("0123456789abcdef", min_size=1, max_size=4), st.integers(0, 50))))
def test_the_cursor_never_goes_back(steps: list[tuple[str, int]]) -> None:
    reindexing = Reindexing(to=NEW)
    for cursor, done in steps:
        after = advanced(reindexing, cursor, done, 1.0)
        assert after.cursor == max(cursor, reindexing.cursor)
        assert after.done - reindexing.done == (done if cursor > reindexing.cursor else 0)
        reindexing = after
    with pytest.raises(Conflict):
        advanced(msgspec.structs.replace(reindexing, state=CAUGHT_UP), "z", 1, 1.0)


_VERSIONS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 5))


@given(_VERSIONS, _VERSIONS)
def test_mended_differences_leave_none(source: dict[str, int], target: dict[str, int]) -> None:
    differences = compare(source, target)
    mended = {one: version for one, version in target.items() if one not in differences.extra}
    mended |= {one: source[one] for one in differences.stale}
    assert compare(source, mended) == compare(source, source)
    assert mended.keys() == source.keys()


class TwoPlaces(RuleBasedStateMachine):
    """Writers who write both places, one after the other, and a copier who dies and begins again, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.record = on_its_way()
        self.version = 0
        self.old: dict[str, int] = {"a": 0, "b": 0, "c": 0}
        self.gone: dict[str, int] = {}
        self.new: dict[str, int] = {}
        self.new_gone: dict[str, int] = {}
        self.half: list[tuple[str, int, bool]] = []
        self.copied: list[tuple[str, int]] = []

    def _write_new(self, name: str, version: int, *, out: bool = False) -> None:
        if version <= max(self.new.get(name, -1), self.new_gone.get(name, -1)):
            return
        (self.new if not out else self.new_gone)[name] = version
        (self.new_gone if not out else self.new).pop(name, None)

    @rule(name=st.sampled_from("abcd"), out=st.booleans())
    def write_the_first(self, name: str, out: bool) -> None:
        self.version += 1
        if out:
            self.old.pop(name, None)
            self.gone[name] = self.version
        else:
            self.gone.pop(name, None)
            self.old[name] = self.version
        self.half.append((name, self.version, out))

    @precondition(lambda self: self.half)
    @rule(data=st.data())
    def write_the_second(self, data: st.DataObject) -> None:
        name, version, out = self.half.pop(data.draw(st.integers(0, len(self.half) - 1)))
        self._write_new(name, version, out=out)

    @rule()
    def read_a_page(self) -> None:
        self.copied = sorted(self.old.items())[:2]

    @rule()
    def write_the_page(self) -> None:
        for name, version in self.copied:
            self._write_new(name, version)

    @rule()
    def verify(self) -> None:
        while self.half:  # what is half written is of writers who know of both places
            name, version, out = self.half.pop()
            self._write_new(name, version, out=out)
        differences = compare(self.old, self.new)
        for name in differences.stale:
            self._write_new(name, self.old[name])
        for name in differences.extra:
            self.new.pop(name)
        assert self.new == self.old

    @invariant()
    def nothing_is_newer_than_was_written(self) -> None:
        assert all(version <= self.version for version in self.new.values())


TestTwoPlaces = TwoPlaces.TestCase
TestTwoPlaces.settings = settings(max_examples=50, stateful_step_count=20)


def test_states_are_those_of_the_contract() -> None:
    assert set(ALLOWED) >= {BUILDING, CAUGHT_UP, SWAPPED, DROPPING, ENDING, DONE}

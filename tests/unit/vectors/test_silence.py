"""Who hangs, and who is only busy, or was not asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inferbus_vectors.adapters.qdrant_edge.silence import LOOKS, Silence


def looks(silence: Silence, count: int, *, expected: bool = True) -> list[bool]:
    return [silence.looked(expected=expected) for _ in range(count)]


def test_silence_while_something_is_expected_is_hanging() -> None:
    silence = Silence(8.0, 80.0)
    assert looks(silence, LOOKS + 1) == [False] * LOOKS + [True]


def test_whoever_is_asked_nothing_may_be_silent_and_has_all_its_time_afterwards() -> None:
    silence = Silence(8.0, 80.0)
    assert not any(looks(silence, 1000, expected=False))
    assert looks(silence, LOOKS + 1) == [False] * LOOKS + [True]


def test_long_work_has_its_own_time_until_the_next_word() -> None:
    silence = Silence(8.0, 80.0)
    silence.heard(begins_long_work=True)
    assert not any(looks(silence, 80))
    silence.heard()
    assert looks(silence, LOOKS + 1)[-1]


@given(st.lists(st.integers(0, LOOKS), max_size=20))
def test_nobody_hangs_who_says_something_in_time(pauses: list[int]) -> None:
    silence = Silence(1.0, 60.0)
    for pause in pauses:
        assert not any(looks(silence, pause))
        silence.heard()

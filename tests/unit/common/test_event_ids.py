"""Every event of a durable stream has an id, and the part behind any id is exactly the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.durable.event_ids import EventId, events_from, parse_event_id, with_ids
from inferbus.errors import InvalidRequest

STORY = 77
events = st.lists(st.sampled_from([b"data: a", b'data: {"x":"1"}', b"event: e\ndata: b", b"data: [DONE]"]), max_size=4)


def raw(delta: list[bytes]) -> bytes:
    return b"".join(event + b"\n\n" for event in delta)


@given(st.lists(events, max_size=8))
def test_any_place_gives_exactly_the_rest(deltas: list[list[bytes]]) -> None:
    stored = b"".join(with_ids(STORY, k, raw(delta)) for k, delta in enumerate(deltas))
    places = [(k, i) for k, delta in enumerate(deltas) for i in range(len(delta))]
    assert events_from(stored, 0, 0) == stored
    for n, (k, i) in enumerate(places):
        rest = events_from(stored, k, i + 1)
        assert rest.count(b"id: ") == len(places) - n - 1
        assert stored.endswith(rest)
        live = with_ids(STORY, k, raw(deltas[k]), begin=i + 1)
        live += b"".join(with_ids(STORY, later, raw(deltas[later])) for later in range(k + 1, len(deltas)))
        assert live == rest, "read live or from the outcome, it is the same bytes"


def test_the_events_themselves_are_untouched() -> None:
    assert with_ids(STORY, 3, b"data: a\n\ndata: b\n\n") == b"id: 3.0.77\ndata: a\n\nid: 3.1.77\ndata: b\n\n"
    assert with_ids(STORY, 3, b"") == b""


def test_an_id_is_read_as_it_was_written() -> None:
    assert parse_event_id(" 3.1.77 ") == EventId(3, 1, 77)


@pytest.mark.parametrize("text", ["", "3", "3.1", "3.1.x", "-1.0.1", "3.1.77.0", "99999999999999.0.1", "3.1.77\n4"])
def test_other_ids_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_event_id(text)
    assert caught.value.param == "Last-Event-ID"

"""Event ids: the place of every server-sent event of a durable stream, so that a client can say what it has.

`<k>.<i>.<story>`: delta k of the answer, event i in it, and which story of the answer it is (contracts/durable.py), all
in decimal. A client treats it as opaque and sends it back as `Last-Event-ID`.
"""

from __future__ import annotations

import re

import msgspec

from inferbus.errors import InvalidRequest

_FORM = re.compile(r"(\d{1,12})\.(\d{1,9})\.(\d{1,12})")
_END = b"\n\n"


class EventId(msgspec.Struct, frozen=True, order=True):
    """Compared by place only within one story."""

    k: int
    i: int
    story: int


def parse_event_id(text: str) -> EventId:
    """Read what a client sent.

    Raises:
        InvalidRequest: it is none of ours.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest(f"Last-Event-ID {text[:64]!r} is no id of this platform's events", param="Last-Event-ID")
    return EventId(*(int(part) for part in found.groups()))


def with_ids(story: int, k: int, data: bytes, *, begin: int = 0) -> bytes:
    """Put ids on the events of delta `k`, and leave out those before event `begin`."""
    events = data.split(_END)
    events.pop()  # behind the last event's end is nothing
    return b"".join([b"id: %d.%d.%d\n%s\n\n" % (k, i, story, event) for i, event in enumerate(events) if i >= begin])


def events_from(stored: bytes, k: int, begin: int) -> bytes:
    """Give the part of a stored stream that begins at event `begin` of delta `k`, or at the first after it."""
    at = 0
    while at < len(stored):
        line_end = stored.index(b"\n", at)
        delta, event, _ = stored[at + 4 : line_end].split(b".")
        if (int(delta), int(event)) >= (k, begin):
            return stored[at:]
        at = stored.index(_END, line_end) + len(_END)
    return b""

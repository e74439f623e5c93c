"""Tickets: the header says it all, or is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.bus.tickets import Ticket, ticket_from
from inferbus.errors import InvalidRequest

HEX = st.text("0123456789abcdef", min_size=1, max_size=64)


@given(st.builds(Ticket, id=HEX, first_seq=st.integers(1), chunks=st.integers(1), size=st.integers(1), sha256=HEX))
def test_round_trip(ticket: Ticket) -> None:
    assert ticket_from(ticket.to_header()) == ticket


@pytest.mark.parametrize("header", ["", "x", "a;1;2;3", "a;1;2;3;h;more", "a;one;2;3;h", "a;1;2;;h"])
def test_a_malformed_header_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest, match="ticket"):
        ticket_from(header)

"""The envelope: whatever is written is read back; anything else is refused for the right reason."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.contracts.envelope import HEADERS, WIRE_VERSION, Envelope, UnknownVersion, envelope_from, headers_of
from inferbus.errors import InvalidRequest

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp", "Cs"]), max_size=30)
SMALLEST = Envelope(request_id="r", tag_no=7, asker="a", path="/v1/chat/completions", deadline_ms=1000)


@given(
    st.builds(
        Envelope,
        request_id=TEXT.filter(bool),
        tag_no=st.integers(1, 2**53),
        asker=TEXT.filter(bool),
        path=TEXT.filter(bool),
        deadline_ms=st.integers(0, 86_400_000),
        streamed=st.booleans(),
        content_type=TEXT.filter(bool),
        key_id=TEXT,
        price_version=TEXT,
        traceparent=TEXT,
        delivery=st.sampled_from(["reply", "durable"]),
        idempotency_key=TEXT,
        ticket=TEXT,
    )
)
def test_round_trip(envelope: Envelope) -> None:
    assert envelope_from(headers_of(envelope)) == envelope


def test_headers_are_named_in_the_order_of_the_fields_they_are_written_in() -> None:
    assert tuple(HEADERS.values()) == Envelope.__struct_fields__


def test_nothing_is_left_out_where_it_is_empty() -> None:
    assert "Ib-Content-Type" not in headers_of(msgspec.structs.replace(SMALLEST, content_type=""))


def test_defaults_are_left_out() -> None:
    assert set(headers_of(SMALLEST)) == {"Ib-Version", "Ib-Request", "Ib-Tag", "Ib-Asker", "Ib-Path", "Ib-Deadline-Ms"}


def test_headers_of_others_are_ignored() -> None:
    assert envelope_from(headers_of(SMALLEST) | {"Nats-Msg-Id": "x", "Ib-Of-Tomorrow": "y"}) == SMALLEST


@pytest.mark.parametrize("name", ["Ib-Request", "Ib-Tag", "Ib-Asker", "Ib-Path", "Ib-Deadline-Ms"])
def test_a_missing_header_is_named(name: str) -> None:
    headers = headers_of(SMALLEST)
    del headers[name]
    with pytest.raises(InvalidRequest, match=name):
        envelope_from(headers)


@pytest.mark.parametrize("name", ["Ib-Tag", "Ib-Deadline-Ms"])
def test_numbers_are_numbers(name: str) -> None:
    with pytest.raises(InvalidRequest, match="unreadable"):
        envelope_from(headers_of(SMALLEST) | {name: "soon"})


@pytest.mark.parametrize("headers", [None, {}])
def test_no_headers_at_all(headers: dict[str, str] | None) -> None:
    with pytest.raises(InvalidRequest, match="without headers"):
        envelope_from(headers)


def test_a_later_version_is_for_another_worker() -> None:
    later = str(int(WIRE_VERSION) + 1)
    with pytest.raises(UnknownVersion, match=later):
        envelope_from(headers_of(SMALLEST) | {"Ib-Version": later})


@pytest.mark.parametrize("version", ["", "one", "-1", "1.0"])
def test_no_version_at_all_is_malformed(version: str) -> None:
    with pytest.raises(InvalidRequest, match="Ib-Version"):
        envelope_from(headers_of(SMALLEST) | {"Ib-Version": version})

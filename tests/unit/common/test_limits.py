"""What the server would hang up on is refused here: it counts headers and subjects, nats-py does not."""

from __future__ import annotations

import pytest

from inferbus.bus.connection import Connection
from inferbus.bus.sizes import MAX_PAYLOAD_BYTES, MAX_SUBJECT_BYTES, check_size
from inferbus.errors import TooLarge


def size_of(payload: int, headers: dict[str, str]) -> int:
    return payload + (len(Connection().block_of(headers)) if headers else 0)


@pytest.mark.parametrize(
    ("size", "headers"),
    [
        (0, {}),
        (MAX_PAYLOAD_BYTES, {}),
        (MAX_PAYLOAD_BYTES - 1024, {"Ib-Request": "r" * 100}),
        (MAX_PAYLOAD_BYTES - 5_000_000, {"Ib-Request": "r" * 4_000_000}),
    ],
)
async def test_fits(size: int, headers: dict[str, str]) -> None:
    check_size("a.b", size_of(size, headers))


@pytest.mark.parametrize(
    ("size", "headers"),
    [
        (MAX_PAYLOAD_BYTES + 1, {}),
        (MAX_PAYLOAD_BYTES, {"A": "b"}),
        (MAX_PAYLOAD_BYTES - 200, {"Ib-Request": "r" * 300}),
        (0, {"Ib-Request": "r" * MAX_PAYLOAD_BYTES}),
        (0, {"Ib-Request": "ä" * (MAX_PAYLOAD_BYTES // 2)}),
    ],
)
async def test_is_refused_with_both_numbers(size: int, headers: dict[str, str]) -> None:
    with pytest.raises(TooLarge, match=str(MAX_PAYLOAD_BYTES)):
        check_size("a.b", size_of(size, headers))


def test_subjects_have_a_limit_in_bytes() -> None:
    check_size("a" * MAX_SUBJECT_BYTES, 0)
    for subject in ("a" * (MAX_SUBJECT_BYTES + 1), "ä" * (MAX_SUBJECT_BYTES // 2 + 1)):
        with pytest.raises(TooLarge, match=str(MAX_SUBJECT_BYTES)):
            check_size(subject, 0)

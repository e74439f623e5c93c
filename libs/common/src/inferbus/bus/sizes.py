"""Limits: how large a message and a subject may be. What the server would hang up on is refused before it is sent."""

from __future__ import annotations

from inferbus.errors import TooLarge

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
"""The server's `max_payload`: headers and body together."""

MAX_SUBJECT_BYTES = 1024
"""Ours, below the server's bound of 4 KiB on subject, reply and sizes together."""


def check_size(subject: str, size: int) -> None:
    """Refuse what the server would answer by hanging up. It counts headers, which nats-py does not: `size` is of the block of
    headers and the payload together.

    Raises:
        TooLarge: the message has both numbers.
    """
    if len(subject) > MAX_SUBJECT_BYTES // 4 and len(subject.encode()) > MAX_SUBJECT_BYTES:
        raise TooLarge(f"subject of {len(subject.encode())} bytes, the bus takes at most {MAX_SUBJECT_BYTES}")
    if size > MAX_PAYLOAD_BYTES:
        raise TooLarge(f"message of {size} bytes with its headers, the bus takes at most {MAX_PAYLOAD_BYTES}")

"""Limits: how large a message and a subject may be. What the server would hang up on is refused before it is sent."""

from __future__ import annotations

from inferbus.errors import TooLarge

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
"""The server's `max_payload`: headers and body together."""

MAX_SUBJECT_BYTES = 1024
"""Ours, below the server's bound of 4 KiB on subject, reply and sizes together."""

_HEADER_FRAME_BYTES = 128  # "NATS/1.0", the line ends, and the rounding of the estimate for few headers


def check_size(subject: str, data: bytes, headers: dict[str, str] | None) -> None:
    """Refuse what the server would answer by hanging up: it counts headers, which nats-py does not.

    Raises:
        TooLarge: the message has both numbers.
    """
    if len(subject) > MAX_SUBJECT_BYTES // 4 and len(subject.encode()) > MAX_SUBJECT_BYTES:
        raise TooLarge(f"subject of {len(subject.encode())} bytes, the bus takes at most {MAX_SUBJECT_BYTES}")
    size = len(data)
    if headers:
        size += (sum(map(len, headers)) + sum(map(len, headers.values()))) * 4  # at most; bytes are counted below
    if size <= MAX_PAYLOAD_BYTES - _HEADER_FRAME_BYTES:
        return
    if headers:
        size = len(data) + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
        size += _HEADER_FRAME_BYTES
    if size > MAX_PAYLOAD_BYTES:
        raise TooLarge(f"message of {size} bytes with its headers, the bus takes at most {MAX_PAYLOAD_BYTES}")

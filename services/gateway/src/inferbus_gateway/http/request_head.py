"""What the door reads from request headers."""

from __future__ import annotations

import os

import msgspec

from inferbus.errors import InvalidRequest
from inferbus.routes import INTERACTIVE, LANES, is_request_id

REQUEST_ID = b"x-request-id"
DEADLINE_MS = b"x-inferbus-deadline-ms"
LANE = b"x-inferbus-lane"

_LANES = {lane.encode(): lane for lane in LANES}


class RequestHead(msgspec.Struct, frozen=True):
    """Headers, decoded. `deadline_s` is what the client is willing to wait, None = the model's default."""

    authorization: str | None
    lane: str
    deadline_s: float | None
    traceparent: str
    content_length: int | None


def request_id_from(headers: dict[bytes, bytes]) -> str:
    """Take the client's request id if it can be one, else make a new one."""
    given = headers.get(REQUEST_ID)
    if given is not None:
        name = given.decode("latin-1")
        if is_request_id(name):
            return name
    return os.urandom(16).hex()


def read_head(headers: dict[bytes, bytes]) -> RequestHead:
    """Read what routing needs.

    Raises:
        InvalidRequest: a header of ours is unusable; `param` names it.
    """
    authorization = headers.get(b"authorization")
    length = headers.get(b"content-length")
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise InvalidRequest(
            f"content-encoding {encoding.decode('latin-1')} is not supported", param="Content-Encoding"
        )
    return RequestHead(
        None if authorization is None else authorization.decode("latin-1"),
        _lane_of(headers.get(LANE)),
        _deadline_of(headers.get(DEADLINE_MS)),
        headers.get(b"traceparent", b"").decode("latin-1"),
        int(length) if length is not None and length.isdigit() else None,
    )


def _lane_of(value: bytes | None) -> str:
    if value is None:
        return INTERACTIVE
    lane = _LANES.get(value)
    if lane is None:
        raise InvalidRequest(f"lane {value.decode('latin-1')!r} is none of {', '.join(LANES)}", param="X-Inferbus-Lane")
    return lane


def _deadline_of(value: bytes | None) -> float | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12 or int(value) == 0:
        raise InvalidRequest("the deadline is a positive number of milliseconds", param="X-Inferbus-Deadline-Ms")
    return int(value) / 1000

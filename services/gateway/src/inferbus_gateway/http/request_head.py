"""What the door reads from request headers."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from inferbus.durable.event_ids import EventId, parse_event_id
from inferbus.errors import InvalidRequest
from inferbus.routes import INTERACTIVE, LANES, is_request_id

REQUEST_ID = b"x-request-id"
DEADLINE_MS = b"x-inferbus-deadline-ms"
LANE = b"x-inferbus-lane"
DURABLE = b"x-inferbus-durable"
IDEMPOTENCY_KEY = b"idempotency-key"
LAST_EVENT_ID = b"last-event-id"

_MAX_KEY = 255
_FLAGS = {b"true": True, b"1": True, b"false": False, b"0": False}

_LANES = {lane.encode(): lane for lane in LANES}


class RequestHead(msgspec.Struct, frozen=True):
    """Headers, decoded. `deadline_s` is what the client is willing to wait, None = the model's default. `durable`: the
    answer is to be kept; an idempotency key asks for that too."""

    authorization: str | None
    lane: str
    deadline_s: float | None
    traceparent: str
    content_length: int | None
    durable: bool = False
    idempotency_key: str = ""


def request_id_from(headers: dict[bytes, bytes]) -> str:
    """Take the client's request id if it can be one, else make a new one."""
    given = headers.get(REQUEST_ID)
    if given is not None:
        name = given.decode("latin-1")
        if is_request_id(name):
            return name
    return f"{random.getrandbits(128):032x}"  # no secret: it is told, and means nothing without a key


def read_head(headers: dict[bytes, bytes], encodings: Sequence[bytes] = ()) -> RequestHead:
    """Read what routing needs. `encodings`: those of the body that this path takes.

    Raises:
        InvalidRequest: a header of ours is unusable; `param` names it.
    """
    authorization = headers.get(b"authorization")
    length = headers.get(b"content-length")
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() not in (b"identity", *encodings):
        raise InvalidRequest(
            f"content-encoding {encoding.decode('latin-1')} is not supported", param="Content-Encoding"
        )
    return RequestHead(
        None if authorization is None else authorization.decode("latin-1"),
        _lane_of(headers.get(LANE)),
        _deadline_of(headers.get(DEADLINE_MS)),
        headers.get(b"traceparent", b"").decode("latin-1"),
        int(length) if length is not None and length.isdigit() else None,
        *_durability_of(headers),
    )


def event_id_from(headers: dict[bytes, bytes]) -> EventId | None:
    """Read `Last-Event-ID`.

    Raises:
        InvalidRequest: it is none of ours.
    """
    value = headers.get(LAST_EVENT_ID)
    return None if value is None else parse_event_id(value.decode("latin-1"))


def _durability_of(headers: dict[bytes, bytes]) -> tuple[bool, str]:
    if DURABLE not in headers and IDEMPOTENCY_KEY not in headers:
        return False, ""
    flag = headers.get(DURABLE, b"true")
    if flag.lower() not in _FLAGS:
        raise InvalidRequest("use true or false", param="X-Inferbus-Durable")
    key = headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return _FLAGS[flag.lower()], ""
    name = key.decode("latin-1").strip()
    if not name or len(name) > _MAX_KEY or not name.isascii() or not name.isprintable():
        raise InvalidRequest(f"1 to {_MAX_KEY} printable ASCII characters", param="Idempotency-Key")
    return True, name


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

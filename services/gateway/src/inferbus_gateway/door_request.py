"""What the bus door reads of a producer's request: the model, what is to be done with it, and whether it streams. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from inferbus.codec import from_json
from inferbus.contracts import door
from inferbus.errors import InvalidRequest, Unsupported
from inferbus.kserve.paths import GENERATE_STREAM, INFERENCE, parse_path
from inferbus.kserve.request import check_framing
from inferbus.worker import tasks

_TASKS = {tasks.CHAT: "chat", tasks.COMPLETIONS: "completions", tasks.EMBEDDINGS: "embeddings"}
_INFER_PATH = "/v2/models/<model>/infer"


class DoorRequest(NamedTuple):
    """`json_bytes` as in `Ask`."""

    model: str
    task: str
    streamed: bool
    json_bytes: int = 0


class _Body(msgspec.Struct):
    model: str
    stream: bool = False


def read_request(path: str, headers: Mapping[str, str], data: bytes) -> DoorRequest:
    """Read what routing needs; everything is passed on as it came.

    Raises:
        Unsupported: no such path. InvalidRequest: the body or a header cannot be read; `param` names it.
    """
    parsed = parse_path(path)
    if parsed is not None and parsed.verb in INFERENCE:
        json_bytes = _json_bytes(headers.get(door.JSON_BYTES, "0"))
        check_framing(data, json_bytes)
        return DoorRequest(parsed.model, tasks.INFER, parsed.verb == GENERATE_STREAM, json_bytes)
    task = _TASKS.get(path)
    if task is None:
        raise Unsupported(f"{door.PATH} {path!r}: use one of {', '.join((*_TASKS, _INFER_PATH))}", param=door.PATH)
    body = from_json(data, _Body, what="body")
    return DoorRequest(body.model, task, body.stream)


def _json_bytes(value: str) -> int:
    if not value.isdigit() or len(value) > 12:
        raise InvalidRequest(f"{door.JSON_BYTES} is a number of bytes", param=door.JSON_BYTES)
    return int(value)

"""Lines of a batch's input: what one asks for, or what is wrong with it; and the lines that answer them. Pure."""

from __future__ import annotations

import msgspec

from inferbus.contracts.batch import ENDPOINTS, DeadRow, LineFault
from inferbus.errors import InvalidRequest, TooLarge
from inferbus.kserve.paths import INFER, parse_path
from inferbus.vectors.paths import BATCHED, collection_of

_BOM = b"\xef\xbb\xbf"
_MAX_CUSTOM_ID = 512
_INFER = "/v2/models/infer"
EXPIRED_LINE, CANCELLED_LINE, FAILED_LINE = "batch_expired", "batch_cancelled", "batch_failed"
"""Codes of lines that were not asked, since their job ended early."""
_NULL = msgspec.Raw(b"null")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line that can be asked. `body` is passed on as it is, but for a model the job named in its place. `model` empty: the
    line is about a collection, which its path names."""

    line: int
    custom_id: str
    path: str
    task: str
    model: str
    body: bytes


class _Line(msgspec.Struct):
    custom_id: str
    url: str
    body: msgspec.Raw
    method: str = "POST"


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None


class _Id(msgspec.Struct):
    custom_id: str | None = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_id = msgspec.json.Decoder(_Id).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def custom_id_of(data: bytes) -> str | None:
    """Read what a line is called, as far as it can be read."""
    try:
        return _decode_id(data.removeprefix(_BOM)).custom_id
    except _UNREADABLE:
        return None


def check_line(number: int, data: bytes, *, endpoint: str, model: str = "") -> Row | LineFault:
    """Say what a line asks for, or what is wrong with it. `model` is for lines that name none."""
    try:
        line = _decode_line(data.removeprefix(_BOM))
        body = _decode_body(line.body)
    except _UNREADABLE as exc:
        return LineFault(number, InvalidRequest.code, f"line {number}: {exc}")
    why = _fault_of(line, body, endpoint)
    if why:
        return LineFault(number, InvalidRequest.code, f"line {number}: {why}")
    raw, named = bytes(line.body), body.model or ""
    if endpoint == _INFER:
        named = parse_path(line.url).model  # type: ignore[union-attr]  # _fault_of has looked
    elif endpoint in BATCHED:
        named = ""
    elif not named:
        if not model:
            return LineFault(number, InvalidRequest.code, f"line {number}: body.model is missing")
        named, raw = model, _with_model(raw, model)
    return Row(
        line=number, custom_id=line.custom_id, path=line.url, task=ENDPOINTS[endpoint], model=named, body=raw
    )  # fmt: skip


def _fault_of(line: _Line, body: _Body, endpoint: str) -> str:
    if not 0 < len(line.custom_id) <= _MAX_CUSTOM_ID:
        return f"custom_id has 1 to {_MAX_CUSTOM_ID} characters"
    if line.method != "POST":
        return f"method is {line.method[:20]!r}, POST is the only one"
    if endpoint == _INFER:
        path = parse_path(line.url)
        if path is None or path.verb != INFER:
            return f"url is {line.url[:80]!r}, this batch takes /v2/models/<model>/infer"
    elif endpoint in BATCHED:
        if not collection_of(line.url, BATCHED[endpoint]):
            return f"url is {line.url[:80]!r}, this batch takes /v1/vectors/<collection>/{BATCHED[endpoint]}"
    elif line.url != endpoint:
        return f"url is {line.url[:80]!r}, this batch's endpoint is {endpoint}"
    return "a batch cannot stream" if body.stream else ""


def _with_model(body: bytes, model: str) -> bytes:
    """Put a model into a JSON object that names none, or null."""
    fields: dict[str, msgspec.Raw] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({"model": model} | {key: value for key, value in fields.items() if key != "model"})


def overlong(number: int, size: int, limit: int) -> LineFault:
    return LineFault(number, TooLarge.code, f"line {number} has {size} bytes, the limit is {limit} bytes")


def duplicate(number: int, custom_id: str) -> LineFault:
    return LineFault(number, InvalidRequest.code, f"line {number}: custom_id {custom_id[:80]!r} was used before")


# --- answers --------------------------------------------------------------------------------------------------------


class Answered(msgspec.Struct, frozen=True):
    """What an engine, or admission, said to a line."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class LineError(msgspec.Struct, frozen=True):
    code: str
    message: str


class ResultLine(msgspec.Struct, frozen=True):
    """A line of the output or error file, as the OpenAI API has it."""

    id: str
    custom_id: str | None
    response: Answered | None
    error: LineError | None


_encode = msgspec.json.Encoder().encode


def output_line(custom_id: str, request_id: str, status: int, body: bytes) -> bytes:
    """Write the line of one that was answered, its end included."""
    answered = Answered(status, request_id, json_of(body))
    return _encode(ResultLine(_id_of(request_id), custom_id, answered, None)) + b"\n"


def error_line(dead: DeadRow) -> bytes:
    """Write the line of a dead letter: what was answered, or why nobody was asked."""
    if dead.status:
        line = ResultLine(
            _id_of(dead.request_id), dead.custom_id, Answered(dead.status, dead.request_id, dead.body), None
        )
    else:
        line = ResultLine(_id_of(dead.request_id), dead.custom_id, None, LineError(dead.code, dead.message))
    return _encode(line) + b"\n"


def json_of(body: bytes) -> msgspec.Raw:
    """Give an answer as JSON on one line; one that is not JSON becomes a string."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except _UNREADABLE:
        return msgspec.Raw(_encode(body.decode(errors="replace"))) if body else _NULL
    return msgspec.Raw(msgspec.json.format(body, indent=-1) if b"\n" in body else body)


def _id_of(request_id: str) -> str:
    return f"batch_req_{request_id.removeprefix('batch_')}"

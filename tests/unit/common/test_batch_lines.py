"""Lines of a batch: split in little memory, understood or refused, and answered on one line each."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.batch.lines import Row, check_line, custom_id_of, error_line, json_of, output_line
from inferbus.batch.splitting import Line, LineSplitter
from inferbus.contracts.batch import DeadRow, LineFault

CHAT = "/v1/chat/completions"


def split(data: bytes, sizes: list[int], limit: int = 1000) -> list[Line]:
    splitter, found, start = LineSplitter(limit), [], 0
    for size in (*sizes, len(data)):
        found += splitter.feed(data[start : start + size])
        start += size
    return [*found, *splitter.finish()]


@given(st.lists(st.binary(max_size=30)), st.booleans(), st.lists(st.integers(0, 20), max_size=40), st.integers(1, 12))
def test_however_it_comes_in_pieces_the_lines_are_the_same(
    parts: list[bytes], has_end: bool, sizes: list[int], limit: int
) -> None:
    data = b"\n".join(part.replace(b"\n", b"") for part in parts) + (b"\n" if has_end and parts else b"")
    found = split(data, sizes, limit)
    wanted = data.split(b"\n")
    if wanted[-1] == b"":
        wanted.pop()
    assert [line.data for line in found] == [one if len(one) <= limit else None for one in wanted]
    assert [line.number for line in found] == list(range(1, len(wanted) + 1))
    assert sum(line.size for line in found) == len(data)
    for line, one in zip(found, wanted, strict=True):
        assert data[line.offset : line.offset + line.size].removesuffix(b"\n") == one


def test_a_line_of_any_length_is_not_kept() -> None:
    splitter, block = LineSplitter(1000), b"x" * 65_536
    for _ in range(1000):
        assert list(splitter.feed(block)) == []
        assert splitter._parts == []
    (line, short) = splitter.feed(b"\nshort\n")
    assert (line.size, line.data) == (65_536_001, None)
    assert (short.offset, short.data) == (65_536_001, b"short")


def line(**changes: object) -> bytes:
    fields = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m", "x": 1}} | changes
    return json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()


def test_a_good_line_is_passed_on_as_it_is() -> None:
    row = check_line(7, line(), endpoint=CHAT)
    assert row == Row(line=7, custom_id="a", path=CHAT, task="chat", model="m", body=b'{"model": "m", "x": 1}')
    assert check_line(7, b"\xef\xbb\xbf" + line(), endpoint=CHAT) == row


def test_the_job_names_a_model_for_lines_that_do_not() -> None:
    for body in ({"x": 1}, {"model": None, "x": 1}):
        row = check_line(1, line(body=body), endpoint=CHAT, model="q")
        assert isinstance(row, Row)
        assert (row.model, json.loads(row.body)) == ("q", {"model": "q", "x": 1})
    row = check_line(1, line(), endpoint=CHAT, model="q")
    assert isinstance(row, Row)
    assert row.model == "m"


def test_kserve_names_the_model_in_the_path() -> None:
    row = check_line(1, line(url="/v2/models/r/infer", body={"inputs": []}), endpoint="/v2/models/infer")
    assert isinstance(row, Row)
    assert (row.model, row.task, row.path) == ("r", "infer", "/v2/models/r/infer")
    assert isinstance(check_line(1, line(url="/v2/models/r/ready"), endpoint="/v2/models/infer"), LineFault)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 100_000, "line 3"),
        (line(custom_id=...), "custom_id"),
        (line(custom_id=""), "custom_id has 1"),
        (line(custom_id="x" * 600), "custom_id has 1"),
        (line(custom_id=5), "custom_id"),
        (line(method="GET"), "POST is the only one"),
        (line(url="/v1/embeddings"), "this batch's endpoint is"),
        (line(body=...), "body"),
        (line(body=[1]), "object"),
        (line(body={"x": 1}), "body.model is missing"),
        (line(body={"model": 5}), "model"),
        (line(body={"model": "m", "stream": True}), "cannot stream"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(data: bytes, says: str) -> None:
    fault = check_line(3, data, endpoint=CHAT)
    assert isinstance(fault, LineFault)
    assert (fault.line, fault.code) == (3, "invalid_request")
    assert says in fault.message


@given(st.binary(max_size=60))
def test_no_bytes_break_it(data: bytes) -> None:
    custom_id_of(data)
    assert isinstance(check_line(1, data, endpoint=CHAT), LineFault | Row)
    assert json.loads(bytes(msgspec.json.encode(json_of(data)))) is not ...


def test_answers_are_lines_as_openai_has_them() -> None:
    assert json.loads(output_line("a", "batch_1-3", 200, b'{"x":\n 1}')) == {
        "id": "batch_req_1-3", "custom_id": "a", "error": None,
        "response": {"status_code": 200, "request_id": "batch_1-3", "body": {"x": 1}},
    }  # fmt: skip
    assert output_line("a", "r", 200, b'{"x":\n 1}').count(b"\n") == 1
    answered = DeadRow(
        line=1, custom_id="a", request_id="r", code="http_400", message="m", status=400, body=json_of(b"no")
    )
    assert json.loads(error_line(answered))["response"] == {"status_code": 400, "request_id": "r", "body": "no"}
    unasked = DeadRow(line=1, custom_id=None, request_id="r", code="batch_expired", message="m")
    assert json.loads(error_line(unasked)) == {
        "id": "batch_req_r", "custom_id": None, "response": None, "error": {"code": "batch_expired", "message": "m"},
    }  # fmt: skip

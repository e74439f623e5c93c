from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from inferbus.batch.http_api import ApiBatch, ApiCounts, ApiPaused
from inferbus.cli.batch import edited_lines
from inferbus.cli.batch_progress import Rate, left_of, state_of
from inferbus.cli.batch_run import check_output
from inferbus.errors import InvalidRequest

BATCH = ApiBatch(id="b", status="in_progress", endpoint="/v1/embeddings")


def test_the_rate_is_of_the_last_half_minute() -> None:
    rate = Rate()
    rate.note(0, 0, 0)
    assert rate.per_second() == (0, 0)
    rate.note(10, 1000, 50_000)
    assert rate.per_second() == (100, 5000)
    rate.note(60, 1000, 50_000)
    rate.note(70, 1100, 51_000)
    assert rate.per_second() == (10, 100)


@pytest.mark.parametrize(
    ("total", "done", "left"), [(0, 0, "-"), (100, 0, "10s"), (1000, 0, "1m 40s"), (100_000, 500, "2h 45m")]
)
def test_what_is_left(total: int, done: int, left: str) -> None:
    rate = Rate()
    rate.note(0, 0, 0)
    rate.note(10, 100, 0)
    batch = msgspec.structs.replace(BATCH, request_counts=ApiCounts(total, done, 0))
    assert left_of(batch, rate) == left


def test_nothing_is_known_of_what_stands_still() -> None:
    rate = Rate()
    rate.note(0, 5, 0)
    rate.note(10, 5, 0)
    assert left_of(msgspec.structs.replace(BATCH, request_counts=ApiCounts(10, 5, 0)), rate) == "-"


def test_a_pause_has_its_reason() -> None:
    assert state_of(BATCH) == "in_progress"
    rests = msgspec.structs.replace(BATCH, paused=ApiPaused("storage_down"))
    assert state_of(rests) == "in_progress, paused (storage_down)"
    rests = msgspec.structs.replace(BATCH, paused=ApiPaused("storage_down", "the disk is full"))
    assert state_of(rests) == "in_progress, paused (the disk is full)"


def test_an_output_folder_is_made_or_empty(tmp_path: Path) -> None:
    check_output(tmp_path / "a/b")
    assert list((tmp_path / "a/b").iterdir()) == []
    check_output(tmp_path / "a/b")
    with pytest.raises(InvalidRequest, match="b is in it"):
        check_output(tmp_path / "a")


def test_edited_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "edited.jsonl"
    file.write_text('{"line": 3, "original": "x", "code": "y"}\n\n{"line": 5, "original": "z"}\n')
    assert edited_lines(file) == {3: "x", 5: "z"}
    assert edited_lines(None) == {}
    file.write_text('{"line": "three"}\n')
    with pytest.raises(InvalidRequest, match="line 1"):
        edited_lines(file)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        edited_lines(tmp_path / "none")

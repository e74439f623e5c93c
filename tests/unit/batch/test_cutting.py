"""Cutting: every line that is not blank is in exactly one chunk, and what a chunk names is what the input has there."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from inferbus.batch.splitting import LineSplitter
from inferbus.contracts.batch import ChunkSpec
from inferbus_batch.adapters.seen_ids import SqliteSeenIds
from inferbus_batch.domain.cutting import CutLimits, Cutter


class SeenInMemory:
    def __init__(self) -> None:
        self._seen: set[str] = set()

    def add(self, custom_id: str) -> bool:
        is_new = custom_id not in self._seen
        self._seen.add(custom_id)
        return is_new


def cut(data: bytes, limits: CutLimits) -> tuple[list[ChunkSpec], Cutter]:
    splitter, cutter = LineSplitter(limits.line_bytes), Cutter("batch_1", "p", limits, SeenInMemory())
    specs = [spec for line in (*splitter.feed(data), *splitter.finish()) for spec in cutter.add(line)]
    return [*specs, *cutter.finish()], cutter


LINES = st.lists(
    st.one_of(st.just(b""), st.just(b"  "), st.binary(min_size=1, max_size=40), st.binary(min_size=200, max_size=300))
)


@given(LINES, st.booleans(), st.integers(1, 6), st.integers(10, 400), st.integers(1, 3))
def test_every_line_is_in_one_chunk(parts: list[bytes], has_end: bool, rows: int, size: int, first: int) -> None:
    lines = [part.replace(b"\n", b"x") for part in parts]
    data = b"\n".join(lines) + (b"\n" if has_end and lines else b"")
    limits = CutLimits(rows=rows, bytes=size, first_rows=first, double_after=2, line_bytes=150)
    specs, cutter = cut(data, limits)
    assert [spec.n for spec in specs] == list(range(len(specs)))
    assert cutter.chunks == len(specs)
    covered: list[int] = []
    for spec in specs:
        assert spec.rows <= rows
        assert spec.first_line > (covered[-1] if covered else 0)
        held = data[spec.offset : spec.offset + spec.bytes]
        there = lines[spec.first_line - 1 : spec.first_line - 1 + spec.lines]
        assert held in (b"\n".join(there), b"\n".join(there) + b"\n")
        if spec.unread:
            assert [fault.line for fault in spec.faults] == [spec.first_line]
            assert spec.lines == spec.rows == 1
        else:
            assert hashlib.sha256(held).hexdigest() == spec.sha256
            assert spec.bytes <= size or spec.lines == 1
            assert spec.rows == sum(bool(one.strip()) for one in there)
        covered += range(spec.first_line, spec.first_line + spec.lines)
    wanted = [number for number, one in enumerate(lines, 1) if one.strip()]
    assert set(wanted) <= set(covered)
    assert cutter.rows == len(wanted) == sum(spec.rows for spec in specs)


def test_the_first_chunks_are_small() -> None:
    limits = CutLimits(rows=64, first_rows=4, double_after=2)
    assert [limits.rows_of(n) for n in (0, 1, 2, 3, 4, 8, 100, 10_000)] == [4, 4, 8, 8, 16, 64, 64, 64]


def test_an_id_used_before_is_a_fault_of_the_later_line() -> None:
    data = b'{"custom_id":"a"}\n{"custom_id":"b"}\n{"custom_id":"a"}\nnonsense\n{"custom_id":"a"}\n'
    specs, _ = cut(data, CutLimits(rows=2, first_rows=2))
    assert [fault.line for spec in specs for fault in spec.faults] == [3, 5]
    assert [spec.first_line for spec in specs if spec.faults] == [3, 5]


@given(st.lists(st.text(max_size=5)))
def test_seen_ids_are_a_set(ids: list[str]) -> None:
    seen: set[str] = set()
    with SqliteSeenIds() as on_disk:
        for one in ids:
            assert on_disk.add(one) == (one not in seen)
            seen.add(one)

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferbus.pipeline import columns
from inferbus.pipeline.parts import DONE, Part, Results, parts_of, read_part
from inferbus.pipeline.row_batch import joined, of_arrow, of_rows
from inferbus.pipeline.stage_run import Batch, Lost

PLAIN = st.sampled_from([None, True, 0, 7, -(2**70), 1.0, 2.5, "", "x", "\ud800"])
VALUES = PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(st.sampled_from("xy"), PLAIN, max_size=2)
ROWS = st.lists(st.dictionaries(st.sampled_from("abcdef"), VALUES, max_size=3), max_size=12)
quick = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def same(one: Any, other: Any) -> bool:
    """Equal, types and order of columns included."""
    return repr(one) == repr(other)


@quick
@given(ROWS)
def test_rows_come_out_as_they_went_in(rows: list[dict[str, Any]]) -> None:
    found: dict[int, Any] = {}
    for places, batch in of_rows(rows):
        assert batch.count == len(places)
        found |= dict(zip(places, batch.rows(), strict=True))
        assert same(batch.row(len(places) - 1), rows[places[-1]])
        backwards = batch.take(list(reversed(range(batch.count))))
        assert same(list(backwards.rows()), [rows[n] for n in reversed(places)])
        assert same(list(joined([batch.slice(0, 1), batch.slice(1, batch.count)]).rows()), [rows[n] for n in places])
    assert same([found[n] for n in range(len(rows))], rows)


@quick
@given(ROWS.filter(lambda rows: "\\ud800" not in repr(rows) and str(2**70) not in repr(rows)))
def test_a_part_gives_back_what_was_put_in(rows: list[dict[str, Any]]) -> None:
    results = Results()
    for places, batch in of_rows(rows):
        results.add(Batch(places, batch))
    results.add(Lost(len(rows), None))
    results.add(Lost(len(rows) + 1, {"error": "e"}))
    found: dict[int, Any] = {}
    for _, data in parts_of(results, {3: "d"}):
        part = read_part(data)
        assert part.digests == {3: "d"}
        found |= dict(
            zip(part.numbers, zip(part.states, part.values(range(len(part.numbers))), strict=True), strict=True)
        )
    assert [found[n] for n in range(len(rows))] == [(DONE, row) for row in rows]
    assert [found[len(rows) + n] for n in range(2)] == [("dropped", {}), ("failed", {"error": "e"})]


def test_columns_nobody_touches_stay_as_they_were_read() -> None:
    at = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    read = pa.record_batch({"at": [at, at], "image": [b"\xff", None], "vector": [[1.0], [2.0]]})
    batch = of_arrow(read).take([1]).with_columns({"said": ["x"]})
    assert batch.arrow.schema.field("image").type == pa.binary()
    assert list(batch.rows(["said", "image"])) == [{"image": None, "said": "x"}]
    ((part, _),) = parts_of(_results(Batch([7], batch)), {})
    assert part.is_columns
    assert part.own().to_pylist() == [{"at": at, "image": None, "vector": [2.0], "said": "x"}]


def _results(*batches: Batch) -> Results:
    results = Results()
    for batch in batches:
        results.add(batch)
    return results


def test_of_columns_of_one_name_the_last_one_counts() -> None:
    read = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "b", "a"])
    assert list(of_arrow(read).rows()) == [{"b": 2, "a": 3}]


def test_arrays_of_numpy_become_lists() -> None:
    ((_, batch),) = of_rows([{"v": np.array([0.5, 1.5]), "n": np.float32(2)}, {"v": None, "n": 1.0}])
    assert list(batch.rows()) == [{"v": [0.5, 1.5], "n": 2.0}, {"v": None, "n": 1.0}]


def test_many_shapes_are_kept_as_json() -> None:
    rows = [{name: 1} for name in "abcdefgh"]
    parts = [part for part, _ in parts_of(_results(*(Batch(p, b) for p, b in of_rows(rows))), {})]
    assert len(parts) == 5
    assert [part.names for part in parts][-1] == ()


def test_a_value_without_a_form_in_json_is_a_dead_letter() -> None:
    rows = [{"n": 1, "it": object()}]
    ((part, _),) = parts_of(_results(*(Batch(p, b) for p, b in of_rows(rows))), {})
    assert part.states == ["failed"]
    (value,) = part.values([0])
    assert value["error"] == "unwritable"
    assert value["input"]["n"] == 1


def test_types_that_do_not_fit_are_text() -> None:
    schema = columns.unified([columns.schema_of([{"a": 1, "b": 1}]), columns.schema_of([{"a": "x"}, {"b": 2.5}])])
    assert [(field.name, field.type) for field in schema] == [("a", pa.string()), ("b", pa.float64())]
    table = pa.concat_tables([
        columns.table_of([{"a": 1}], schema), columns.fitted(pa.table({"a": ["x"], "b": [2]}), schema),
    ])  # fmt: skip
    assert table.to_pylist() == [{"a": "1", "b": None}, {"a": "x", "b": 2.0}]
    assert columns.schema_of([{"a": [1]}, {"a": "x"}]).field("a").type == pa.string()
    assert columns.flat(columns.schema_of([{"a": [1], "b": 1}])).types == [pa.string(), pa.int64()]


def test_a_part_without_rows_of_its_own() -> None:
    results = Results()
    results.add(Lost(1, None))
    ((part, data),) = parts_of(results, {})
    assert isinstance(read_part(data), Part)
    assert part.numbers == [1]

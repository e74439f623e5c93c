"""One definition, computed twice: over Parquet files by DuckDB, and event by event as the stream does."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.features.event_histories import SLIDING, TUMBLING, Told, some_arrivals, through_states, write_parquet

from inferbus_features.adapters.duckdb_history import BadHistory, DuckDbHistory, HistoryFiles, Slice
from inferbus_features.domain.definitions import WindowedView

VIEWS = [TUMBLING, SLIDING]


def history(view: WindowedView, path: Path, *slices: Slice) -> Told:
    files = HistoryFiles(paths=(str(path),), arrived_column="arrived")
    with DuckDbHistory() as engine:
        return {
            (int(str(key[0])), values.last_pane): values
            for part in slices or (Slice(),)
            for key, found in engine.windows(view, files, part)
            for values in found
        }


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@pytest.mark.parametrize("seed", range(4))
def test_history_and_stream_agree_to_the_last_bit(view: WindowedView, seed: int, tmp_path: Path) -> None:
    arrivals = some_arrivals(seed, 1500)
    write_parquet(tmp_path / "events.parquet", arrivals)
    expected = history(view, tmp_path / "events.parquet")
    assert len(expected) > 20
    assert any(values.values[0] == 0 for values in expected.values())
    assert through_states(view, arrivals) == expected
    assert through_states(view, arrivals, batch=100, restart_every=3) == expected


def test_slices_are_the_whole(tmp_path: Path) -> None:
    arrivals = some_arrivals(9, 800, users=40)
    write_parquet(tmp_path / "events.parquet", arrivals)
    whole = history(TUMBLING, tmp_path / "events.parquet")
    parts = [history(TUMBLING, tmp_path / "events.parquet", Slice(n, 4)) for n in range(4)]
    assert all(parts)
    assert sum(map(len, parts)) == len(whole)
    assert {key: one for part in parts for key, one in part.items()} == whole


def test_files_without_a_column_are_refused_by_its_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "events.parquet", some_arrivals(1, 10))
    files = HistoryFiles(paths=(str(tmp_path / "events.parquet"),), timestamp_column="when")
    with DuckDbHistory() as engine, pytest.raises(BadHistory, match="when"):
        list(engine.windows(TUMBLING, files))

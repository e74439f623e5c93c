"""All windows of a view as Parquet: what the stream would have told of those that are over, whatever is begun again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from tests.features.event_histories import SLIDING, some_arrivals, through_states, write_parquet

from inferbus.contracts.features import STREAM_VIEW, Catalogue, FeatureJob, ViewRecord
from inferbus_features.adapters.duckdb_history import BadHistory
from inferbus_features.domain.definitions import to_record
from inferbus_features.window_history import Stopped, write_slice

CATALOGUE = Catalogue(
    project="p",
    views=[ViewRecord(name=SLIDING.name, type=STREAM_VIEW, aggregation=to_record(SLIDING)), ViewRecord(name="plain")],
)
SLICES = 3


def job(folder: Path, until_us: int) -> FeatureJob:
    return FeatureJob(
        id="j", tenant="JOBS", view=SLIDING.name, paths=[str(folder / "events.parquet")], arrived_column="arrived",
        until=until_us / 1e6, slices=SLICES, out=str(folder / "out"),
    )  # fmt: skip


def test_slices_have_every_window_that_was_over(tmp_path: Path) -> None:
    arrivals = some_arrivals(5, 900)
    write_parquet(tmp_path / "events.parquet", arrivals)
    until_us = sorted(time for _, time, _ in arrivals)[600]
    work = job(tmp_path, until_us)
    rows = [write_slice(CATALOGUE, work, n, lambda: False) for n in range(SLICES)]
    assert write_slice(CATALOGUE, work, 1, lambda: False) == rows[1]  # again, in place of itself
    assert len(list((tmp_path / "out").iterdir())) == SLICES
    table = pq.read_table(tmp_path / "out").to_pylist()
    window = SLIDING.window
    expected = {
        (user, window.begin_of(pane + 1)): values.values
        for (user, pane), values in through_states(SLIDING, arrivals).items()
        if window.begin_of(pane + 1) <= until_us
    }
    names = [one.name for one in SLIDING.aggregates]
    found = {
        (one["user_id"], round(one["event_timestamp"].timestamp() * 1e6)): tuple(one[name] for name in names)
        for one in table
    }
    assert len(table) == sum(rows) == len(found) > 20
    assert found == expected
    assert {(one["event_timestamp"] - one["window_begin"]).total_seconds() for one in table} == {30.0}


def test_what_is_stopped_or_wrong_leaves_nothing(tmp_path: Path) -> None:
    arrivals = some_arrivals(5, 100)
    write_parquet(tmp_path / "events.parquet", arrivals)
    work = job(tmp_path, arrivals[-1][0] + 60_000_000)
    with pytest.raises(Stopped):
        write_slice(CATALOGUE, work, 0, lambda: True)
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "file").write_text("")
    blocked = msgspec.structs.replace(work, out=str(tmp_path / "file/out"))
    with pytest.raises(BadHistory, match="cannot be written"):
        write_slice(CATALOGUE, blocked, 0, lambda: False)
    plain = FeatureJob(id="j", tenant="JOBS", view="plain", paths=[], out=str(tmp_path / "out"))
    with pytest.raises(BadHistory, match="plain"):
        write_slice(CATALOGUE, plain, 0, lambda: False)

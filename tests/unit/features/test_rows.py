"""Rows as they are pushed: right as a whole, or refused by the field that is wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from inferbus.contracts.features import (
    PUSH_VIEW,
    STREAM_VIEW,
    Catalogue,
    EntityRecord,
    FeatureRecord,
    ServiceRecord,
    SourceRecord,
    ViewRecord,
)
from inferbus_features.domain.definitions import Aggregate, EventSource, WindowedView, to_record, tumbling
from inferbus_features.domain.lineage import UsedBy, lineage_of
from inferbus_features.domain.pushed import split_rows
from inferbus_features.domain.rows import BadRow, RowLimits, SourceShape, check_row, shapes_of

KINDS = ("int32", "int64", "float32", "float64", "string", "bool", "bytes", "timestamp", "list<int64>")
SHAPE = SourceShape(
    name="s", keys={"user_id": "int64"}, fields={f"f_{kind.strip('>').replace('<', '_')}": kind for kind in KINDS},
    timestamp_field="at",
)  # fmt: skip
NOW = 1_800_000_000.0
LIMITS = RowLimits(max_future_s=60, max_age_s=1000)


def checked(**fields: Any) -> dict[str, Any]:
    return check_row(SHAPE, {"user_id": 1, "at": NOW} | fields, NOW, LIMITS).fields


def test_values_of_every_kind() -> None:
    right = {
        "f_int32": 5, "f_int64": 2**63 - 1, "f_float32": 1, "f_float64": 1.5, "f_string": "x", "f_bool": False,
        "f_bytes": "AAE=", "f_timestamp": "2027-01-15T08:00:00Z", "f_list_int64": [1, 2],
    }  # fmt: skip
    assert checked(**right) == right | {"f_bytes": b"\x00\x01", "f_timestamp": NOW, "f_float32": 1.0}
    assert checked(f_int32=None) == {"f_int32": None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("f_int32", 2**31), ("f_int64", 2**63), ("f_int64", True), ("f_int64", 1.0), ("f_int64", "1"),
        ("f_float64", "1"), ("f_float64", True), ("f_string", 1), ("f_bool", 1), ("f_bytes", "?"), ("f_bytes", 1),
        ("f_timestamp", "yesterday"), ("f_list_int64", 1), ("f_list_int64", [1, "2"]), ("nothing", 1),
        ("user_id", "1"), ("at", None), ("at", "yesterday"), ("at", -1), ("at", NOW * 1000), ("at", NOW + 61),
        ("at", NOW - 1001), ("at", 1e400),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(name: str, value: Any) -> None:
    with pytest.raises(BadRow) as caught:
        checked(**{name: value})
    assert caught.value.fault.param == name
    assert name in caught.value.fault.message


@pytest.mark.parametrize("missing", ["user_id", "at"])
def test_what_is_missing_is_named(missing: str) -> None:
    row = {"user_id": 1, "at": NOW}
    del row[missing]
    with pytest.raises(BadRow) as caught:
        check_row(SHAPE, row, NOW, LIMITS)
    assert caught.value.fault.param == missing


@pytest.mark.parametrize("at", [NOW, int(NOW), "2027-01-15T08:00:00", "2027-01-15T09:00:00+01:00"])
def test_times(at: Any) -> None:
    assert check_row(SHAPE, {"user_id": 1, "at": at}, NOW, LIMITS).time_s == NOW


WINDOWED = WindowedView(
    name="w", source=EventSource(name="events", keys={"user_id": "int64"}, fields={"x": "float64"}), entity="user",
    window=tumbling("1m"), aggregates=(Aggregate(name="n", kind="count"),),
)  # fmt: skip
CATALOGUE = Catalogue(
    project="p",
    entities=[EntityRecord(name="user", join_key="user_id", kind="int64")],
    views=[
        ViewRecord(name="a", entities=["user"], features=[FeatureRecord(name="x", kind="float64")], type=PUSH_VIEW,
                   source="rows"),
        ViewRecord(name="b", entities=["user"], features=[FeatureRecord(name="y", kind="int64")], type=PUSH_VIEW,
                   source="rows"),
        ViewRecord(name="w", entities=["user"], features=[FeatureRecord(name="n", kind="int64")], type=STREAM_VIEW,
                   source="events", aggregation=to_record(WINDOWED)),
        ViewRecord(name="d", features=[FeatureRecord(name="z", kind="int64")], type="on_demand", inputs=["a", "q:int64"]),
    ],
    services=[ServiceRecord(name="one", features=["w:n"]), ServiceRecord(name="two", features=["d:z"])],
)  # fmt: skip


def test_a_source_may_feed_several_views() -> None:
    shapes = shapes_of(CATALOGUE)
    assert set(shapes) == {"rows", "events"}
    row = {"user_id": 1, "event_timestamp": NOW, "x": 1.0}
    pushed, faults = split_rows(shapes["rows"], [row, row | {"y": 2}, row | {"y": "2"}], NOW, LIMITS)
    assert {view: [one.values for one in rows] for view, rows in pushed.views.items()} == {
        "a": [{"x": 1.0}, {"x": 1.0}], "b": [{"y": 2}],
    }  # fmt: skip
    assert [(one.row, one.fault.param) for one in faults] == [(2, "y")]
    assert split_rows(shapes["events"], [row], NOW, LIMITS)[0].views == {}


def test_a_source_says_who_may_push() -> None:
    source = SourceRecord(name="rows", type="push", tags={"tenants": "acme, dev"})
    shape = shapes_of(msgspec.structs.replace(CATALOGUE, sources=[source]))["rows"]
    assert [shape.is_open_to(tenant) for tenant in ("acme", "dev", "other")] == [True, True, False]
    assert shapes_of(CATALOGUE)["rows"].is_open_to("other")


@pytest.mark.parametrize(
    ("name", "kind", "services", "sources"),
    [
        ("events", "source", ["one"], ["events"]),
        ("rows", "source", ["two"], ["rows", "q:int64"]),
        ("a", "view", ["two"], ["rows"]),
        ("w:n", "feature", ["one"], ["events"]),
        ("user", "entity", ["one", "two"], ["rows", "events", "q:int64"]),
        ("two", "service", ["two"], ["rows", "q:int64"]),
    ],
)
def test_lineage(name: str, kind: str, services: list[str], sources: list[str]) -> None:
    used = {"one": [UsedBy(service="one", tenant="dev", requests=3)]}
    found = lineage_of(CATALOGUE, used, name)
    assert found is not None
    assert (found.kind, found.services, found.sources) == (kind, services, sources)
    assert bool(found.used_by) == ("one" in services)


def test_nothing_has_no_lineage() -> None:
    assert lineage_of(CATALOGUE, {}, "nothing") is None
    assert lineage_of(CATALOGUE, {}, "w:nothing") is None

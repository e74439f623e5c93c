"""Windowed views in a feature repository: an `inferbus_features` definition as the Feast view its values are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from feast import Entity, FeatureView, Field, FileSource, PushSource
from feast.types import Bool, Float64, Int64, PrimitiveFeastType, String

from inferbus_features.adapters.feast.catalogue import AGGREGATION, DEFAULT_VALUE
from inferbus_features.domain.definitions import (
    BOOL,
    COUNT,
    DISTINCT,
    FLOAT64,
    INT64,
    STRING,
    SUM,
    Aggregate,
    BadDefinition,
    WindowedView,
    to_record,
)

_TYPES: dict[str, PrimitiveFeastType] = {INT64: Int64, FLOAT64: Float64, STRING: String, BOOL: Bool}
_ZERO_WITHOUT_EVENTS = (COUNT, SUM, DISTINCT)


def windowed(view: WindowedView, entities: Sequence[Entity], *, ttl: timedelta = timedelta(0)) -> FeatureView:
    """Make a view's Feast side, to be used in feature services like any other view.

    Counts and sums of an entity without events are 0. A value is dated by its window's last step, so that a `ttl` below
    the step makes every value stale; 0: none is.

    Raises:
        BadDefinition: the entities' join keys are not the view's.
    """
    if sorted(entity.join_key for entity in entities) != sorted(view.join_keys):
        raise BadDefinition(f"view {view.name}: its entities are not keyed by {', '.join(view.join_keys)}")
    source = view.source
    return FeatureView(
        name=view.name,
        entities=list(entities),
        ttl=ttl,
        schema=[
            *(Field(name=key, dtype=_TYPES[source.keys[key]]) for key in view.join_keys),
            *(_field(view, aggregate) for aggregate in view.aggregates),
        ],
        source=PushSource(
            name=source.name,
            batch_source=FileSource(
                name=f"{source.name}_history", path=f"{source.name}.parquet", timestamp_field=source.timestamp_field
            ),
            description=source.description, owner=source.owner, tags=source.tags,
        ),
        online=True, description=view.description, owner=view.owner,
        tags=view.tags | {AGGREGATION: msgspec.json.encode(to_record(view)).decode()},
    )  # fmt: skip


def _field(view: WindowedView, aggregate: Aggregate) -> Field:
    of = aggregate.column or "events"
    only = " and ".join(f"{name} = {wanted!r}" for name, wanted in aggregate.where.items())
    return Field(
        name=aggregate.name,
        dtype=_TYPES[view.type_of(aggregate)],
        description=f"{aggregate.kind} of {of}" + (f" where {only}" if only else ""),
        tags={DEFAULT_VALUE: "0"} if aggregate.kind in _ZERO_WITHOUT_EVENTS else {},
    )

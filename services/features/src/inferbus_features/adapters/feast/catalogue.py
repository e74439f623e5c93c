"""A registry of Feast's as the platform's catalogue, which everybody may read without Feast."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from feast import FeatureService, FeatureView, OnDemandFeatureView, PushSource, RequestSource, StreamFeatureView
from feast.entity import Entity
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.field import Field
from feast.infra.registry.base_registry import BaseRegistry

from inferbus.contracts.features import (
    BATCH_VIEW,
    ON_DEMAND_VIEW,
    PUSH_VIEW,
    STREAM_VIEW,
    Catalogue,
    EntityRecord,
    FeatureRecord,
    ServiceRecord,
    SourceRecord,
    ViewRecord,
)
from inferbus_features.adapters.feast.kinds import kind_of, kind_of_value_type
from inferbus_features.adapters.feast.shared_fields import SharedFields

TENANTS, MAX_AGE, DEFAULT_VALUE, AGGREGATION = "tenants", "max_age_s", "default", "inferbus:aggregation"
"""Tags with a meaning: of a service who may ask for it (with commas between) and how old a value may be; of a field what
is given where there is none (JSON); of a view the windows it has, as `inferbus_features` wrote them down."""


class Definitions(NamedTuple):
    """All that a registry has, read once: Feast makes the objects anew each time it is asked, with checks of every field."""

    entities: dict[str, Entity]
    sources: dict[str, Any]
    views: dict[str, Any]
    services: dict[str, FeatureService]


def definitions_of(registry: BaseRegistry, project: str) -> Definitions:
    """Read a registry."""
    return Definitions(
        {one.name: one for one in registry.list_entities(project) if one.name != DUMMY_ENTITY_NAME},
        {one.name: one for one in registry.list_data_sources(project) if not isinstance(one, RequestSource)},
        {one.name: one for one in registry.list_all_feature_views(project)},
        {one.name: one for one in SharedFields().services(registry, project)},
    )


def catalogue_of(found: Definitions, project: str) -> Catalogue:
    """Describe all that is defined; lists are sorted by name, features stay in their order.

    Raises:
        ValueError: something cannot be served; the message names it.
    """
    entities, views = found.entities, found.views
    return Catalogue(
        project=project,
        entities=[_entity(entities[name]) for name in sorted(entities)],
        sources=[_source(found.sources[name]) for name in sorted(found.sources)],
        views=[_view(views[name]) for name in sorted(views)],
        services=[_service(found.services[name], views, entities) for name in sorted(found.services)],
    )


def refs_of(service: FeatureService) -> list[tuple[str, str]]:
    """List a service's features as (view's name in it, feature), in the order they were declared in."""
    return [
        (projection.name_to_use(), field.name)
        for projection in service.feature_view_projections
        for field in projection.features
    ]


def _entity(entity: Entity) -> EntityRecord:
    return EntityRecord(
        name=entity.name, join_key=entity.join_key, kind=_key_kind(entity), description=entity.description,
        owner=entity.owner, tags=dict(entity.tags),
    )  # fmt: skip


def _key_kind(entity: Entity) -> str:
    kind = kind_of_value_type(entity.value_type).name
    if kind not in {"int32", "int64", "string"}:
        raise ValueError(f"entity {entity.name}: a join key is int32, int64 or string, not {kind}")
    return kind


def _source(source: Any) -> SourceRecord:
    is_push = isinstance(source, PushSource)
    batch = source.batch_source if is_push else None
    return SourceRecord(
        name=source.name, type="push" if is_push else "batch",
        timestamp_field=(batch.timestamp_field if batch is not None else source.timestamp_field) or "",
        path=str(getattr(source, "path", "") or ""), batch_source=batch.name if batch is not None else "",
        description=source.description, owner=source.owner, tags=dict(source.tags or {}),
    )  # fmt: skip


def _view(view: Any) -> ViewRecord:
    shared = {
        "name": view.name, "features": [_feature(view, field) for field in view.features],
        "description": view.description, "owner": view.owner,
        "tags": {name: value for name, value in view.tags.items() if name != AGGREGATION},
    }  # fmt: skip
    if isinstance(view, OnDemandFeatureView):
        fields = [
            f"{field.name}:{kind_of(field.dtype).name}"
            for source in view.source_request_sources.values()
            for field in source.schema
        ]
        inputs = [projection.name_to_use() for projection in view.source_feature_view_projections.values()]
        return ViewRecord(**shared, type=ON_DEMAND_VIEW, inputs=[*inputs, *fields])
    stream = getattr(view, "stream_source", None)
    aggregation = view.tags.get(AGGREGATION)
    pushed = PUSH_VIEW if isinstance(stream, PushSource) else BATCH_VIEW
    return ViewRecord(
        **shared,
        entities=[name for name in view.entities if name != DUMMY_ENTITY_NAME],
        type=STREAM_VIEW if isinstance(view, StreamFeatureView) or aggregation else pushed,
        ttl_s=view.ttl.total_seconds() if view.ttl else 0.0,
        online=view.online,
        source=stream.name if stream is not None else (view.batch_source.name if view.batch_source else ""),
        aggregation=msgspec.json.decode(aggregation) if aggregation else {},
    )


def _feature(view: Any, field: Field) -> FeatureRecord:
    try:
        kind = kind_of(field.dtype).name
    except ValueError as exc:
        raise ValueError(f"{view.name}:{field.name}: {exc}") from exc
    return FeatureRecord(
        name=field.name, kind=kind, default=_default(field), description=field.description,
        tags={name: value for name, value in field.tags.items() if name != DEFAULT_VALUE},
    )  # fmt: skip


def _default(field: Field) -> Any:
    text = field.tags.get(DEFAULT_VALUE)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _service(service: FeatureService, views: dict[str, Any], entities: dict[str, Entity]) -> ServiceRecord:
    refs = refs_of(service)
    join_keys: dict[str, str] = {}
    context: dict[str, str] = {}
    for projection in service.feature_view_projections:
        view = views[projection.name]
        needed = _sources_of(view, views) if isinstance(view, OnDemandFeatureView) else [(view, projection)]
        for table, used in needed:
            for name in table.entities:
                if name != DUMMY_ENTITY_NAME:
                    entity = entities[name]
                    join_keys[used.join_key_map.get(entity.join_key, entity.join_key)] = _key_kind(entity)
        if isinstance(view, OnDemandFeatureView):
            for source in view.source_request_sources.values():
                context |= {field.name: kind_of(field.dtype).name for field in source.schema}
    names = [feature for _, feature in refs]
    if len(set(names)) < len(names) and any(
        isinstance(views[one.name], OnDemandFeatureView) for one in service.feature_view_projections
    ):
        raise ValueError(f"service {service.name}: with transformations, every feature needs a name of its own")
    aliases = {one.name_to_use(): one.name for one in service.feature_view_projections if one.name_to_use() != one.name}
    tags = dict(service.tags)
    tenants, max_age = tags.pop(TENANTS, ""), tags.pop(MAX_AGE, None)
    return ServiceRecord(
        name=service.name, features=[f"{view}:{feature}" for view, feature in refs],
        join_keys=join_keys, context=context, tenants=[one.strip() for one in tenants.split(",") if one.strip()],
        max_age_s=float(max_age) if max_age is not None else None, description=service.description,
        owner=service.owner, tags=tags, aliases=aliases,
    )  # fmt: skip


def _sources_of(view: OnDemandFeatureView, views: dict[str, Any]) -> list[tuple[FeatureView, Any]]:
    projections = view.source_feature_view_projections.values()
    return [(views[projection.name], projection) for projection in projections]

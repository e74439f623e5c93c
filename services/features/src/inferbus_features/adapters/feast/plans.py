"""What reading a service takes, found out once: its views, their keys, features and names. Pure but for the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from feast import FeatureService, FeatureView, OnDemandFeatureView
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME

from inferbus_features.adapters.feast.catalogue import Definitions, refs_of
from inferbus_features.adapters.feast.kinds import Kind, kind_of, kind_of_value_type
from inferbus_features.domain.services import output_names


class FeaturePlan(msgspec.Struct, frozen=True):
    """One column: what it is called in the answer, in its view, and of what kind it is."""

    name: str
    feature: str
    kind: Kind


class ViewPlan(msgspec.Struct, frozen=True):
    """One view of a service. `keys` are its join keys, `columns` the names requests give their values under."""

    view: Any
    name: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    key_kinds: tuple[Kind, ...]
    features: tuple[FeaturePlan, ...]


class ServicePlan(msgspec.Struct, frozen=True):
    """One service, or some of its features. `on_demand`: transformations must run, which Feast does itself. `names`: of all
    columns, in order."""

    service: Any
    views: tuple[ViewPlan, ...]
    names: tuple[str, ...]
    on_demand: bool
    kinds: dict[str, Kind]
    view_names: dict[str, str]


def plan_of(found: Definitions, service: FeatureService, only: Sequence[str] = ()) -> ServicePlan:
    """Find out how a service is read; `only`: of these of its columns."""
    refs = refs_of(service)
    names = output_names(refs)
    wanted = set(only) or set(names)
    named = dict(zip(refs, names, strict=True))
    views: list[ViewPlan] = []
    kinds: dict[str, Kind] = {}
    view_names: dict[str, str] = {}
    on_demand = False
    for projection in service.feature_view_projections:
        view = found.views[projection.name]
        features = tuple(
            FeaturePlan(named[projection.name_to_use(), field.name], field.name, kind_of(field.dtype))
            for field in projection.features
            if named[projection.name_to_use(), field.name] in wanted
        )
        if not features:
            continue
        kinds |= {one.name: one.kind for one in features}
        view_names |= dict.fromkeys((one.name for one in features), view.name)
        if isinstance(view, OnDemandFeatureView):
            on_demand = True
        else:
            views.append(view_plan(found, view, features, projection.join_key_map))
    order = tuple(only) or tuple(names)
    return ServicePlan(service, tuple(views), order, on_demand, kinds, view_names)


def view_plan(
    found: Definitions,
    view: FeatureView,
    features: tuple[FeaturePlan, ...] = (),
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> ViewPlan:
    """Plan one view; without `features` all of them, by their own names. `renamed` are its join keys in a service that calls
    them otherwise."""
    if not features:
        features = tuple(FeaturePlan(field.name, field.name, kind_of(field.dtype)) for field in view.features)
    entities = [found.entities[name] for name in view.entities if name != DUMMY_ENTITY_NAME]
    keys = tuple(one.join_key for one in entities)
    return ViewPlan(
        view, view.name, keys, tuple(renamed.get(key, key) for key in keys),
        tuple(kind_of_value_type(one.value_type) for one in entities), features,
    )  # fmt: skip


NO_KEYS = DUMMY_ENTITY_ID
"""The join key of views without entities, whose one value is empty."""

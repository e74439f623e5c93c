"""Services as reads need them: what may be asked for, and of what kind, age and default each column is. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from inferbus.contracts.features import Catalogue, ServiceRecord, ViewRecord


class ColumnSpec(msgspec.Struct, frozen=True):
    """One column. `ttl_s` 0: it does not grow stale; `default` None: there is none."""

    name: str
    view: str
    kind: str
    ttl_s: float
    default: Any


class ServiceSpec(msgspec.Struct, frozen=True):
    """One service. `join_keys` and `context`: name -> kind of what a request must bring."""

    name: str
    join_keys: dict[str, str]
    context: dict[str, str]
    tenants: frozenset[str]
    max_age_s: float | None
    columns: dict[str, ColumnSpec]

    def is_open_to(self, tenant: str) -> bool:
        return not self.tenants or tenant in self.tenants


def output_names(refs: Sequence[tuple[str, str]]) -> list[str]:
    """Name the columns of (view, feature) pairs: by the feature alone, or by both where several views have one so called."""
    counts = Counter(feature for _, feature in refs)
    return [feature if counts[feature] == 1 else f"{view}__{feature}" for view, feature in refs]


def services_of(catalogue: Catalogue) -> dict[str, ServiceSpec]:
    """Index a catalogue by service."""
    views = {view.name: view for view in catalogue.views}
    return {service.name: _spec_of(service, views) for service in catalogue.services}


def _spec_of(service: ServiceRecord, views: dict[str, ViewRecord]) -> ServiceSpec:
    refs = [(view, feature) for view, _, feature in (ref.partition(":") for ref in service.features)]
    columns: dict[str, ColumnSpec] = {}
    for (used, feature), name in zip(refs, output_names(refs), strict=True):
        view = views[service.aliases.get(used, used)]
        record = next(one for one in view.features if one.name == feature)
        columns[name] = ColumnSpec(name, view.name, record.kind, view.ttl_s, record.default)
    return ServiceSpec(
        service.name, service.join_keys, service.context, frozenset(service.tenants), service.max_age_s, columns
    )

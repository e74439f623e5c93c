"""Lineage: where a feature comes from, and who has it: source, view, feature, service, and who asks for the service."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from inferbus.contracts.features import Catalogue, ServiceRecord, ViewRecord


class UsedBy(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for a service: requests and rows since it is counted, and when last (Unix seconds)."""

    service: str
    tenant: str
    requests: int = 0
    rows: int = 0
    last: float = 0.0


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """What a name is part of. `name` is a source's, an entity's, a view's, a feature's (`view:feature`) or a service's."""

    name: str
    kind: str
    sources: list[str] = []
    views: list[str] = []
    features: list[str] = []
    services: list[str] = []
    used_by: list[UsedBy] = []


def lineage_of(catalogue: Catalogue, used: Mapping[str, list[UsedBy]], name: str) -> Lineage | None:
    """Follow a name upstream and downstream; None: nothing is called so."""
    services = {one.name: one for one in catalogue.services}
    if name in services:
        refs = services[name].features
        views = _with_inputs(catalogue, {ref.split(":")[0] for ref in refs})
        return _lineage(name, "service", views, refs, [services[name]], used)
    view_name, _, feature = name.partition(":")
    view = next((one for one in catalogue.views if one.name == view_name), None)
    if view is not None and (not feature or feature in {one.name for one in view.features}):
        refs = [name] if feature else [f"{view.name}:{one.name}" for one in view.features]
        derived = _derived(catalogue, {view.name})
        asked = [
            one for one in catalogue.services
            if any(ref in refs or ref.split(":")[0] in derived - {view.name} for ref in one.features)
        ]  # fmt: skip
        return _lineage(name, "feature" if feature else "view", _with_inputs(catalogue, {view.name}), refs, asked, used)
    for kind, found in (
        ("source", [one for one in catalogue.views if name in sources_of(one)]),
        ("entity", [one for one in catalogue.views if name in one.entities]),
    ):
        if found or name in {one.name for one in (catalogue.sources if kind == "source" else catalogue.entities)}:
            names = _derived(catalogue, {one.name for one in found})
            refs = [f"{one.name}:{part.name}" for one in catalogue.views if one.name in names for part in one.features]
            asked = [one for one in catalogue.services if any(ref.split(":")[0] in names for ref in one.features)]
            return _lineage(name, kind, [one for one in catalogue.views if one.name in names], refs, asked, used)
    return None


def sources_of(view: ViewRecord) -> list[str]:
    """Name what a view's values come from: pushed rows or files, events that are added up, fields of requests."""
    declared = view.aggregation.get("source", {}).get("name")
    return [*dict.fromkeys(one for one in (declared, view.source) if one), *(one for one in view.inputs if ":" in one)]


def _lineage(
    name: str, kind: str, views: list[ViewRecord], refs: list[str], services: list[ServiceRecord],
    used: Mapping[str, list[UsedBy]],
) -> Lineage:  # fmt: skip
    return Lineage(
        name=name, kind=kind, sources=list(dict.fromkeys(one for view in views for one in sources_of(view))),
        views=[view.name for view in views], features=list(refs), services=[one.name for one in services],
        used_by=[one for service in services for one in used.get(service.name, [])],
    )  # fmt: skip


def _with_inputs(catalogue: Catalogue, names: set[str]) -> list[ViewRecord]:
    """Give views, and those they are computed from."""
    wanted = set(names)
    for view in catalogue.views:
        if view.name in names:
            wanted |= {one for one in view.inputs if ":" not in one}
    return [view for view in catalogue.views if view.name in wanted]


def _derived(catalogue: Catalogue, names: set[str]) -> set[str]:
    """Give views, and those computed from them."""
    return names | {view.name for view in catalogue.views if names & set(view.inputs)}

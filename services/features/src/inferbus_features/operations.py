"""Operations: what `Managing` offers: pushing with an answer, dead letters, materialisations, and finding features."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, TypeVar

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import field_of, to_json
from inferbus.contracts.features import CANCELLED, QUEUED, RUNNING, STREAM_VIEW, FeatureJob, PushAnswer, PushMessage
from inferbus.errors import Conflict, InvalidRequest, NotFound
from inferbus.feature_writes import paid_by
from inferbus_features.consumers import Consumers
from inferbus_features.dead_rows import DeadRows
from inferbus_features.domain.lineage import lineage_of
from inferbus_features.domain.pushed import split_rows
from inferbus_features.domain.rows import RowLimits, SourceShape
from inferbus_features.job_book import FeatureJobBook
from inferbus_features.managing import Operation
from inferbus_features.paying import Paying
from inferbus_features.ports import FeatureStore

OPERATORS = frozenset({"materialize", "cancel", "redrive"})
_MAX_ROWS = 10_000
_JOBS = "JOBS"
"""Whose materialisations are: the catalogue is the platform's, not a tenant's."""
A = TypeVar("A", bound=msgspec.Struct)


class Push(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows for a source. `id`: the same one within two minutes is the same push. `key`: which of the tenant's pays."""

    source: str
    rows: list[dict[str, Any]]
    id: str = ""
    key: str = ""


class Dead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    source: str = ""
    after: int = 0
    limit: int = 100
    tenant: str = ""


class Redrive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dead letters by sequence; none: all of the source."""

    tenant: str
    sequences: list[int] = []
    source: str = ""


class Materialize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As `FeatureJob`."""

    view: str
    paths: list[str]
    timestamp_column: str = "event_timestamp"
    arrived_column: str = ""
    until: float = 0.0
    slices: int = 16
    out: str = ""


class Named(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str


class Fresh(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How new views are (none: all); with `keys` (rows of join keys), also what is stored of these."""

    views: list[str] = []
    keys: list[dict[str, Any]] = []


class Operations:
    """`verbs` are what they are called on the bus."""

    def __init__(
        self,
        bus: Bus,
        store: FeatureStore,
        shapes: Callable[[], Mapping[str, SourceShape]],
        consumers: Consumers,
        limits: RowLimits,
        paying: Paying,
    ) -> None:
        self._bus = bus
        self._store = store
        self._shapes = shapes
        self._consumers = consumers
        self._limits = limits
        self._paying = paying
        self._book = FeatureJobBook(bus)
        self._dead = DeadRows(bus)

    @property
    def verbs(self) -> dict[str, Operation]:
        return {
            "push": self.push, "dead": self.dead, "redrive": self.redrive, "materialize": self.materialize,
            "jobs": self.jobs, "job": self.job, "cancel": self.cancel, "list": self.list, "show": self.show,
            "lineage": self.lineage, "freshness": self.freshness,
        }  # fmt: skip

    # --- writing ----------------------------------------------------------------------------------------------------------

    async def push(self, tenant: str, arguments: Mapping[str, Any]) -> Any:
        """Check rows and queue those that are right; says which are not, and why."""
        push = _read(arguments, Push)
        shape = self._shapes().get(push.source)
        if shape is None or not shape.is_open_to(tenant):
            known = ", ".join(sorted(name for name, one in self._shapes().items() if one.is_open_to(tenant))) or "none"
            raise NotFound(f"there is no source {push.source!r}; there are {known}", param="source")
        if len(push.rows) > _MAX_ROWS:
            raise InvalidRequest(f"{len(push.rows)} rows; at most {_MAX_ROWS} in one push", param="rows")
        _, faults = split_rows(shape, push.rows, time.time(), self._limits)
        refused = {one.row for one in faults}
        rows = [row for n, row in enumerate(push.rows) if n not in refused]
        sequence = 0
        if rows:
            identity = self._paying.identity_of(tenant, push.key, push.source)
            await self._paying.look(identity, push.source, len(rows))  # it is counted when it is written
            body = to_json(PushMessage(rows=rows, id=push.id))
            msg_id = routes.push_name(tenant, push.source, push.id) if push.id else None
            sequence = await self._bus.accept(
                routes.features_push(tenant, push.source), body, paid_by(push.key), msg_id=msg_id
            )
        return msgspec.to_builtins(PushAnswer(accepted=len(rows), sequence=sequence, refused=faults))

    async def dead(self, tenant: str, arguments: Mapping[str, Any]) -> Any:
        asked = _read(arguments, Dead)
        whose = asked.tenant if tenant == routes.PLATFORM and asked.tenant else tenant
        found = await self._dead.of(whose, asked.source, after=asked.after, limit=min(max(asked.limit, 1), 1000))
        return msgspec.to_builtins(found)

    async def redrive(self, _: str, arguments: Mapping[str, Any]) -> Any:
        asked = _read(arguments, Redrive)
        sequences = asked.sequences
        if not sequences:
            sequences = [one.sequence for one in await self._dead.of(asked.tenant, asked.source, limit=1000)]
        return {"pushed": [await self._dead.again(asked.tenant, sequence) for sequence in sequences]}

    async def materialize(self, _: str, arguments: Mapping[str, Any]) -> Any:
        asked = _read(arguments, Materialize)
        view = next((one for one in self._store.catalogue.views if one.name == asked.view), None)
        if view is None:
            raise NotFound(f"there is no view {asked.view!r}", param="view")
        if not asked.paths:
            raise InvalidRequest("which files?", param="paths")
        if asked.out and view.type != STREAM_VIEW:
            raise InvalidRequest(f"{asked.view} has no windows", param="view")
        if asked.out and not PurePath(asked.out).is_absolute():
            raise InvalidRequest("out is a folder's whole path", param="out")
        if not 1 <= asked.slices <= 4096:
            raise InvalidRequest("slices: 1 to 4096", param="slices")
        job = FeatureJob(
            id="", tenant=_JOBS, view=asked.view, paths=asked.paths, created=time.time(),
            timestamp_column=asked.timestamp_column, arrived_column=asked.arrived_column, until=asked.until,
            slices=asked.slices, out=asked.out,
        )  # fmt: skip
        return msgspec.to_builtins(await self._book.create(job))

    async def jobs(self, _: str, __: Mapping[str, Any]) -> Any:
        return msgspec.to_builtins(await self._book.of_tenant(_JOBS))

    async def job(self, _: str, arguments: Mapping[str, Any]) -> Any:
        return msgspec.to_builtins(await self._book.find(_JOBS, _read(arguments, Named).name))

    async def cancel(self, _: str, arguments: Mapping[str, Any]) -> Any:
        def decide(job: FeatureJob) -> FeatureJob:
            if job.state not in {QUEUED, RUNNING}:
                raise Conflict(f"the job {job.id} is {job.state}")
            return msgspec.structs.replace(job, state=CANCELLED, ended=time.time())

        name = _read(arguments, Named).name
        return msgspec.to_builtins(await self._book.change(_JOBS, name, decide))

    # --- finding ------------------------------------------------------------------------------------------------------------

    async def list(self, _: str, __: Mapping[str, Any]) -> Any:
        """Give the whole catalogue, and who uses which service."""
        catalogue = self._store.catalogue
        return msgspec.to_builtins(catalogue) | {"used": msgspec.to_builtins(await self._consumers.used())}

    async def show(self, _: str, arguments: Mapping[str, Any]) -> Any:
        """Give the record of what is called so."""
        name = _read(arguments, Named).name
        catalogue = self._store.catalogue
        for kind, records in (
            ("service", catalogue.services), ("view", catalogue.views), ("source", catalogue.sources),
            ("entity", catalogue.entities),
        ):  # fmt: skip
            for one in records:
                if one.name == name:
                    return {"kind": kind, **msgspec.to_builtins(one)}
        raise NotFound(f"nothing is called {name!r}", param="name")

    async def lineage(self, _: str, arguments: Mapping[str, Any]) -> Any:
        name = _read(arguments, Named).name
        found = lineage_of(self._store.catalogue, await self._consumers.used(), name)
        if found is None:
            raise NotFound(f"nothing is called {name!r}", param="name")
        return msgspec.to_builtins(found)

    async def freshness(self, _: str, arguments: Mapping[str, Any]) -> Any:
        asked, fresh, now = _read(arguments, Fresh), await self._consumers.freshness(), time.time()
        views = {one.name: one for one in self._store.catalogue.views}
        for name in asked.views:
            if name not in views:
                raise NotFound(f"there is no view {name!r}", param="views")
        found = []
        for name in asked.views or sorted(views):
            known = fresh.get(name)
            row: dict[str, Any] = {"view": name, "type": views[name].type, "ttl_s": views[name].ttl_s}
            if known is not None:
                row |= {
                    "newest_age_s": round(now - known.event_time, 3),
                    "written_ago_s": round(now - known.written, 3),
                }
                row["rows"] = known.rows
            if asked.keys:
                times = self._store.newest(name, asked.keys)
                row["ages_s"] = [round(now - one, 3) if one else None for one in times]
            found.append(row)
        return found


def _read(arguments: Mapping[str, Any], type_: type[A]) -> A:
    try:
        return msgspec.convert(dict(arguments), type=type_)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(str(exc), param=field_of(exc)) from exc

"""FeastStore: Feast behind the port `FeatureStore`. Synchronous, as its client library is."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from feast import FeatureStore as Feast
from feast import OnDemandFeatureView, RepoConfig
from feast.protos.feast.core.Registry_pb2 import Registry
from google.protobuf.message import DecodeError
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from inferbus.contracts.features import Catalogue
from inferbus_features.adapters.feast.catalogue import Definitions, catalogue_of, definitions_of
from inferbus_features.adapters.feast.plans import ServicePlan, ViewPlan, plan_of, view_plan
from inferbus_features.adapters.feast.reading import Reader, RedisReader, entity_key
from inferbus_features.adapters.feast.sqlite_reading import SqliteReader
from inferbus_features.ports import Column, StoreDown, WriteRow

_WARM_ROWS = 2


class FeastStore:
    """Implements `FeatureStore`. `online` is Feast's configuration of its online store, `state` a folder for the copy of the
    registry (one file to a process: `name`)."""

    def __init__(self, online: dict[str, Any], state: Path, *, name: str = "registry") -> None:
        self._online = online
        self._path = state / f"{name}.db"
        self._catalogue = Catalogue(project="")
        self._feast: Feast | None = None
        self._reader: Reader | None = None
        self._found = Definitions({}, {}, {}, {})
        self._plans: dict[tuple[str, tuple[str, ...]], ServicePlan] = {}
        self._views: dict[str, ViewPlan] = {}
        self._client: Any = None

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    def load(self, registry: bytes) -> None:
        try:
            project = Registry.FromString(registry).projects[0].spec.name
        except (DecodeError, IndexError) as exc:
            raise ValueError(f"these bytes are no registry: {exc!r}") from exc
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(registry)
        config = RepoConfig(
            project=project, provider="local", entity_key_serialization_version=3,
            registry={"path": str(self._path), "cache_ttl_seconds": 0}, # it changes by `load` only
            online_store=self._online, offline_store={"type": "file"},
        )  # fmt: skip
        feast = Feast(config=config)
        found = definitions_of(feast.registry, project)
        views = [one for one in found.views.values() if hasattr(one, "entities")]
        catalogue = msgspec.structs.replace(catalogue_of(found, project), revision=hashlib.sha256(registry).hexdigest())
        store = feast._get_provider().online_store
        reader = self._make_reader(store, config)
        with _translated():
            store.update(config, [], views, [], [], partial=False)  # tables, where it has some
        self._feast, self._reader, self._found = feast, reader, found
        self._plans, self._views, self._catalogue = {}, {}, catalogue
        with suppress(StoreDown):  # it is served as soon as the store is back
            self._warm_up()

    def read(
        self, service: str, entities: dict[str, list[Any]], context: dict[str, list[Any]], features: Sequence[str] = ()
    ) -> list[Column]:
        feast, plan = self._loaded(), self._plan_of(service, tuple(features))
        rows = len(next(iter((entities | context).values()), [None]))
        with _translated():
            if plan.on_demand:
                return self._through_feast(feast, plan, entities | context)
            found = {column.name: column for column in self._reader_of().read(plan, entities, rows)}
        return [found[name] for name in plan.names]

    def write(self, view: str, rows: Sequence[WriteRow]) -> None:
        feast, plan = self._loaded(), self._view_of(view)
        newest: dict[tuple[Any, ...], WriteRow] = {}
        for row in rows:
            key = tuple(row.keys[name] for name in plan.keys)
            if key not in newest or row.event_time > newest[key].event_time:
                newest[key] = row
        kinds = {one.feature: one.kind for one in plan.features}
        with _translated():
            if self._online["type"] == "sqlite":  # which would overwrite what is newer
                stored = self._reader_of().newest(plan, list(newest))
                old = {key for key, time in zip(newest, stored, strict=True) if newest[key].event_time <= time}
                newest = {key: row for key, row in newest.items() if key not in old}
            data = [
                (
                    entity_key(plan, key),
                    {name: kinds[name].encode(value) for name, value in row.values.items()},
                    datetime.fromtimestamp(row.event_time, UTC),
                    None,
                )
                for key, row in newest.items()
            ]
            if data:
                feast._get_provider().online_store.online_write_batch(feast.config, plan.view, data, None)

    def newest(self, view: str, keys: Sequence[dict[str, Any]]) -> list[float]:
        plan = self._view_of(view)
        with _translated():
            return self._reader_of().newest(plan, [tuple(key[name] for name in plan.keys) for key in keys])

    def close(self) -> None:
        """Let go of connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _through_feast(self, feast: Feast, plan: ServicePlan, columns: dict[str, list[Any]]) -> list[Column]:
        """Read by Feast's front door, which runs transformations; columns are taken out of its protobuf by name."""
        answer = feast.get_online_features(features=plan.service, entity_rows=columns).proto
        places = {name: place for place, name in enumerate(answer.metadata.feature_names.val)}
        found = []
        for name in plan.names:
            vector, kind = answer.results[places[name]], plan.kinds[name]
            decode, field = kind.decode(), kind.field
            values = [decode(value) if value.HasField(field) else None for value in vector.values]
            times = [float(time.seconds) for time in vector.event_timestamps]
            found.append(Column(name, plan.view_names[name], values, times))
        return found

    def _plan_of(self, service: str, only: tuple[str, ...]) -> ServicePlan:
        plan = self._plans.get((service, only))
        if plan is None:
            self._loaded()
            plan = plan_of(self._found, self._found.services[service], only)
            if len(self._plans) > _MANY_PLANS:
                self._plans.clear()
            self._plans[service, only] = plan
        return plan

    def _view_of(self, name: str) -> ViewPlan:
        plan = self._views.get(name)
        if plan is None:
            self._loaded()
            if isinstance(self._found.views[name], OnDemandFeatureView):
                raise KeyError(name)
            plan = self._views[name] = view_plan(self._found, self._found.views[name])
        return plan

    def _make_reader(self, store: Any, config: RepoConfig) -> Reader:
        if self._online["type"] == "sqlite":
            return SqliteReader(store, config)
        if self._client is None:
            self._client = store._get_client(config.online_store)
            # Its own default asks three times, with seconds between: this process does nothing else meanwhile.
            self._client.set_retry(Retry(NoBackoff(), 1))
        else:
            store._client = self._client  # connections outlive definitions
        return RedisReader(store, config, self._client)

    def _reader_of(self) -> Reader:
        if self._reader is None:
            raise StoreDown("nothing is defined yet: inferbus features apply")
        return self._reader

    def _warm_up(self) -> None:
        """Ask every service once, so that the first client does not pay for plans, imports and connections."""
        for service in self._catalogue.services:
            samples: dict[str, Any] = dict.fromkeys(("int32", "int64"), 0) | dict.fromkeys(("float32", "float64"), 0.0)
            samples |= {"string": "", "bool": False}
            entities = {name: [samples[kind]] * _WARM_ROWS for name, kind in service.join_keys.items()}
            if all(kind in samples for kind in service.context.values()):
                self.read(
                    service.name,
                    entities,
                    {name: [samples[kind]] * _WARM_ROWS for name, kind in service.context.items()},
                )

    def _loaded(self) -> Feast:
        if self._feast is None:
            raise StoreDown("nothing is defined yet: inferbus features apply")
        return self._feast


_MANY_PLANS = 1000


@contextmanager
def _translated() -> Iterator[None]:
    """Tell a store that is away from everything else that may be wrong."""
    try:
        yield
    except (RedisError, sqlite3.OperationalError, OSError) as exc:
        raise StoreDown(f"{type(exc).__name__}: {exc}") from exc


def online_config(kind: str, *, redis: str, redis_timeout_s: float, state: Path) -> dict[str, Any]:
    """Write down which online store Feast is to use."""
    if kind == "sqlite":
        return {"type": "sqlite", "path": str(state / "online.db")}
    bounds = f"socket_timeout={redis_timeout_s},socket_connect_timeout={redis_timeout_s}"
    hosts = [part for part in redis.split(",") if "=" not in part]
    shared = {"type": "redis", "connection_string": f"{redis},{bounds}"}
    return shared | ({"redis_type": "redis_cluster"} if len(hosts) > 1 else {})

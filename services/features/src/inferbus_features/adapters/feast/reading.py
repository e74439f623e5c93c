"""Reading a plan's views from Redis, columnar: once for all, with one command for each key and not for each view of it, since
views of the same entities lie in one hash. Where things lie is known from Feast's own functions only. (`sqlite_reading`: the
embedded store's.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from feast import RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from google.protobuf.timestamp_pb2 import Timestamp

from inferbus_features.adapters.feast.kinds import KINDS, Value
from inferbus_features.adapters.feast.plans import NO_KEYS, ServicePlan, ViewPlan
from inferbus_features.ports import Column

_MAX_KNOWN_KEYS = 200_000
_NANOS = 1e-9
Keys = list[tuple[Any, ...]]


class Reader(Protocol):
    """Reads the views of a plan for columns of join keys."""

    def read(self, plan: ServicePlan, columns: dict[str, list[Any]], rows: int) -> list[Column]: ...

    def newest(self, view: ViewPlan, keys: Keys) -> list[float]:
        """Say when what is stored of each key happened; 0.0: nothing is."""
        ...


def entity_key(view: ViewPlan, values: tuple[Any, ...]) -> Any:
    """Make Feast's key of a row."""
    if not view.keys:
        return EntityKey(join_keys=[NO_KEYS], entity_values=[Value(string_val="")])
    kinds = zip(view.key_kinds, values, strict=True)
    return EntityKey(join_keys=list(view.keys), entity_values=[kind.encode(value) for kind, value in kinds])


def distinct(view: ViewPlan, columns: dict[str, list[Any]], rows: int) -> tuple[Keys, list[int] | None]:
    """Give the keys of a view that are asked for, each once, and which of them each row is of (None: the rows themselves)."""
    if not view.columns:
        return [()], [0] * rows
    asked: Keys = list(zip(*(columns[name] for name in view.columns), strict=True))
    places = {key: place for place, key in enumerate(dict.fromkeys(asked))}
    if len(places) == rows:
        return asked, None
    return list(places), [places[key] for key in asked]


class _Command(msgspec.Struct, frozen=True):
    """What is asked of one hash: the views in it, in the order of `fields`."""

    views: tuple[ViewPlan, ...]
    fields: list[Any]


class RedisReader:
    """For Redis. `client` is the one the store itself uses."""

    def __init__(self, store: Any, config: RepoConfig, client: Any) -> None:
        self._store = store
        self._config = config
        self._client = client
        self._commands: dict[int, tuple[ServicePlan, tuple[_Command, ...]]] = {}
        self._known: dict[tuple[tuple[str, ...], tuple[Any, ...]], bytes] = {}
        self._decoders = {name: _from_bytes(name) for name in KINDS}

    def read(self, plan: ServicePlan, columns: dict[str, list[Any]], rows: int) -> list[Column]:
        commands = self._commands_of(plan)
        pipe = self._client.pipeline(transaction=False)
        asked: list[tuple[_Command, int, list[int] | None]] = []
        for command in commands:
            keys, places = distinct(command.views[0], columns, rows)
            for key in self._keys_of(command.views[0], keys):
                pipe.hmget(key, command.fields)
            asked.append((command, len(keys), places))
        answers = pipe.execute()
        found: list[Column] = []
        start = 0
        for command, count, places in asked:
            found += self._columns(command, answers[start : start + count], places)
            start += count
        return found

    def newest(self, view: ViewPlan, keys: Keys) -> list[float]:
        field = self._fields_of([view])[-1]
        pipe = self._client.pipeline(transaction=False)
        for key in self._keys_of(view, keys):
            pipe.hget(key, field)
        return [_time_of(raw) for raw in pipe.execute()]

    def _columns(self, command: _Command, answers: list[list[Any]], places: list[int] | None) -> list[Column]:
        """Turn the rows of one command into columns."""
        found: list[Column] = []
        by_field = list(zip(*answers, strict=True))
        at = 0
        for view in command.views:
            times = [_time_of(raw) for raw in by_field[at + len(view.features)]]
            for one in view.features:
                decode = self._decoders[one.kind.name]
                values = [decode(raw) if raw else None for raw in by_field[at]]
                found.append(spread(one.name, view.name, values, times, places))
                at += 1
            at += 1  # the time's own field
        return found

    def _commands_of(self, plan: ServicePlan) -> tuple[_Command, ...]:
        """Put views of the same keys into one command each; found out once for a plan."""
        known = self._commands.get(id(plan))
        if known is not None:
            return known[1]
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[ViewPlan]] = {}
        for view in plan.views:
            groups.setdefault((view.keys, view.columns), []).append(view)
        commands = tuple(_Command(tuple(views), self._fields_of(views)) for views in groups.values())
        self._commands[id(plan)] = (plan, commands)  # the plan is kept, so that its id stays its own
        return commands

    def _fields_of(self, views: Sequence[ViewPlan]) -> list[Any]:
        fields: list[Any] = []
        for view in views:
            names = [one.feature for one in view.features]
            fields += self._store._generate_hset_keys_for_features(view.view, names)[1]
        return fields

    def _keys_of(self, view: ViewPlan, keys: Keys) -> list[bytes]:
        """Give the names of hashes; those of rows asked for before are known."""
        known, names = self._known, view.keys
        if len(known) > _MAX_KNOWN_KEYS:
            known.clear()
        new = [key for key in keys if (names, key) not in known]
        if new:
            made = self._store._generate_redis_keys_for_entities(self._config, [entity_key(view, key) for key in new])
            known.update(zip(((names, key) for key in new), made, strict=True))
        return [known[names, key] for key in keys]


def _from_bytes(name: str) -> Callable[[bytes], Any]:
    """Give the function from a stored value's bytes to a plain one."""
    parse, decode = Value.FromString, KINDS[name].decode()
    return lambda raw: decode(parse(raw))


def _time_of(raw: bytes | None) -> float:
    if not raw:
        return 0.0
    time = Timestamp.FromString(raw)
    return float(time.seconds + time.nanos * _NANOS)


def spread(name: str, view: str, values: list[Any], times: list[float], places: list[int] | None) -> Column:
    """Make a column of all rows out of what distinct keys have."""
    if places is None:
        return Column(name, view, values, times)
    return Column(name, view, [values[place] for place in places], [times[place] for place in places])

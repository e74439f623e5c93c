"""Whether a request can be read, and its rows in full. Pure. What is refused names the field."""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec

from inferbus.contracts.features import GetRequest
from inferbus.errors import InvalidRequest, NotFound, TooLarge
from inferbus_features.domain.services import ServiceSpec

_BOUNDS = {"int32": 2**31, "int64": 2**63}
_TYPES: dict[str, tuple[type, ...]] = {
    "int32": (int,), "int64": (int,), "string": (str,), "bool": (bool,), "float32": (int, float), "float64": (int, float),
    "timestamp": (int, float), "bytes": (str,),
}  # fmt: skip


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one request: rows, and rows times features."""

    rows: int = 2000
    values: int = 500_000


class Checked(msgspec.Struct, frozen=True):
    """A request that can be read: every list has `rows` entries. `names` are the columns asked for, () for all of them."""

    rows: int
    entities: dict[str, list[Any]]
    context: dict[str, list[Any]]
    names: tuple[str, ...]
    max_age_s: float | None


def check(request: GetRequest, service: ServiceSpec, limits: Limits) -> Checked:
    """Fill in single values, and check what is asked.

    Raises:
        InvalidRequest, NotFound, TooLarge: `param` names the field.
    """
    _check_names("entities", request.entities, service.join_keys, service.name)
    _check_names("context", request.context, service.context, service.name)
    names = _columns(request.features, service)
    rows = _rows(request)
    if rows > limits.rows:
        raise TooLarge(f"{rows} rows are asked for, the limit is {limits.rows}", param="entities")
    width = len(names) or len(service.columns)
    if rows * width > limits.values:
        raise TooLarge(f"{rows} rows of {width} features are asked for, the limit is {limits.values} values")
    if request.max_age_s is not None and not request.max_age_s > 0:
        raise InvalidRequest("max_age_s is a positive number of seconds", param="max_age_s")
    entities = {
        name: _values("entities", name, request.entities[name], kind, rows) for name, kind in service.join_keys.items()
    }
    context = {
        name: _values("context", name, request.context[name], kind, rows) for name, kind in service.context.items()
    }
    max_age_s = request.max_age_s if request.max_age_s is not None else service.max_age_s
    return Checked(rows, entities, context, names, max_age_s)


def _check_names(field: str, given: dict[str, Any], wanted: dict[str, str], service: str) -> None:
    if given.keys() == wanted.keys():
        return
    for name in given:
        if name not in wanted:
            known = ", ".join(f"`{one}`" for one in wanted) or "none"
            raise InvalidRequest(
                f"{field}: service `{service}` has no `{name}`, it takes {known}", param=f"{field}.{name}"
            )
    missing = next(name for name in wanted if name not in given)
    raise InvalidRequest(
        f"{field}: service `{service}` needs `{missing}` ({wanted[missing]})", param=f"{field}.{missing}"
    )


def _columns(features: list[str], service: ServiceSpec) -> tuple[str, ...]:
    if not features:
        return ()
    for place, name in enumerate(features):
        if name not in service.columns:
            raise NotFound(f"service `{service.name}` has no feature `{name}`", param=f"features[{place}]")
    if len(set(features)) < len(features):
        raise InvalidRequest("features: one is named twice", param="features")
    return tuple(features)


def _rows(request: GetRequest) -> int:
    """Count rows: the length of the lists, 1 where there are only single values."""
    rows, first = -1, ""
    for field, given in (("entities", request.entities), ("context", request.context)):
        for name, values in given.items():
            if isinstance(values, list):
                if rows >= 0 and len(values) != rows:
                    raise InvalidRequest(
                        f"{field}.{name} has {len(values)} values, {first} has {rows}", param=f"{field}.{name}"
                    )
                rows, first = len(values), first or f"{field}.{name}"
    if rows == 0:
        raise InvalidRequest(f"{first} is empty", param=first)
    return max(rows, 1)


def _values(field: str, name: str, given: Any, kind: str, rows: int) -> list[Any]:
    """Give the values of one key, one to a row, each of its kind."""
    if isinstance(given, list):
        bound = _BOUNDS.get(kind)
        if bound is not None and set(map(type, given)) == {int} and -bound <= min(given) and max(given) < bound:
            return given  # nearly always
        for place, value in enumerate(given):
            _check_kind(f"{field}.{name}[{place}]", value, kind)
        return given
    _check_kind(f"{field}.{name}", given, kind)
    return [given] * rows


def _check_kind(where: str, value: Any, kind: str) -> None:
    if kind.startswith("list<"):
        if not isinstance(value, list):
            _wrong(where, value, kind)
        for one in value:
            _check_kind(where, one, kind[5:-1])
        return
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        _wrong(where, value, kind)
    bound = _BOUNDS.get(kind)
    if bound is not None and isinstance(value, int) and not -bound <= value < bound:
        raise InvalidRequest(f"{where}: {value} does not fit {kind}", param=where)


def _wrong(where: str, value: Any, kind: str) -> NoReturn:
    raise InvalidRequest(f"{where}: expected {kind}, got {type(value).__name__}", param=where)

"""Filters in the words of the server's client."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models as m

from inferbus.contracts.vector_search import AND, EXISTS, IN, NOT, OR, Filter
from inferbus_vectors.domain.facets import TIMES, kind_of
from inferbus_vectors.domain.points import Scope, Where
from inferbus_vectors.domain.stored import EXPIRES, NUMBER, SCOPE, TENANT, scope_key


def matches(key: str, value: str | int) -> m.FieldCondition:
    return m.FieldCondition(key=key, match=m.MatchValue(value=value))


def scope_condition(scope: Scope) -> m.FieldCondition:
    """Whose points: what no filter of anybody's can widen."""
    return matches(SCOPE, scope_key(scope)) if scope.collection else matches(TENANT, scope.tenant)


def filter_of(where: Where, ids: Sequence[str] | None = None, not_ids: Sequence[str] = ()) -> m.Filter:
    """Translate; `ids` are those of the documents that are named."""
    must: list[m.Condition] = [scope_condition(where.scope)]
    if where.heads_only:
        must.append(matches(NUMBER, 0))
    if where.expired_at:
        must.append(m.FieldCondition(key=EXPIRES, range=m.Range(lte=where.expired_at)))
    if where.filter is not None:
        must.append(_condition(where.filter))
    if ids is not None:
        must.append(m.HasIdCondition(has_id=list(ids)))
    must_not: list[m.Condition] = [m.HasIdCondition(has_id=list(not_ids))] if not_ids else []
    if where.alive_at:
        must_not.append(m.FieldCondition(key=EXPIRES, range=m.Range(lte=where.alive_at)))
    return m.Filter(must=must, must_not=must_not or None)


def _condition(one: Filter) -> m.Condition:
    if one.type in (AND, OR, NOT):
        parts = [_condition(part) for part in one.filters]
        if one.type == AND:
            return m.Filter(must=parts)
        return m.Filter(should=parts) if one.type == OR else m.Filter(must_not=parts)
    if one.type == EXISTS:
        return m.Filter(must_not=[m.IsEmptyCondition(is_empty=m.PayloadField(key=one.key))])
    if one.type == IN:
        return m.FieldCondition.model_validate({"key": one.key, "match": {"any": one.value}})
    kind = m.DatetimeRange if kind_of(one.key) == TIMES else m.Range
    return m.FieldCondition(key=one.key, range=kind.model_validate({one.type: one.value}))

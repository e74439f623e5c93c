"""Filters in the embedded engine's words."""

from __future__ import annotations

import qdrant_edge as qe

from inferbus.contracts.vector_search import AND, EXISTS, IN, NOT, OR, Filter
from inferbus_vectors.domain.facets import TIMES, kind_of
from inferbus_vectors.domain.points import Scope, Where
from inferbus_vectors.domain.stored import EXPIRES, NUMBER, SCOPE, TENANT, scope_key


def scope_condition(scope: Scope) -> qe.FieldCondition:
    """Whose points: what no filter of anybody's can widen."""
    if scope.collection:
        return qe.FieldCondition(key=SCOPE, match=qe.MatchValue(scope_key(scope)))
    return qe.FieldCondition(key=TENANT, match=qe.MatchValue(scope.tenant))


def filter_of(where: Where, ids: set[str] | None = None, not_ids: set[str] | None = None) -> qe.Filter:
    """Translate; `ids` are those of the documents that are named."""
    must: list[object] = [scope_condition(where.scope)]
    if where.heads_only:
        must.append(qe.FieldCondition(key=NUMBER, match=qe.MatchValue(0)))
    if where.expired_at:
        must.append(qe.FieldCondition(key=EXPIRES, range=qe.RangeFloat(lte=where.expired_at)))
    if where.filter is not None:
        must.append(_condition(where.filter))
    if ids is not None:
        must.append(qe.HasIdCondition(ids))
    must_not: list[object] = [qe.HasIdCondition(not_ids)] if not_ids else []
    if where.alive_at:
        must_not.append(qe.FieldCondition(key=EXPIRES, range=qe.RangeFloat(lte=where.alive_at)))
    return qe.Filter(must=must, must_not=must_not or None)


def _condition(one: Filter) -> object:
    match one.type:
        case _ if one.type == AND:
            return qe.Filter(must=[_condition(part) for part in one.filters])
        case _ if one.type == OR:
            return qe.Filter(should=[_condition(part) for part in one.filters])
        case _ if one.type == NOT:
            return qe.Filter(must_not=[_condition(part) for part in one.filters])
        case _ if one.type == EXISTS:
            return qe.Filter(must_not=[qe.IsEmptyCondition(one.key)])
        case _ if one.type == IN:
            return qe.FieldCondition(key=one.key, match=qe.MatchAny(one.value))
        case _:
            range_ = qe.RangeDateTime if kind_of(one.key) == TIMES else qe.RangeFloat
            return qe.FieldCondition(key=one.key, range=range_(**{one.type: one.value}))

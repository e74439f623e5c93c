"""What a point's payload has, the same in every engine; and what storing a document takes. Pure.

Of a chunk: `t` tenant, `c` scope (tenant/collection), `d` document, `n` chunk, `v` version, `p` the payload's JSON as text,
`x` the chunk's text, `f` facets, `a` when it was indexed, `e` when it is to go. Of a head also `m`, how many chunks there
are, and `o`, how many there ever were, if more. A gravestone has `c` elsewhere, where no search looks, and `g`, its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from inferbus_vectors.domain.points import DELETED, INDEXED, STALE, Chunk, Found, Scope, Write, point_id

TENANT, SCOPE, NUMBER, EXPIRES, GRAVE = "t", "c", "n", "e", "g"
HEAD_KEYS = ["v", "m", "o", "g"]
DENSE, SPARSE = "d", "s"
"""Names of the two vectors."""
_LIGHT = ["d", "n", "v", "m", "a", "e", "c"]
_decode = msgspec.json.Decoder().decode


def scope_key(scope: Scope) -> str:
    return f"{scope.tenant}/{scope.collection}"


def grave_key(scope: Scope) -> str:
    return f"{scope.tenant}/{scope.collection}/gone"


def keys_wanted(*, payload: bool, text: bool) -> list[str]:
    """Say which parts of a point are to be read."""
    return [*_LIGHT, *(["p"] if payload else []), *(["x"] if text else [])]


def found_from(payload: Mapping[str, Any], *, score: float = 0.0) -> Found:
    """Make what was found of what is stored (without its vectors)."""
    return Found(
        id=payload["d"], chunk=payload["n"], version=payload["v"], score=score, payload=payload.get("p", "{}").encode(),
        text=payload.get("x", ""), collection=payload["c"].partition("/")[2], chunks=payload.get("m", 1),
        at=payload.get("a", 0.0), expires_at=payload.get("e", 0.0),
    )  # fmt: skip


class NewPoint(msgspec.Struct, frozen=True):
    """A point to be put in; `chunk` None: without vectors."""

    id: str
    payload: dict[str, Any]
    chunk: Chunk | None


class Plan(msgspec.Struct, frozen=True):
    """What to do for some documents: put points in, all at once, then take others out. `outcomes` is of each document."""

    put: list[NewPoint]
    take_out: list[str]
    outcomes: list[str]


def plan(writes: Sequence[Write], names: Sequence[str], heads: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Decide. `names` are those of the documents' heads (`head_ids`), `heads` the stored ones (their `HEAD_KEYS`) by them.

    All points of a document go in at once, its head among them; what is over of an older state goes after that. A head
    remembers how many chunks there ever were, so that whoever comes after a crash between the two knows what to take out.
    """
    put: list[NewPoint] = []
    take_out: list[str] = []
    outcomes: list[str] = []
    for write, name in zip(writes, names, strict=True):
        head = heads.get(name, {})
        if head and head["v"] > write.version:
            outcomes.append(STALE)
            continue
        ever = max(head.get("m", 0), head.get("o", 0))
        put.extend(_points(write, name, ever))
        take_out.extend(point_id(write.scope, write.id, n) for n in range(max(1, len(write.chunks)), ever))
        outcomes.append(INDEXED if write.chunks else DELETED)
    return Plan(put, take_out, outcomes)


def head_ids(writes: Sequence[Write]) -> list[str]:
    return [point_id(write.scope, write.id, 0) for write in writes]


def _points(write: Write, head: str, ever: int) -> list[NewPoint]:
    count = len(write.chunks)
    more = {"o": ever} if ever > max(1, count) else {}
    if not count:
        grave = {"t": write.scope.tenant, "c": grave_key(write.scope), "d": write.id, "v": write.version, "m": 0}
        return [NewPoint(head, grave | more | {"g": write.at}, None)]
    common = {
        "t": write.scope.tenant, "c": scope_key(write.scope), "d": write.id, "v": write.version, "a": write.at,
        "p": write.payload.decode(),
    }  # fmt: skip
    if write.facets != b"{}":
        common["f"] = _decode(write.facets)
    if write.expires_at:
        common["e"] = write.expires_at
    points = []
    for n, chunk in enumerate(write.chunks):
        payload = common | {"n": n, "x": chunk.text}
        if n == 0:
            payload |= {"m": count} | more
        points.append(NewPoint(point_id(write.scope, write.id, n) if n else head, payload, chunk))
    return points

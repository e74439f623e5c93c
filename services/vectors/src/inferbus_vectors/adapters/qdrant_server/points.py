"""Points in the words of the server's client."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from qdrant_client import models as m

from inferbus_vectors.domain.points import Found, Sparse
from inferbus_vectors.domain.stored import DENSE, SPARSE, NewPoint, found_from


def point_of(point: NewPoint) -> m.PointStruct:
    vectors: dict[str, Any] = {}
    if point.chunk is not None:
        vectors[DENSE] = dense_of(point.chunk.vector)
        if point.chunk.sparse is not None:
            vectors[SPARSE] = sparse_of(point.chunk.sparse)
    # Its own validation would walk every number of every vector; what is here has been checked.
    return m.PointStruct.model_construct(id=point.id, vector=vectors, payload=point.payload)


def dense_of(vector: bytes) -> list[float]:
    found: list[float] = np.frombuffer(vector, "<f4").tolist()
    return found


def sparse_of(sparse: Sparse) -> m.SparseVector:
    return m.SparseVector(indices=sparse.indices, values=sparse.values)


def found_of(point: m.ScoredPoint | m.Record, score: float = 0.0) -> Found:
    found = found_from(point.payload or {}, score=score)
    vectors = point.vector
    if not isinstance(vectors, dict) or DENSE not in vectors:
        return found
    dense = np.asarray(vectors[DENSE], "<f4").tobytes()
    sparse = vectors.get(SPARSE)
    kept = Sparse(sparse.indices, sparse.values) if isinstance(sparse, m.SparseVector) else None
    return msgspec.structs.replace(found, vector=dense, sparse=kept)

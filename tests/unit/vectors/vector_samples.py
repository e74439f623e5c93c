"""Documents with vectors that are told apart at a glance, for the tests of engines."""

from __future__ import annotations

import numpy as np

from inferbus_vectors.domain.points import Chunk, Scope, ShardSpec, Sparse, Write

SHARD = ShardSpec(name="m_4", dimension=4)
DOCS, OTHERS, STRANGERS = Scope("dev", "docs"), Scope("dev", "others"), Scope("stranger", "docs")


def vector(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


def angle(degrees: float) -> bytes:
    """A vector so far from (1, 0, 0, 0)."""
    return vector(float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees))), 0.0, 0.0)


def write(id: str, *degrees: float, version: int = 1, scope: Scope = DOCS, **more: object) -> Write:
    """A document with a chunk at each of these angles."""
    texts = more.pop("texts", [f"{id} at {one:g}" for one in degrees])
    sparse = more.pop("sparse", None)
    assert isinstance(texts, list)
    chunks = [
        Chunk(vector=angle(one), text=text, sparse=sparse if isinstance(sparse, Sparse) else None)
        for one, text in zip(degrees, texts, strict=True)
    ]
    return Write(scope=scope, id=id, version=version, chunks=chunks, **more)  # type: ignore[arg-type]  # of Write's own types

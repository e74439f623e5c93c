"""BM25 as Qdrant's embedded engine has it, for either engine: term frequencies here, the rarity of words (IDF) there."""

from __future__ import annotations

import qdrant_edge

from inferbus_vectors.domain.points import Sparse


class Bm25Encoder:
    """Implements `SparseEncoder`. English stop words and stems; other languages pass through word by word."""

    def __init__(self) -> None:
        self._model = qdrant_edge.Bm25()

    def document(self, text: str) -> Sparse:
        found = self._model.embed_document(text)
        return Sparse(found.indices, found.values)

    def query(self, text: str) -> Sparse:
        found = self._model.embed_query(text)
        return Sparse(found.indices, found.values)

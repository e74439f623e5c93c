"""Splitting long text where sentences and paragraphs end: semantic-text-splitter, which is compiled and knows Unicode."""

from __future__ import annotations

from semantic_text_splitter import TextSplitter

from inferbus.contracts.vectors import Chunking

_KEPT = 64


class Splitter:
    """Cuts texts as collections want it."""

    def __init__(self) -> None:
        self._splitters: dict[tuple[int, int], TextSplitter] = {}

    def split(self, text: str, chunking: Chunking) -> list[str]:
        """Cut a text that is not blank into chunks that are not."""
        if not chunking.max_chars or len(text) <= chunking.max_chars:
            return [text]
        key = (chunking.max_chars, min(chunking.overlap_chars, chunking.max_chars - 1))
        splitter = self._splitters.get(key)
        if splitter is None:
            if len(self._splitters) >= _KEPT:
                self._splitters.clear()
            splitter = self._splitters[key] = TextSplitter(key[0], overlap=key[1])
        return list(splitter.chunks(text))

"""How files of vector stores are cut: in tokens, as the OpenAI API says it, and in characters, as collections do. Pure."""

from __future__ import annotations

import msgspec

from inferbus.contracts.vectors import Chunking
from inferbus.errors import InvalidRequest

AUTO = Chunking(max_chars=600, overlap_chars=60)
"""Fits models that read 256 tokens."""
_CHARS_PER_TOKEN = 4
_MIN_TOKENS, _MAX_TOKENS = 100, 4096


class StaticChunking(msgspec.Struct, kw_only=True):
    """In tokens, taken as four characters each: 100 to 4096, overlapping by half of that at most."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class ChunkingStrategy(msgspec.Struct, kw_only=True):
    """`auto`, or `static`. A store's is for files that say nothing themselves; a file's own counts for it alone."""

    type: str = "auto"
    static: StaticChunking | None = None


def chunking_of(strategy: ChunkingStrategy | None) -> Chunking | None:
    """Give how texts are to be cut, in characters; None where nothing is said.

    Raises:
        InvalidRequest: it is impossible; `param` names the field.
    """
    if strategy is None:
        return None
    if strategy.type == "auto":
        return AUTO
    if strategy.type != "static" or strategy.static is None:
        raise InvalidRequest("chunking_strategy is auto, or static with its sizes", param="chunking_strategy")
    most, overlap = strategy.static.max_chunk_size_tokens, strategy.static.chunk_overlap_tokens
    if not _MIN_TOKENS <= most <= _MAX_TOKENS:
        raise InvalidRequest(
            f"max_chunk_size_tokens is from {_MIN_TOKENS} to {_MAX_TOKENS}",
            param="chunking_strategy.static.max_chunk_size_tokens",
        )
    if not 0 <= overlap <= most // 2:
        raise InvalidRequest(
            "chunk_overlap_tokens is at most half of max_chunk_size_tokens",
            param="chunking_strategy.static.chunk_overlap_tokens",
        )
    return Chunking(max_chars=most * _CHARS_PER_TOKEN, overlap_chars=overlap * _CHARS_PER_TOKEN)


def described_chunking(chunking: Chunking | None) -> ChunkingStrategy | None:
    """Give the sizes a file said, in tokens again; None where it said nothing, or auto."""
    if chunking is None or chunking == AUTO:
        return None
    most, overlap = chunking.max_chars // _CHARS_PER_TOKEN, chunking.overlap_chars // _CHARS_PER_TOKEN
    return ChunkingStrategy(
        type="static", static=StaticChunking(max_chunk_size_tokens=most, chunk_overlap_tokens=overlap)
    )

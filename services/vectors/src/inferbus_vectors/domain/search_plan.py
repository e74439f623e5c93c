"""What a search asks of the engine and of models, decided from its request and its collection's record alone. Pure."""

from __future__ import annotations

import base64
import binascii
import math
import struct

import msgspec

from inferbus.contracts.vector_search import DENSE, HYBRID, MODES, SPARSE, Filter, SearchRequest
from inferbus.contracts.vectors import CollectionRecord
from inferbus.errors import InferbusError, InvalidRequest, TooLarge, Unsupported

MAX_TEXT_CHARS = 32_768
MAX_HITS = 1000
MAX_DEPTH = 10_000
MAX_CANDIDATES = 200
MAX_CONDITIONS = 256
_OVERFETCH = 4
"""Of chunks so many times as many are looked at as documents are wanted, where one document may have several."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done for a search. `vector`: the one it brought (32-bit floats); `embeds`: its text is to be
    embedded; `fetch` hits are asked of the engine after `skip`; `threshold` is the engine's to apply, None: nobody's or
    `ranking`'s. `regroups`: what comes back is ordered, thinned or cut anew.
    """

    vector: bytes | None
    embeds: bool
    is_sparse: bool
    fetch: int
    skip: int
    threshold: float | None
    regroups: bool
    with_text: bool


def plan_search(request: SearchRequest, collection: CollectionRecord) -> Plan:
    """Decide.

    Raises:
        InvalidRequest: the request cannot be meant; the message names the field. TooLarge: its text is too long.
        Unsupported: this collection cannot do that.
    """
    _check_numbers(request)
    if request.filter is not None and _conditions(request.filter) > MAX_CONDITIONS:
        raise _bad("filter", f"more than {MAX_CONDITIONS} conditions")
    given = [name for name in ("text", "vector", "vector_b64", "like") if getattr(request, name) is not None]
    if len(given) != 1:
        raise _bad(given[1] if given else "text", "exactly one of text, vector, vector_b64 and like is to be given")
    if request.text is not None:
        _check_text(request.text)
    if request.mode not in MODES:
        raise _bad("mode", f"{request.mode[:40]!r} is none of {', '.join(MODES)}")
    if request.mode != DENSE:
        _check_sparse(request, collection)
    if request.rerank is not None:
        _check_rerank(request)
    embeds = request.text is not None and request.mode in (DENSE, HYBRID)
    if embeds and not collection.live.model:
        raise Unsupported(
            f"text: the collection `{collection.name}` has no embedding model; search by vector or like", param="text"
        )
    regroups = request.rerank is not None or request.by_document
    fetch = request.limit if not regroups else _candidates(request)
    return Plan(
        vector=query_vector(request, collection.live.dimension),
        embeds=embeds,
        is_sparse=request.mode != DENSE,
        fetch=fetch,
        skip=0 if regroups else request.offset,
        threshold=None if request.rerank is not None else request.threshold,
        regroups=regroups,
        with_text=request.with_text or request.rerank is not None,
    )


def query_vector(request: SearchRequest, dimension: int) -> bytes | None:
    """Give the vector a search brought, None where it brought none.

    Raises:
        InvalidRequest: it is not one of this collection's.
    """
    if request.vector is not None:
        return pack_vector(request.vector, dimension, "vector")
    if request.vector_b64 is None:
        return None
    try:
        data = base64.b64decode(request.vector_b64, validate=True)
    except (binascii.Error, ValueError):
        raise _bad("vector_b64", "this is not base64") from None
    if len(data) != 4 * dimension:
        raise _bad("vector_b64", f"{len(data)} bytes, the collection's vectors have {dimension} times 4")
    if not math.isfinite(
        sum(struct.unpack(f"<{dimension}f", data))
    ):  # of 32 bits each: their sum is, unless one is not
        raise _bad("vector_b64", "all numbers are to be finite")
    return data


def pack_vector(vector: list[float], dimension: int, where: str) -> bytes:
    """Give a vector as it is stored.

    Raises:
        InvalidRequest: its length is another, or a number of it is none (NaN, infinite, beyond 32 bits).
    """
    if len(vector) != dimension:
        raise _bad(where, f"{len(vector)} numbers, the collection's vectors have {dimension}")
    try:
        data = struct.pack(f"<{dimension}f", *vector)
    except OverflowError:
        raise _bad(where, "a number does not fit into 32 bits") from None
    if not math.isfinite(sum(vector)):
        raise _bad(where, "all numbers are to be finite")
    return data


def _check_numbers(request: SearchRequest) -> None:
    if not 1 <= request.limit <= MAX_HITS:
        raise _bad("limit", f"1 to {MAX_HITS} is possible, not {request.limit}")
    if request.offset < 0 or request.offset + request.limit > MAX_DEPTH:
        raise _bad("offset", f"offset and limit together are at most {MAX_DEPTH}")
    if request.threshold is not None and not math.isfinite(request.threshold):
        raise _bad("threshold", "a finite number is expected")


def _conditions(filter_: Filter) -> int:
    return 1 + sum(_conditions(one) for one in filter_.filters)


def _check_text(text: str) -> None:
    if not text.strip():
        raise _bad("text", "it is empty")
    if len(text) > MAX_TEXT_CHARS:
        raise TooLarge(f"text: {len(text)} characters, the limit is {MAX_TEXT_CHARS}", param="text")


def _check_sparse(request: SearchRequest, collection: CollectionRecord) -> None:
    if not collection.hybrid:
        raise Unsupported(f"mode: the collection `{collection.name}` was made without hybrid", param="mode")
    if request.text is None:
        raise _bad("mode", f"{request.mode} needs a text")
    if request.mode == SPARSE and request.exact:
        raise _bad("exact", "a sparse search is exact anyhow")


def _check_rerank(request: SearchRequest) -> None:
    assert request.rerank is not None  # noqa: S101  # for the type checker; the caller looked
    if request.text is None:
        raise _bad("rerank", "it needs a text")
    if not request.rerank.model:
        raise _bad("rerank.model", "it is empty")
    if not 1 <= request.rerank.candidates <= MAX_CANDIDATES:
        raise _bad("rerank.candidates", f"1 to {MAX_CANDIDATES} is possible, not {request.rerank.candidates}")


def _candidates(request: SearchRequest) -> int:
    """Say how many hits are looked at where they are thinned or ordered anew."""
    wanted = request.offset + request.limit
    if request.by_document:
        wanted *= _OVERFETCH
    if request.rerank is not None:
        wanted = max(wanted, request.rerank.candidates) if request.by_document else request.rerank.candidates
        return min(max(wanted, request.offset + request.limit), MAX_CANDIDATES)
    return min(wanted, MAX_DEPTH)


def _bad(where: str, why: str) -> InferbusError:
    return InvalidRequest(f"{where}: {why}", param=where)

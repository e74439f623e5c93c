"""Checking a document against its collection, and making of it what is stored. Pure."""

from __future__ import annotations

import base64
import binascii

import msgspec
import numpy as np

from inferbus.contracts.vectors import COSINE, MAX_VERSION, Chunking, CollectionRecord, Document, Placement
from inferbus.errors import InvalidRequest, TooLarge
from inferbus_vectors.domain.facets import facets_of

_MAX_ID = 512


class DocumentLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The most a document may have."""

    text_chars: int
    payload_bytes: int


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A document that may be stored. `vector` None: its text is to be embedded."""

    n: int
    document: Document
    id: str
    version: int
    text: str = ""
    vector: bytes | None = None
    payload: bytes = b"{}"
    facets: bytes = b"{}"
    expires_at: float = 0.0

    @property
    def delete(self) -> bool:
        return self.document.delete


def check(n: int, document: Document, record: CollectionRecord, limits: DocumentLimits, *, place: int) -> Checked:
    """Check a document; `place` is its message's in the stream.

    Raises:
        InvalidRequest, TooLarge: `param` names the field that is wrong.
    """
    if not 0 < len(document.id) <= _MAX_ID or not document.id.isprintable():
        raise InvalidRequest(f"an id has 1 to {_MAX_ID} printable characters", param="id")
    if not 0 <= document.version <= MAX_VERSION:
        raise InvalidRequest(f"a version is a whole number up to {MAX_VERSION}", param="version")
    version = document.version or place
    if document.delete:
        return Checked(n=n, document=document, id=document.id, version=version)
    if document.chunking is not None:
        check_chunking(document.chunking)
    payload = bytes(document.payload)
    if len(payload) > limits.payload_bytes:
        raise TooLarge(
            f"the payload has {len(payload)} bytes, the limit is {limits.payload_bytes} bytes", param="payload"
        )
    text = document.text or ""
    if len(text) > limits.text_chars:
        raise TooLarge(f"the text has {len(text)} characters, the limit is {limits.text_chars}", param="text")
    vector = vector_of(document, record.live)
    if vector is None:
        _check_text(document, text, record.live)
    return Checked(
        n=n, document=document, id=document.id, version=version, text=text, vector=vector, payload=payload,
        facets=facets_of(payload, record.fields), expires_at=document.expires_at,
    )  # fmt: skip


def check_chunking(chunking: Chunking) -> None:
    """Raises InvalidRequest where no text can be cut like that."""
    if chunking.max_chars < 0 or not 0 <= chunking.overlap_chars <= max(0, chunking.max_chars - 1):
        raise InvalidRequest("chunking: max_chars is not negative, and overlap_chars less than it", param="chunking")


def _check_text(document: Document, text: str, place: Placement) -> None:
    if document.text is None:
        raise InvalidRequest("a document has a text or a vector", param="text")
    if not text.strip():
        raise InvalidRequest("the text is empty", param="text")
    if not place.model:
        raise InvalidRequest("this collection has no model: its documents come with vectors", param="vector")


def vector_of(document: Document, place: Placement) -> bytes | None:
    """Give the vector a document brings, if it does.

    Raises:
        InvalidRequest: it has another dimension, or numbers that are none.
    """
    if document.vector is not None and document.vector_b64 is not None:
        raise InvalidRequest("vector and vector_b64 are two forms of one thing", param="vector_b64")
    if document.vector is not None:
        with np.errstate(over="ignore"):  # it is then infinite, and refused below
            found = np.array(document.vector, np.float32)
        name = "vector"
    elif document.vector_b64 is not None:
        found, name = _decoded(document.vector_b64), "vector_b64"
    else:
        return None
    if len(found) != place.dimension:
        raise InvalidRequest(f"{name} has {len(found)} numbers, this collection's have {place.dimension}", param=name)
    if not np.isfinite(found).all():
        raise InvalidRequest(f"{name} has a number that is not finite", param=name)
    if place.distance == COSINE and not found.any():
        raise InvalidRequest(f"{name} is all zeros, which has no direction", param=name)
    return found.astype("<f4", copy=False).tobytes()


def _decoded(text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    try:
        data = base64.b64decode(text, validate=True)
        return np.frombuffer(data, "<f4")
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequest(f"vector_b64 is no base64 of 32-bit floats: {exc}", param="vector_b64") from exc


def collapsed(documents: list[Checked]) -> tuple[list[Checked], int]:
    """Leave of several states of a document the one that counts: of the highest version, of equal ones the last. Gives the
    documents, each once, and how many states were left out."""
    last: dict[str, Checked] = {}
    for one in documents:
        before = last.get(one.id)
        if before is None or one.version >= before.version:
            last.pop(one.id, None)
            last[one.id] = one
    return list(last.values()), len(documents) - len(last)

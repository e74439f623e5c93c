"""What the simulator makes of texts: vectors that have the words they are made of, and scores of texts for a query.

A word adds to numbers its hash chooses, with signs it chooses; texts with words in common are near each other, and the
same text has the same vector in every process. Another model's name gives other vectors. No model: it knows no meaning.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from functools import lru_cache
from typing import Any

import msgspec

from inferbus.contracts.step import Usage
from inferbus.errors import InvalidRequest, NotFound
from inferbus.worker.tasks import EMBEDDINGS

RERANK = "/v1/rerank"
MAX_CHARS = 100_000
_WORD = re.compile(r"\w+")
_PLACES = 4  # numbers of a vector that one word adds to
_FORMATS = ("float", "base64")


class _Item(msgspec.Struct):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class _Score(msgspec.Struct):
    index: int
    relevance_score: float


class _Tokens(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class _Vectors(msgspec.Struct):
    model: str
    data: list[_Item]
    usage: _Tokens
    object: str = "list"


class _Scores(msgspec.Struct):
    model: str
    results: list[_Score]
    usage: _Tokens


def simulated_vector(text: str, dimension: int, model: str = "") -> list[float]:
    """Give the unit vector of a text."""
    numbers = [0.0] * dimension
    for word in _words(text) or [""]:
        for at, sign in _places(word, dimension, model):
            numbers[at] += sign
    length = math.sqrt(sum(number * number for number in numbers))
    if not length:  # its words cancel each other out
        numbers[0] = length = 1.0
    return [number / length for number in numbers]


def answer_texts(path: str, body: dict[str, Any], dimension: int) -> tuple[bytes, Usage]:
    """Answer a request for embeddings or for scores.

    Raises:
        NotFound: the simulator has no such path. InvalidRequest: the message names the field.
    """
    model = str(body.get("model", ""))
    if path == EMBEDDINGS:
        return _embeddings(body, model, dimension)
    if path == RERANK:
        return _scores(body, model)
    raise NotFound(f"the simulator does not answer {path}")


def _embeddings(body: dict[str, Any], model: str, dimension: int) -> tuple[bytes, Usage]:
    said = body.get("input")
    texts = [said] if isinstance(said, str) else said
    kind = body.get("encoding_format", "float")
    if kind not in _FORMATS:
        raise InvalidRequest(f"encoding_format: expected one of {', '.join(_FORMATS)}", param="encoding_format")
    checked = _texts(texts, "input")
    items = list[_Item]()
    for index, text in enumerate(checked):
        vector = simulated_vector(text, dimension, model)
        packed = base64.b64encode(struct.pack(f"<{dimension}f", *vector)).decode() if kind == "base64" else vector
        items.append(_Item(index, packed))
    tokens = sum(max(1, len(_words(text))) for text in checked)
    return msgspec.json.encode(_Vectors(model, items, _Tokens(tokens, tokens))), Usage(tokens)


def _scores(body: dict[str, Any], model: str) -> tuple[bytes, Usage]:
    query = set(_words(_texts([body.get("query")], "query")[0]))
    documents = _texts(body.get("documents"), "documents")
    scored = [_Score(index, len(query & set(_words(text))) / (len(query) or 1)) for index, text in enumerate(documents)]
    tokens = sum(len(query) + len(_words(text)) for text in documents)
    scored.sort(key=lambda one: (-one.relevance_score, one.index))
    return msgspec.json.encode(_Scores(model, scored, _Tokens(tokens, tokens))), Usage(tokens)


def _texts(said: Any, field: str) -> list[str]:
    if not isinstance(said, list) or not said or not all(isinstance(one, str) and one for one in said):
        raise InvalidRequest(f"{field}: expected a text or a list of at least one, none empty", param=field)
    if any(len(one) > MAX_CHARS for one in said):
        raise InvalidRequest(f"{field}: a text is longer than {MAX_CHARS} characters", param=field)
    return said


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@lru_cache(maxsize=65_536)
def _places(word: str, dimension: int, model: str) -> tuple[tuple[int, float], ...]:
    digest = hashlib.blake2b(word.encode(), key=model.encode()[:64], digest_size=4 * _PLACES).digest()
    drawn = struct.unpack(f"<{_PLACES}I", digest)
    return tuple(((one >> 1) % dimension, 1.0 if one & 1 else -1.0) for one in drawn)

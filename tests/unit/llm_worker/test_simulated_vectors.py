"""The simulator's vectors: the same for the same text, nearer where words are shared, of another model others."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest

from inferbus.errors import InvalidRequest, NotFound
from inferbus_llm_worker.adapters.simulated_vectors import RERANK, answer_texts, simulated_vector


def near(one: str, other: str) -> float:
    return sum(a * b for a, b in zip(simulated_vector(one, 64), simulated_vector(other, 64), strict=True))


def test_vectors() -> None:
    assert near("open a file", "File, open a!") == pytest.approx(1.0)
    assert near("open a file", "to open a door") > near("open a file", "bananas are yellow")
    assert simulated_vector("open", 64, "m") != simulated_vector("open", 64, "n")
    for text in ("", "!!", "a" * 1000):
        assert math.isclose(sum(number**2 for number in simulated_vector(text, 7)), 1.0)


def test_answers() -> None:
    data, usage = answer_texts("/v1/embeddings", {"model": "m", "input": ["one two", "three"]}, 8)
    answer = json.loads(data)
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert answer["data"][0]["embedding"] == simulated_vector("one two", 8, "m")
    assert usage.prompt_tokens == answer["usage"]["total_tokens"] == 3
    packed, _ = answer_texts("/v1/embeddings", {"model": "m", "input": "three", "encoding_format": "base64"}, 8)
    numbers = struct.unpack("<8f", base64.b64decode(json.loads(packed)["data"][0]["embedding"]))
    assert numbers == pytest.approx(simulated_vector("three", 8, "m"))
    scores, _ = answer_texts(RERANK, {"query": "open a file", "documents": ["no", "a file opens", "open a file"]}, 8)
    assert [one["index"] for one in json.loads(scores)["results"]] == [2, 1, 0]


@pytest.mark.parametrize(
    ("body", "param"),
    [({"input": []}, "input"), ({"input": [1]}, "input"), ({"input": [""]}, "input"), ({"input": "a" * 100_001}, "input"),
     ({"input": "a", "encoding_format": "int8"}, "encoding_format")],
)  # fmt: skip
def test_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        answer_texts("/v1/embeddings", body, 8)
    assert raised.value.param == param
    with pytest.raises(NotFound):
        answer_texts("/v1/completions", body, 8)

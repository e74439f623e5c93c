"""What crosses the edges of indexing: where a report may go, and what an embedding pool may answer."""

from __future__ import annotations

import base64

import msgspec
import numpy as np
import pytest

from inferbus.contracts.vectors import REPORT_TO, Chunking
from inferbus.errors import DependencyDown, Forbidden, InvalidRequest, TooLarge
from inferbus_vectors.adapters.bus_embedder import embedded_from
from inferbus_vectors.adapters.splitter import Splitter
from inferbus_vectors.indexer import report_address


@pytest.mark.parametrize("to", ["reply.dev.client", "_INBOX_gateway.abc.7"])
def test_a_report_goes_to_its_tenant_or_a_gateway(to: str) -> None:
    assert report_address({REPORT_TO: to}, "dev") == to


@pytest.mark.parametrize(
    "to",
    [
        "",
        "reply.other.client",
        "reply.dev.>",
        "reply.dev.*",
        "infer.x",
        "_INBOX_admin.a",
        "reply.dev.a b",
        "reply.dev.a\r\nX: 1",
    ],
)
def test_and_nowhere_else(to: str) -> None:
    assert report_address({REPORT_TO: to}, "dev") is None


def test_embeddings_are_read_as_base64_and_as_numbers_in_the_order_of_their_index() -> None:
    one, two = np.array([1, 2], "<f4").tobytes(), np.array([3, 4], "<f4").tobytes()
    data = [{"index": 1, "embedding": [3.0, 4.0]}, {"index": 0, "embedding": base64.b64encode(one).decode()}]
    found = embedded_from(200, msgspec.json.encode({"data": data, "usage": {"prompt_tokens": 5}}), 2)
    assert (found.vectors, found.tokens) == ([one, two], 5)


def test_a_pool_s_refusals_say_whether_trying_again_helps() -> None:
    body = b'{"error":{"message":"over the length"}}'
    for status, kind in (
        (400, InvalidRequest),
        (403, Forbidden),
        (413, TooLarge),
        (500, DependencyDown),
        (429, DependencyDown),
    ):
        with pytest.raises(kind, match="over the length"):
            embedded_from(status, body, 1)
    for data in (b"", b"{}", b'{"data":[]}', b'{"data":[{"embedding":"?"}]}'):
        with pytest.raises(DependencyDown):
            embedded_from(200, data, 1)


def test_long_text_is_cut_where_sentences_end_and_none_of_it_is_lost() -> None:
    splitter = Splitter()
    text = " ".join(f"This is sentence number {n}." for n in range(40))
    parts = splitter.split(text, Chunking(max_chars=100))
    assert all(0 < len(part) <= 100 and part.endswith(".") for part in parts)
    assert " ".join(parts) == text
    assert splitter.split(text, Chunking(max_chars=0)) == [text]
    lapping = splitter.split(text, Chunking(max_chars=100, overlap_chars=40))
    assert len(lapping) > len(parts)

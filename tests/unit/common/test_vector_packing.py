"""Documents in messages, and what became of them; rows of files as documents."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.cli.vector_index import Reading, document_of
from inferbus.contracts.vectors import Document, DocumentFault, IndexMessage, IndexReport
from inferbus.errors import InvalidRequest, TooLarge
from inferbus.pipeline.indexing import IndexRows
from inferbus.vectors import producer
from inferbus.vectors.packing import DOCUMENT_BYTES, MESSAGE_BYTES, MESSAGE_DOCUMENTS, packed, summed

READING = Reading(id="id", text="text", vector="vector", batch=1, in_flight=1)


@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=40))
def test_messages_have_all_documents_in_their_order(sizes: list[int]) -> None:
    documents = [Document(id=str(n), text="x" * size) for n, size in enumerate(sizes)]
    messages = packed(documents)
    found = [one for message in messages for one in msgspec.json.decode(message.data, type=IndexMessage).documents]
    assert found == documents
    assert [message.first for message in messages] == [
        sum(one.count for one in messages[:n]) for n in range(len(messages))
    ]
    assert all(len(message.data) < MESSAGE_BYTES + 100 or message.count == 1 for message in messages)


def test_messages_are_bounded_by_number_and_refuse_what_is_too_large() -> None:
    counts = [one.count for one in packed(Document(id=str(n)) for n in range(MESSAGE_DOCUMENTS + 1))]
    assert counts == [MESSAGE_DOCUMENTS, 1]
    with pytest.raises(InvalidRequest, match="no documents"):
        packed([])
    with pytest.raises(TooLarge) as caught:
        packed([Document(id="a"), Document(id="b", text="x" * DOCUMENT_BYTES)])
    assert caught.value.param == "documents[1]"


def test_reports_are_added_up_and_faults_keep_their_places() -> None:
    messages = packed(Document(id=str(n)) for n in range(MESSAGE_DOCUMENTS + 2))
    fault = DocumentFault(n=1, id="x", code="invalid_request", message="no")
    reports = [
        IndexReport(tenant="t", collection="c", indexed=MESSAGE_DOCUMENTS, chunks=300),
        IndexReport(tenant="t", collection="c", indexed=1, chunks=1, faults=[fault]),
    ]
    report = summed(list(zip(messages, reports, strict=True)))
    assert (report.indexed, report.chunks) == (MESSAGE_DOCUMENTS + 1, 301)
    assert [one.n for one in report.faults] == [MESSAGE_DOCUMENTS + 1]
    lost = msgspec.structs.replace(reports[1], error="not_found", message="gone")
    assert summed([(messages[0], reports[0]), (messages[1], lost)]).error == "not_found"


def test_a_row_becomes_a_document() -> None:
    row = {"id": 7, "text": "t", "lang": "en", "version": 3}
    assert document_of(row, READING) == {"id": "7", "text": "t", "version": 3, "payload": {"lang": "en"}}
    assert document_of({"id": "a", "vector": (1, 2), "payload": {"x": 1}, "y": 2}, READING)["payload"] == {"x": 1}
    with pytest.raises(InvalidRequest, match="no column 'id'"):
        document_of({"text": "t"}, READING)


def test_a_stage_makes_the_same_document_of_a_row_every_time() -> None:
    stage = IndexRows(collection="c", id="key", text="body", vector="", payload=None, concurrency=1, retries=0)
    row = {"key": 1, "body": "b", "kind": "k"}
    assert stage.document_of(row) == {"id": "1", "text": "b", "payload": {"kind": "k"}}
    assert msgspec.structs.replace(stage, payload=("missing",)).document_of(row)["payload"] == {}
    with pytest.raises(InvalidRequest):
        stage.document_of({"body": "b"})


def test_producers_are_told_which_document_is_none() -> None:
    made = producer.document_of({"id": "a", "text": "t", "payload": {"x": 1}}, 0)
    assert (made.text, bytes(made.payload)) == ("t", b'{"x":1}')
    for wrong in ({"id": "a", "txt": "t"}, {"id": 1}, {"text": "t"}):
        with pytest.raises(InvalidRequest, match=r"documents\[4\]"):
            producer.document_of(wrong, 4)

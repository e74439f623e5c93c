"""Reading and checking documents: a fault is its document's own, and names its field."""

from __future__ import annotations

import base64
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferbus.contracts.vectors import CollectionRecord, Document, Field, IndexMessage, Placement
from inferbus.errors import DependencyDown, InferbusError, InvalidRequest, TooLarge
from inferbus_vectors.domain.checking import DocumentLimits, check, collapsed
from inferbus_vectors.domain.reading import documents_in

LIMITS = DocumentLimits(text_chars=100, payload_bytes=50)
READY = CollectionRecord(
    id="c", tenant="dev", name="docs", created=1.0, live=Placement(model="", dimension=3), fields=[Field(name="lang")]
)
TEXTS = msgspec.structs.replace(READY, live=Placement(model="m", dimension=3))


def param_of(document: Document, record: CollectionRecord = READY) -> str | None:
    with pytest.raises(InferbusError) as caught:
        check(0, document, record, LIMITS, place=1)
    return caught.value.param


def test_one_faulty_document_leaves_the_others_readable() -> None:
    data = b'{"documents":[{"id":"a","text":"x"},{"id":"b","text":7},{"id":"c","text":"y"}]}'
    good, bad, other = documents_in(data)
    assert (good.document, other.document) == (Document(id="a", text="x"), Document(id="c", text="y"))
    assert (bad.document, bad.id, bad.raw) == (None, "b", b'{"id":"b","text":7}')
    assert bad.error is not None
    assert bad.error.param == "text"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_their_document_s_fault(number: str) -> None:
    bad, good = documents_in(f'{{"documents":[{{"id":"a","vector":[1,{number}]}},{{"id":"b"}}]}}'.encode())
    assert bad.error is not None
    assert (bad.id, bad.error.param, good.document) == ("a", "vector", Document(id="b"))


def test_what_is_no_message_is_refused_and_a_later_version_waits() -> None:
    for data in (b"", b"[]", b'{"documents":7}', b'{"type":"else.v1","documents":[]}', b"[" * 100_000):
        with pytest.raises(InvalidRequest):
            documents_in(data)
    with pytest.raises(DependencyDown):
        documents_in(b'{"type":"vectors.index.v2","documents":[{"id":"a"}]}')


@settings(deadline=None)
@given(st.lists(st.builds(Document, id=st.text(), text=st.none() | st.text(), version=st.integers(0, 2**53 - 1))))
def test_every_message_is_read_as_it_was_written(documents: list[Document]) -> None:
    data = msgspec.json.encode(IndexMessage(documents=documents))
    assert [one.document for one in documents_in(data)] == documents


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_nothing_anybody_sends_breaks_reading(body: object) -> None:
    for data in (json.dumps(body).encode(), json.dumps({"documents": [body, {"id": "a"}]}).encode()):
        try:
            found = documents_in(data)
        except (InvalidRequest, DependencyDown):
            continue
        assert all((one.document is None) != (one.error is None) for one in found)


def test_what_is_wrong_with_a_document_is_told_by_its_field() -> None:
    assert param_of(Document(id="", vector=[1.0, 2.0, 3.0])) == "id"
    assert param_of(Document(id="a\n", vector=[1.0, 2.0, 3.0])) == "id"
    assert param_of(Document(id="x" * 513, vector=[1.0, 2.0, 3.0])) == "id"
    assert param_of(Document(id="a", version=-1)) == "version"
    assert param_of(Document(id="a", vector=[1.0, 2.0])) == "vector"
    assert param_of(Document(id="a", vector=[1.0, 2.0, 1e39])) == "vector"
    assert param_of(Document(id="a", vector=[0.0, 0.0, 0.0])) == "vector"
    assert param_of(Document(id="a", vector_b64="?")) == "vector_b64"
    assert param_of(Document(id="a", vector=[1.0, 2.0, 3.0], vector_b64="AA==")) == "vector_b64"
    nan = base64.b64encode(np.array([1, np.nan, 2], "<f4").tobytes()).decode()
    assert param_of(Document(id="a", vector_b64=nan)) == "vector_b64"
    assert param_of(Document(id="a", text="words")) == "vector"  # nobody embeds them
    assert param_of(Document(id="a"), TEXTS) == "text"
    assert param_of(Document(id="a", text=" \n"), TEXTS) == "text"
    assert param_of(Document(id="a", text="x" * 101), TEXTS) == "text"
    assert param_of(Document(id="a", text="x", payload=msgspec.Raw(b"[1]")), TEXTS) == "payload"
    assert param_of(Document(id="a", text="x", payload=msgspec.Raw(b'{"lang":1}')), TEXTS) == "payload.lang"
    with pytest.raises(TooLarge):
        check(0, Document(id="a", text="x", payload=msgspec.Raw(b'"%s"' % (b"x" * 60))), TEXTS, LIMITS, place=1)


def test_a_document_s_version_is_its_own_or_its_message_s_place() -> None:
    document = Document(id="a", vector=[1.0, 2.0, 3.0])
    assert check(0, document, READY, LIMITS, place=7).version == 7
    assert check(0, msgspec.structs.replace(document, version=3), READY, LIMITS, place=7).version == 3


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4))))
def test_of_several_states_the_newest_is_left_and_of_equal_ones_the_last(states: list[tuple[str, int]]) -> None:
    vector = [1.0, 2.0, 3.0]
    all_ = [
        check(n, Document(id=id_, vector=vector, version=version), READY, LIMITS, place=1)
        for n, (id_, version) in enumerate(states)
    ]
    kept, overtaken = collapsed(all_)
    assert len(kept) + overtaken == len(states)
    assert len({one.id for one in kept}) == len(kept) == len({id_ for id_, _ in states})
    for one in kept:
        assert (one.version, one.n) == max((other.version, other.n) for other in all_ if other.id == one.id)

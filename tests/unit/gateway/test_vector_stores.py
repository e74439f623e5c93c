"""What vector stores decide by themselves: texts of files, pages, hits, chunking."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.admission.identity import Identity
from inferbus.contracts.vector_search import Filter, Hit
from inferbus.contracts.vector_stores import COMPLETED, FAILED, IN_PROGRESS, StoreFile, StoreRecord
from inferbus.contracts.vectors import Chunking
from inferbus.errors import Forbidden, InvalidRequest
from inferbus.vectors.door import check_may_use
from inferbus_gateway.http.vector_store_chunking import AUTO, ChunkingStrategy, StaticChunking, chunking_of
from inferbus_gateway.http.vector_store_pages import page_of
from inferbus_gateway.http.vector_store_shapes import (
    DAY_S,
    EXPIRED,
    AttributeFilter,
    checked_pairs,
    describe_store,
)
from inferbus_gateway.http.vector_stores import filter_of, hits_of
from inferbus_gateway.vector_store_files import Unfit, documents_of, sections, text_of

FILE = StoreFile(file_id="file-1", store="vs_1", tenant="t", created=1.0, filename="a.md", attributes={"k": "v"})


@given(st.text(), st.integers(1, 50))
def test_sections_give_the_text_again(text: str, most: int) -> None:
    found = list(sections(text, most))
    assert "".join(found).split() == text.split() or "".join("".join(found).split()) == "".join(text.split())
    assert all(len(one) <= most for one in found)


def test_long_files_become_several_documents() -> None:
    text = "".join(f"line {n} of a long file\n" for n in range(10_000))
    documents = list(documents_of(FILE, text))
    assert len(documents) > 1
    assert "".join(one.text or "" for one in documents) == text
    assert [one.id for one in documents] == [f"file-1-{n}" for n in range(len(documents))]
    payload = {"file_id": "file-1", "filename": "a.md", "attributes": {"k": "v"}}
    assert msgspec.json.decode(documents[0].payload) == payload


@pytest.mark.parametrize(
    ("data", "code"), [(b"\xff\xfe", "unsupported_file"), (b"a\x00b", "unsupported_file"), (b" \n", "invalid_file")]
)
def test_what_has_no_text_is_unfit(data: bytes, code: str) -> None:
    with pytest.raises(Unfit) as caught:
        text_of(data)
    assert caught.value.code == code
    assert text_of(b"\xef\xbb\xbfa") == "a"


def test_pages_go_on_in_both_directions() -> None:
    items = list("edcba")

    def page(**fields: str | int) -> tuple[list[str], bool]:
        return page_of(items, str, **({"after": "", "before": "", "limit": 2, "order": "desc"} | fields))  # type: ignore[arg-type]  # of a test

    assert page() == (["e", "d"], True)
    assert page(after="d") == (["c", "b"], True)
    assert page(after="b") == (["a"], False)
    assert page(order="asc") == (["a", "b"], True)
    assert page(before="b") == (["d", "c"], True)
    for wrong in ({"limit": 0}, {"order": "up"}, {"after": "z"}):
        with pytest.raises(InvalidRequest):
            page(**wrong)  # type: ignore[arg-type]  # of a test


def test_a_store_says_how_it_is() -> None:
    store = StoreRecord(id="vs_1", tenant="t", model="m", created=1.0, expires_days=1, active=1.0)
    files = [msgspec.structs.replace(FILE, status=status, bytes=5) for status in (COMPLETED, FAILED, IN_PROGRESS)]
    told = describe_store(store, files, now=2.0)
    assert (told.status, told.usage_bytes, told.file_counts.failed, told.expires_at) == (IN_PROGRESS, 5, 1, 1 + DAY_S)
    assert describe_store(store, files[:1], now=2.0 + DAY_S).status == EXPIRED


def test_chunking_is_in_tokens_and_checked() -> None:
    assert chunking_of(None) is None
    assert chunking_of(ChunkingStrategy()) == AUTO
    sizes = StaticChunking(max_chunk_size_tokens=200, chunk_overlap_tokens=50)
    assert chunking_of(ChunkingStrategy(type="static", static=sizes)) == Chunking(max_chars=800, overlap_chars=200)
    for most, overlap in ((50, 0), (200, 150), (5000, 0)):
        wrong = StaticChunking(max_chunk_size_tokens=most, chunk_overlap_tokens=overlap)
        with pytest.raises(InvalidRequest):
            chunking_of(ChunkingStrategy(type="static", static=wrong))
    with pytest.raises(InvalidRequest):
        checked_pairs({str(n): "" for n in range(17)}, "metadata")


def test_hits_are_unique_and_filters_are_of_attributes() -> None:
    payload = msgspec.Raw(b'{"file_id":"f","filename":"a.md","attributes":{"k":1}}')
    found = [Hit(id="f-0", score=score, text="t", payload=payload) for score in (0.2, 0.9)]
    found.append(Hit(id="f-0", score=0.5, chunk=1, text="u", payload=payload))
    hits = hits_of(found, 5)
    assert [(one.score, one.content[0].text) for one in hits] == [(0.9, "t"), (0.5, "u")]
    said = AttributeFilter(type="and", filters=[AttributeFilter(type="eq", key="k", value=1)])
    assert filter_of(said) == Filter(type="and", filters=[Filter(type="eq", key="attributes.k", value=1)])


def test_entitlements_name_vectors() -> None:
    check_may_use(Identity(tenant="t"))
    check_may_use(Identity(tenant="t", endpoints=("chat", "vectors")))
    with pytest.raises(Forbidden, match="vectors"):
        check_may_use(Identity(tenant="t", endpoints=("chat",)))

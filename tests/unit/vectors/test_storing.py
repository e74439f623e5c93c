"""A document whose chunks the model does not take is cut finer; one that it takes in no size is refused."""

from __future__ import annotations

from collections.abc import Sequence

from tests.unit.vectors.fakes import MemoryIndex, NoSparse, vector_of

from inferbus.contracts.vectors import Chunking, CollectionRecord, Document, Placement
from inferbus.errors import InvalidRequest
from inferbus_vectors.adapters.splitter import Splitter
from inferbus_vectors.domain.checking import Checked
from inferbus_vectors.embedding import TextEmbedding
from inferbus_vectors.ports import Embedded, Payer
from inferbus_vectors.storing import Stored, Storing
from inferbus_vectors.writing import Writer


class ShortReader:
    """An embedder that reads so many words and refuses texts that have more, or speak of what it never takes."""

    def __init__(self, words: int) -> None:
        self._words = words

    async def embed(
        self, payer: Payer, model: str, texts: Sequence[str], *, lane: str, deadline_s: float, traceparent: str = ""
    ) -> Embedded:
        if any(len(text.split()) > self._words or "unspeakable" in text for text in texts):
            raise InvalidRequest("This model's maximum context length is exceeded")
        return Embedded([vector_of(text, 8) for text in texts], len(texts))


def document(name: str, text: str) -> Checked:
    return Checked(n=0, document=Document(id=name, text=text), id=name, version=1, text=text)


async def stored(chunking: Chunking, *documents: Checked) -> list[Stored | InvalidRequest]:
    index = MemoryIndex()
    embedding = TextEmbedding(ShortReader(20), texts=32, wait_s=0.0, at_once=4, deadline_s=1.0)
    storing = Storing(index, embedding, NoSparse(), Splitter(), Writer(index, chunks=64, wait_s=0.0))
    record = CollectionRecord(
        id="c", tenant="dev", name="docs", live=Placement(model="m", dimension=8), created=1.0, chunking=chunking
    )
    results = await storing.store(Payer("dev"), record, list(documents), 1.0)
    await embedding.stop()
    return results  # type: ignore[return-value]  # nothing else is wrong here


async def test_what_the_model_does_not_take_is_cut_finer_and_whole() -> None:
    words = [f"w{n:04}" for n in range(300)]
    short, long = await stored(Chunking(max_chars=500), document("a", "few words"), document("b", " ".join(words)))
    assert isinstance(short, Stored)
    assert [chunk.text for chunk in short.write.chunks] == ["few words"]
    assert isinstance(long, Stored)
    texts = [chunk.text for chunk in long.write.chunks]
    assert " ".join(texts).split() == words
    assert max(len(text.split()) for text in texts) <= 20


async def test_a_document_may_say_itself_how_it_is_cut() -> None:
    words = " ".join(f"w{n:04}" for n in range(60))
    said = Document(id="b", text=words, chunking=Chunking(max_chars=60, overlap_chars=0))
    own = Checked(n=0, document=said, id="b", version=1, text=words)
    as_collection, as_said = await stored(Chunking(max_chars=100), document("a", words), own)
    assert isinstance(as_collection, Stored)
    assert isinstance(as_said, Stored)
    assert 60 < max(len(chunk.text) for chunk in as_collection.write.chunks) <= 100
    assert max(len(chunk.text) for chunk in as_said.write.chunks) <= 60


async def test_what_it_takes_in_no_size_is_refused_and_nobody_else_is() -> None:
    bad, good = await stored(Chunking(max_chars=500), document("a", "unspeakable " * 90), document("b", "fine"))
    assert isinstance(bad, InvalidRequest)
    assert bad.param == "text"
    assert isinstance(good, Stored)


async def test_what_is_not_to_be_cut_is_not() -> None:
    (one,) = await stored(Chunking(max_chars=0), document("a", "many words " * 90))
    assert isinstance(one, InvalidRequest)

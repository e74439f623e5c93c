"""BackupDesk: a collection in a file of its tenant, and a collection made of such a file.

A file is JSON lines: the collection's record, then a document each, with its vectors. It is the tenant's like any other:
listed, read and deleted by the files API. A restored collection has another id and may have another name; its documents
keep their versions. It works whatever engine the one or the other has.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from inferbus.batch.splitting import LineSplitter
from inferbus.codec import from_json, to_json
from inferbus.contracts.files import FileRecord
from inferbus.contracts.vector_manage import Backup, BackupFile, Backups, ListBackups, MakeBackup, RestoreBackup
from inferbus.contracts.vectors import READY, CollectionRecord
from inferbus.errors import InvalidRequest
from inferbus.files.book import FileBook, NewFile, Page, page_of
from inferbus_vectors.collection_book import CollectionBook, unknown
from inferbus_vectors.collection_desk import check_name, check_parts, check_placement
from inferbus_vectors.domain.facets import facets_of
from inferbus_vectors.domain.points import Chunk, Found, Scope, Where, Write, shard_of
from inferbus_vectors.ports import Payer, SparseEncoder, VectorIndex
from inferbus_vectors.whole import read_documents

PURPOSE = "vectors_backup"
_SUFFIX = ".vectors.jsonl"
_PAGE, _MAX_PAGE = 64, 1000
_MAX_LINE = 256 * 1024 * 1024


class SavedChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    vector_b64: str
    text: str = ""


class SavedDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A document in a backup."""

    id: str
    version: int
    chunks: list[SavedChunk]
    payload: msgspec.Raw
    at: float = 0.0
    expires_at: float = 0.0


class BackupDesk:
    """Every method raises `DependencyDown`, `StorageDown` or `EngineDead` while what it needs is away."""

    def __init__(
        self, book: CollectionBook, files: FileBook, index: VectorIndex, sparse: SparseEncoder,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._book = book
        self._files = files
        self._index = index
        self._sparse = sparse
        self._clock = clock

    async def backup(self, payer: Payer, asked: MakeBackup) -> Backup:
        """Write a collection into a new file, as it is read: documents that change meanwhile are in it in one state or the
        other. Raises NotFound."""
        record = await self._book.collection(payer.tenant, asked.name)
        if record.state != READY:
            raise unknown(asked.name)
        counted = [0]
        new = NewFile(tenant=payer.tenant, purpose=PURPOSE, filename=f"{record.name}{_SUFFIX}", key_id=payer.key_id)
        file = await self._files.create(new, self._lines(record, counted))
        return Backup(file_id=file.id, collection=record, created=self._clock(), chunks=counted[0], bytes=file.bytes)

    async def backups(self, payer: Payer, asked: ListBackups) -> Backups:
        """List backups that are there, the newest first; of one collection where it is named, whether that is there or not.
        Raises InvalidRequest."""
        if not 1 <= asked.limit <= _MAX_PAGE:
            raise InvalidRequest(f"limit: 1 to {_MAX_PAGE} is possible, not {asked.limit}", param="limit")
        files = await self._files.all_of(payer.tenant)
        wanted = f"{asked.name}{_SUFFIX}" if asked.name else ""
        named = [one for one in files if one.filename.endswith(_SUFFIX) and wanted in ("", one.filename)]
        page, has_more = page_of(named, Page(after=asked.after, limit=asked.limit, purpose=PURPOSE), self._clock())
        return Backups(backups=[_backup_file(one) for one in page], has_more=has_more)

    async def _lines(self, record: CollectionRecord, counted: list[int]) -> AsyncIterator[bytes]:
        yield to_json(record) + b"\n"
        scope, shard, after, is_more = Scope(record.tenant, record.id), shard_of(record.live).name, "", True
        while is_more:
            documents = await read_documents(self._index, shard, scope, after=after, limit=_PAGE)
            counted[0] += sum(map(len, documents.whole))
            yield b"".join(to_json(_saved(one)) + b"\n" for one in documents.whole)
            after, is_more = documents.next, bool(documents.next)

    async def restore(self, payer: Payer, asked: RestoreBackup) -> CollectionRecord:
        """Make a collection of a backup. It is there when all of it is: what fails leaves nothing.

        Raises:
            NotFound: there is no such file. InvalidRequest: it is no backup. Conflict: the name is taken.
        """
        check_name(asked.name, "name")
        file = await self._files.get(payer.tenant, asked.file_id)
        lines = self._read(self._files.read(file))
        first = await anext(lines, b"")
        record = self._begin(payer, asked, first)
        spec = shard_of(record.live)
        await self._index.ensure(spec)
        await self._index.index_fields(spec.name, record.fields)
        try:
            await self._fill(record, lines)
            made = await self._book.create(record)
        except BaseException:  # what nobody can find would stay for ever
            await self._index.erase(spec.name, Where(scope=Scope(record.tenant, record.id)))
            raise
        await self._index.ensure(spec)  # where the backup was empty, the shard may be gone by now
        return made

    async def _fill(self, record: CollectionRecord, lines: AsyncIterator[bytes]) -> None:
        waiting = list[Write]()
        async for line in lines:
            waiting.append(self._write_of(record, line))
            if len(waiting) >= _PAGE:
                await self._index.write(shard_of(record.live).name, waiting)
                waiting = []
        if waiting:
            await self._index.write(shard_of(record.live).name, waiting)

    @staticmethod
    async def _read(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        splitter = LineSplitter(_MAX_LINE)
        async for piece in pieces:
            for line in splitter.feed(piece):
                if line.data:
                    yield line.data
        for line in splitter.finish():
            if line.data:
                yield line.data

    def _begin(self, payer: Payer, asked: RestoreBackup, line: bytes) -> CollectionRecord:
        saved = from_json(line, CollectionRecord, what="file_id: the file is no backup")
        check_placement(saved.live.dimension, saved.live.distance)
        check_parts(saved.fields, saved.chunking, saved.retention_s, saved.metadata)
        now = self._clock()
        return msgspec.structs.replace(
            saved, id=secrets.token_hex(8), tenant=payer.tenant, name=asked.name, created=now, updated=now, state=READY,
            live=msgspec.structs.replace(saved.live, generation=1), reindexing=None, key_id=payer.key_id,
        )  # fmt: skip

    def _write_of(self, record: CollectionRecord, line: bytes) -> Write:
        saved = from_json(line, SavedDocument, what="file_id: the file is no backup")
        size = 4 * record.live.dimension
        vectors = [base64.b64decode(chunk.vector_b64) for chunk in saved.chunks]
        if not vectors or any(len(vector) != size for vector in vectors):
            raise InvalidRequest(f"file_id: {saved.id!r} has no vectors of this collection's length", param="file_id")
        chunks = [
            Chunk(
                vector=vector, text=chunk.text,
                sparse=self._sparse.document(chunk.text) if record.hybrid and chunk.text else None,
            )
            for vector, chunk in zip(vectors, saved.chunks, strict=True)
        ]  # fmt: skip
        return Write(
            scope=Scope(record.tenant, record.id), id=saved.id, version=saved.version, chunks=chunks,
            payload=bytes(saved.payload), facets=facets_of(bytes(saved.payload), record.fields), at=saved.at,
            expires_at=saved.expires_at,
        )  # fmt: skip


def _backup_file(file: FileRecord) -> BackupFile:
    return BackupFile(
        file_id=file.id, collection=file.filename.removesuffix(_SUFFIX), created=float(file.created_at), bytes=file.bytes,
        expires_at=float(file.expires_at),
    )  # fmt: skip


def _saved(document: Sequence[Found]) -> SavedDocument:
    head = document[0]
    chunks = [
        SavedChunk(vector_b64=base64.b64encode(chunk.vector or b"").decode(), text=chunk.text) for chunk in document
    ]
    return SavedDocument(
        id=head.id, version=head.version, chunks=chunks, payload=msgspec.Raw(head.payload), at=head.at,
        expires_at=head.expires_at,
    )  # fmt: skip

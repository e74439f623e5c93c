"""Formats of rows: JSON lines, CSV and Parquet, read in batches of Arrow or lines, written through Arrow. Everything blocks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
from pyarrow import parquet

from inferbus.errors import InvalidRequest
from inferbus.files.file_systems import open_fs
from inferbus.files.uploads import Upload, begin_upload
from inferbus.pipeline.row_batch import Row

JSONL, CSV, PARQUET = "jsonl", "csv", "parquet"
FORMATS = (JSONL, CSV, PARQUET)
_ENDINGS = {".jsonl": JSONL, ".ndjson": JSONL, ".csv": CSV, ".parquet": PARQUET, ".pq": PARQUET}
BLOCK_ROWS = 1024


def format_of(url: str, given: str = "") -> str:
    """Say what format a file has, by its name where nobody says.

    Raises:
        InvalidRequest: that cannot be told, or there is no such format.
    """
    found = given or next((kind for ending, kind in _ENDINGS.items() if url.lower().endswith(ending)), "")
    if found not in FORMATS:
        raise InvalidRequest(f"{url}: say its format, one of {', '.join(FORMATS)}", param="format")
    return found


def files_of(url: str, options: dict[str, Any]) -> tuple[Any, list[str]]:
    """Give the file system and the files a url names; one with `*` may name several, in the order of their names.

    Raises:
        InvalidRequest: there is none.
    """
    try:
        fs, path = open_fs(url, options)
        paths = sorted(str(one) for one in fs.glob(path)) if "*" in path else [path] if fs.exists(path) else []
    except (ValueError, ImportError, TypeError) as exc:
        raise InvalidRequest(f"{url}: {exc}") from exc
    if not paths:
        raise InvalidRequest(f"there is no file {url}")
    return fs, paths


def mark_of(fs: Any, paths: Iterable[str]) -> str:
    """Say what tells these files from others in their place: names, sizes, and ETag or time."""
    known = []
    for path in paths:
        info = fs.info(path)
        known.append([path, info["size"], str(info.get("ETag") or info.get("mtime") or info.get("LastModified"))])
    return msgspec.json.encode(known).decode()


class UnreadableRow(msgspec.Struct, frozen=True):
    """A line that is no row."""

    text: str
    error: str


def read_rows(fs: Any, path: str, kind: str) -> Iterator[pa.RecordBatch | list[Row | UnreadableRow]]:
    """Read a file in batches, in constant memory: of Arrow, or of lines."""
    with fs.open(path, "rb") as file:
        if kind == JSONL:
            yield from _read_lines(file)
            return
        batches = pa_csv.open_csv(file) if kind == CSV else parquet.ParquetFile(file).iter_batches(BLOCK_ROWS)
        for batch in batches:
            for start in range(0, batch.num_rows, BLOCK_ROWS):
                yield batch.slice(start, BLOCK_ROWS)


def _read_lines(file: Any) -> Iterator[list[Row | UnreadableRow]]:
    batch: list[Row | UnreadableRow] = []
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for line in file:
        if not line.strip():
            continue
        try:
            batch.append(decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            batch.append(UnreadableRow(line[:4096].decode(errors="replace"), str(exc)))
        if len(batch) >= BLOCK_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def write_rows(fs: Any, path: str, kind: str, batches: Iterable[Any], schema: pa.Schema | None) -> int:
    """Write a file that is there whole or not at all; gives how many rows it has. JSON lines are written from rows, CSV and
    Parquet from tables, of this schema."""
    parent = path.rsplit("/", 1)[0]
    fs.makedirs(parent, exist_ok=True)
    upload = begin_upload(fs, path)
    count = 0
    try:
        with _writer(kind, _UploadStream(upload), schema) as write:
            for batch in batches:
                write(batch)
                count += len(batch)
        upload.commit()
    except BaseException:
        upload.discard()
        raise
    return count


class _UploadStream(io.RawIOBase):
    """An upload as a file that can only be written on."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = bytes(data)
        self._upload.write(view)
        self._at += len(view)
        return len(view)

    def tell(self) -> int:
        return self._at


class _writer:  # noqa: N801 - a context manager used as a function
    """Give a function that writes a batch of rows in a format."""

    def __init__(self, kind: str, stream: _UploadStream, schema: pa.Schema | None) -> None:
        self._stream = stream
        self._schema = schema
        self._arrow: Any = None
        if kind == PARQUET:
            self._arrow = parquet.ParquetWriter(stream, schema)
        elif kind == CSV:
            self._arrow = pa_csv.CSVWriter(stream, schema)

    def __enter__(self) -> Any:
        return self._lines if self._arrow is None else self._table

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._arrow is not None:
            self._arrow.close()

    def _lines(self, batch: list[Row]) -> None:
        self._stream.write(b"".join(msgspec.json.encode(row) + b"\n" for row in batch))

    def _table(self, table: pa.Table) -> None:
        self._arrow.write_table(table)

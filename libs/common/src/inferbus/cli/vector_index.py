"""`inferbus vectors index`: rows of files into documents, several requests at once, and what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from inferbus.errors import InvalidRequest
from inferbus.pipeline.formats import UnreadableRow, files_of, format_of, read_rows
from inferbus.vectors.bodies import AcceptedObject
from inferbus.vectors.http_api import VectorsApi

SOME_FAILED = 3
_SHOWN_FAULTS = 20
_SETTLED_S, _POLL_S = 600.0, 0.5


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Which columns are what, and how much is sent at once."""

    id: str
    text: str
    vector: str
    batch: int
    in_flight: int


class _Tally:
    """What became of all documents so far."""

    def __init__(self) -> None:
        self.read = self.indexed = self.stale = self.failed = self.chunks = self.tokens = self.unknown = 0
        self.faults: list[str] = []

    def add(self, rows: list[int], told: AcceptedObject) -> None:
        if told.indexed is None:
            self.unknown += told.accepted
            return
        self.indexed += told.indexed + (told.deleted or 0)
        self.stale += told.stale or 0
        self.chunks += told.chunks or 0
        self.tokens += told.tokens or 0
        for fault in told.faults:
            self.note(rows[fault.n], fault.id, fault.message)

    def note(self, row: int, id_: str, message: str) -> None:
        self.failed += 1
        self.faults.append(f"row {row}, {id_ or '-'}: {message}")


async def index_files(api: VectorsApi, name: str, urls: list[str], reading: Reading, console: Console) -> int:
    """Index every row; gives how many could not be.

    Raises:
        InvalidRequest: a file cannot be read. InferbusError: nothing more can be indexed (there is no such collection).
    """
    sources = [(url, *files_of(url, {}), format_of(url)) for url in urls]
    tally, began = _Tally(), time.monotonic()
    columns = (TextColumn("{task.completed} documents"), TextColumn("{task.fields[rest]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None, rest="")

        def show() -> None:
            seconds = max(0.001, time.monotonic() - began)
            done = tally.indexed + tally.stale + tally.failed + tally.unknown
            bar.update(task, completed=done, rest=f"{done / seconds:,.0f}/s  {tally.failed} failed")

        batches = _batches(sources, reading, tally)
        senders = [asyncio.create_task(_send(api, name, batches, tally, show)) for _ in range(reading.in_flight)]
        try:
            await asyncio.gather(*senders)
        finally:
            for sender in senders:
                sender.cancel()
    if tally.unknown:
        await _until_settled(api, name)
    _say(name, tally, time.monotonic() - began)
    return tally.failed


async def _send(
    api: VectorsApi, name: str, batches: Iterator[tuple[list[int], list[dict[str, Any]]]], tally: _Tally, show: Any
) -> None:
    for rows, documents in batches:  # one iterator for all: each batch is taken once
        tally.add(rows, await api.index(name, documents))
        show()


async def _until_settled(api: VectorsApi, name: str) -> None:
    """Wait for what was not done while its request waited."""
    give_up = time.monotonic() + _SETTLED_S
    while time.monotonic() < give_up:
        if not (await api.stats(name)).waiting:
            return
        await asyncio.sleep(_POLL_S)


def _batches(
    sources: Iterable[tuple[str, Any, list[str], str]], reading: Reading, tally: _Tally
) -> Iterator[tuple[list[int], list[dict[str, Any]]]]:
    rows, documents, number = list[int](), list[dict[str, Any]](), 0
    for _, fs, paths, kind in sources:
        for path in paths:
            for part in read_rows(fs, path, kind):
                for row in part:
                    number += 1
                    tally.read += 1
                    if isinstance(row, UnreadableRow):
                        tally.note(number, "", row.error)
                        continue
                    try:
                        documents.append(document_of(row, reading))
                    except InvalidRequest as exc:
                        tally.note(number, "", exc.message)
                        continue
                    rows.append(number)
                    if len(documents) == reading.batch:
                        yield rows, documents
                        rows, documents = [], []
    if documents:
        yield rows, documents


def document_of(row: dict[str, Any], reading: Reading) -> dict[str, Any]:
    """Make a document of a row. Pure.

    Raises:
        InvalidRequest: it has no id.
    """
    rest = dict(row)
    id_ = rest.pop(reading.id, None)
    if id_ is None or id_ == "":
        raise InvalidRequest(f"it has no column {reading.id!r}")
    document: dict[str, Any] = {"id": str(id_)}
    text, vector = rest.pop(reading.text, None), rest.pop(reading.vector, None)
    if text is not None:
        document["text"] = str(text)
    if vector is not None:
        document["vector"] = list(vector)
    for ours in ("version", "delete", "expires_at"):
        if ours in rest:
            document[ours] = rest.pop(ours)
    payload = rest.pop("payload", None)
    document["payload"] = payload if isinstance(payload, dict) else rest
    return document


def _say(name: str, tally: _Tally, seconds: float) -> None:
    rate = tally.indexed / seconds if seconds else 0.0
    typer.echo(
        f"{name}: {tally.indexed} of {tally.read} documents indexed ({tally.chunks} chunks, {tally.tokens} tokens) in "
        f"{seconds:.1f} s, {rate:,.0f}/s; {tally.stale} older than what is there, {tally.failed} failed"
    )
    if tally.unknown:
        typer.echo(f"  {tally.unknown} were accepted, and took longer; failed ones are dead letters")
    for line in tally.faults[:_SHOWN_FAULTS]:
        typer.echo(f"  {line}", err=True)
    if tally.failed:
        typer.echo(f"  all of them: inferbus vectors dead-letters list {name}", err=True)

"""Results: a checkpoint's parts, put together in the order of the input: the output, and the dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

from inferbus.files.file_systems import open_fs
from inferbus.pipeline.checkpoint import DONE, FAILED, Checkpoint, Result
from inferbus.pipeline.formats import JSONL, Row, schema_of, write_rows

_BATCH_ROWS = 1024


class Sink(Protocol):
    """Where an output goes."""

    @property
    def url(self) -> str: ...

    @property
    def format(self) -> str: ...

    @property
    def options(self) -> dict[str, Any]: ...


async def write_results(checkpoint: Checkpoint, sink: Sink, errors_url: str) -> int:
    """Write the output, and the dead letters where there are some; gives how many rows the output has."""
    loop = asyncio.get_running_loop()

    def batches(state: str, form: Callable[[Result], Row]) -> Iterator[list[Row]]:
        """Give rows to a writer in a thread, from the storage, which the loop reads."""
        source = _batches(checkpoint, state, form)
        while (batch := asyncio.run_coroutine_threadsafe(_next(source), loop).result()) is not None:
            yield batch

    def write() -> int:
        schema = None if sink.format == JSONL else schema_of(batches(DONE, _value))
        fs, path = open_fs(sink.url, sink.options)
        if checkpoint.failed:
            _, errors = open_fs(errors_url, sink.options)
            write_rows(fs, errors, JSONL, batches(FAILED, _dead), None)
        return write_rows(fs, path, sink.format, batches(DONE, _value), schema)

    return await asyncio.to_thread(write)


async def _next(source: AsyncIterator[list[Row]]) -> list[Row] | None:
    return await anext(source, None)


def _value(result: Result) -> Row:
    return result.value


def _dead(result: Result) -> Row:
    return {"row": result.row} | result.value


async def _batches(checkpoint: Checkpoint, state: str, form: Callable[[Result], Row]) -> AsyncIterator[list[Row]]:
    batch: list[Row] = []
    async for result in checkpoint.in_order():
        if result.state == state:
            batch.append(form(result))
        if len(batch) >= _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch

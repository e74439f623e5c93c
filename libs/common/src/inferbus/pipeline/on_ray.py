"""Ray: its Datasets as a pipeline's input and output, and a pipeline's stages inside Ray's own `map_batches`.

Ray is imported by whoever has a Dataset; nothing else here needs it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pyarrow as pa

from inferbus.errors import InvalidRequest
from inferbus.pipeline import columns
from inferbus.pipeline.formats import BLOCK_ROWS
from inferbus.pipeline.row_batch import Row, RowBatch, digest_of, of_arrow
from inferbus.pipeline.sources import Opened
from inferbus.pipeline.stage_run import error_of
from inferbus.pipeline.stages import Embed, Infer, Place, Stage, Tools

RAY = "ray"
COLUMN, RAISE = "column", "raise"
_ERROR = "error"
_ERROR_TYPE = pa.struct([("stage", pa.string()), ("error", pa.string()), ("message", pa.string())])
_OPEN_BATCHES = 2
"""So many batches an actor works on: while the last rows of one end, the next has begun."""
_BLOCK_BYTES = 16 * 1024 * 1024


class RaySource(msgspec.Struct, frozen=True):
    """A Dataset of Ray, in the order of its blocks."""

    dataset: Any

    def describe(self) -> str:
        return "a Dataset of Ray"

    def open(self) -> Opened:
        self.dataset.context.execution_options.preserve_order = True
        tables = self.dataset.iter_batches(batch_size=BLOCK_ROWS, batch_format="pyarrow")
        return Opened(self.describe(), _record_batches(tables), by_digest=True)


def ray_source(dataset: Any) -> RaySource:
    """Take a Dataset.

    Raises:
        InvalidRequest: it is none.
    """
    if not hasattr(dataset, "iter_batches") or not hasattr(dataset, "map_batches"):
        raise InvalidRequest(f"a pipeline reads a path, a url or a Dataset of Ray, not {type(dataset).__name__}")
    return RaySource(dataset)


def _record_batches(tables: Any) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from table.combine_chunks().to_batches()


class DatasetWriter:
    """Puts tables into Ray's object store, a block each; `dataset` is made of them."""

    def __init__(self) -> None:
        self.dataset: Any = None

    def __call__(self, tables: Iterator[pa.Table], schema: pa.Schema) -> int:
        import ray.data  # noqa: PLC0415 - only for whoever uses it

        refs, waiting, count = [], [], 0
        for table in tables:
            waiting.append(table)
            count += table.num_rows
            if sum(one.nbytes for one in waiting) >= _BLOCK_BYTES:
                refs.append(ray.put(pa.concat_tables(waiting)))
                waiting = []
        refs.append(ray.put(pa.concat_tables([*waiting, schema.empty_table()])))
        self.dataset = ray.data.from_arrow_refs(refs)
        return count


def apply_steps(
    stages: Sequence[Stage], dataset: Any, *, workers: int, batch_rows: int, on_error: str,
    client: Callable[[], Any] | None, options: dict[str, Any],
) -> Any:  # fmt: skip
    """Have Ray do stages inside `map_batches`; gives the Dataset that comes of it.

    Raises:
        InvalidRequest: what is asked for makes no sense. DependencyDown: there is no platform to ask.
    """
    if on_error not in (COLUMN, RAISE):
        raise InvalidRequest(f"on_error {on_error!r} is none of {COLUMN}, {RAISE}", param="on_error")
    import ray.data  # noqa: PLC0415 - only for whoever uses it

    if client is None and any(isinstance(one, Infer | Embed) for one in stages):
        from inferbus.local.producer import local_connection  # noqa: PLC0415 - the platform of this folder, only then

        client = local_connection().client
    return ray_source(dataset).dataset.map_batches(
        Steps, fn_constructor_args=(tuple(stages), secrets.token_hex(8), on_error, client), batch_size=batch_rows,
        batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=workers), max_concurrency=_OPEN_BATCHES,
        **options,
    )  # fmt: skip


class Steps:
    """Stages in an actor of Ray: a batch in, a batch out. A batch Ray gives again, since an actor died, has the same
    requests: what a model has answered is not asked again."""

    def __init__(self, stages: Sequence[Stage], run: str, on_error: str, client: Callable[[], Any] | None) -> None:
        self._stages = stages
        self._run = run
        self._on_error = on_error
        self._make_client = client
        self._limits = [asyncio.Semaphore(stage.concurrency) for stage in stages]
        self._opening = asyncio.Lock()
        self._tools: Tools | None = None

    async def __call__(self, table: pa.Table) -> AsyncIterator[pa.Table]:
        tools = await self._open()
        for record_batch in table.combine_chunks().to_batches():
            batch = of_arrow(record_batch)
            name = f"{self._run}-{digest_of(batch)}"
            ends = await asyncio.gather(
                *(self._end_of(tools, f"{name}-{n}", n, row) for n, row in enumerate(batch.rows()))
            )
            yield self._put_together(batch, ends)

    async def _open(self) -> Tools:
        async with self._opening:
            if self._tools is None:
                threads = ThreadPoolExecutor(max(4, *(one.concurrency for one in self._stages), 4), "pipeline")
                client = await self._make_client().__aenter__() if self._make_client is not None else None
                self._tools = Tools(threads, client)
            return self._tools

    async def _end_of(self, tools: Tools, name: str, n: int, row: Row) -> tuple[Row | None, Row | None]:
        """Take one row through all stages: what became of it (None: dropped), or what was wrong."""
        for place, (stage, limit) in enumerate(zip(self._stages, self._limits, strict=True)):
            try:
                async with limit:
                    made = await stage.apply(row, Place(n, f"{name}-{place}"), tools)
            except Exception as exc:
                error = error_of(exc, stage, place, row)
                if self._on_error == RAISE:
                    raise RuntimeError(f"{error['stage']}: {error['error']}: {error['message']}") from None
                return row, error
            if made is None:
                return None, None
            row = made if stage.replaces else row | made
        return row, None

    def _put_together(self, batch: RowBatch, ends: Sequence[tuple[Row | None, Row | None]]) -> pa.Table:
        kept = [n for n, (row, _) in enumerate(ends) if row is not None]
        rows: list[Row] = [row for row, _ in ends if row is not None]
        errors = [ends[n][1] for n in kept]
        if any(stage.replaces for stage in self._stages):
            table = columns.table_of(rows, columns.schema_of(rows))
        else:  # columns nobody made are those that came
            table = pa.Table.from_batches([batch.arrow]).take(pa.array(kept, pa.int64()))
            made = [row | {name: None for name in self._made() if name not in row} for row in rows]
            added = columns.schema_of([{name: row[name] for name in self._made()} for row in made])
            for field, column in zip(added, columns.table_of(made, added).columns, strict=True):
                table = _with(table, field, column)
        if self._on_error == RAISE:
            return table
        said = [None if one is None else {name: one[name] for name in _ERROR_TYPE.names} for one in errors]
        return _with(table, pa.field(_ERROR, _ERROR_TYPE), pa.array(said, _ERROR_TYPE))

    def _made(self) -> list[str]:
        return list(dict.fromkeys(one.into for one in self._stages if isinstance(one, Infer | Embed)))


def _with(table: pa.Table, field: pa.Field, column: Any) -> pa.Table:
    at = table.schema.get_field_index(field.name)
    return table.append_column(field, column) if at < 0 else table.set_column(at, field, column)

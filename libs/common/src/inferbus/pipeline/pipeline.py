"""Pipeline: what is to be done with the rows of an input, said in a chain, explained, and run.

It runs in the process that says it. A row that cannot be done becomes a dead letter and stops nobody; a run that was
killed goes on where its checkpoint is, and what a model has answered is not asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from typing import Any

import msgspec

from inferbus.errors import Conflict, InvalidRequest
from inferbus.files.fsspec_storage import FsspecStorage, open_storage
from inferbus.files.settings import FilesSettings
from inferbus.pipeline.checkpoint import Checkpoint
from inferbus.pipeline.formats import JSONL, files_of, format_of
from inferbus.pipeline.indexing import IndexRows
from inferbus.pipeline.on_ray import RAY, DatasetWriter, apply_steps, ray_source
from inferbus.pipeline.results import write_results
from inferbus.pipeline.running import Runner, RunSettings
from inferbus.pipeline.sources import FileSource, blocks_of
from inferbus.pipeline.stages import Asker, Embed, Filter, Function, Infer, Map, Stage, Tools, function_of, name_of
from inferbus.routes import BATCH


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: rows read, written, dropped by filters, failed (dead letters), and taken from a checkpoint."""

    rows: int
    written: int
    dropped: int
    failed: int
    resumed: int
    output: str
    errors: str = ""
    dataset: Any = None
    """The Dataset of Ray that `write_ray` makes."""


class _End(msgspec.Struct, frozen=True, kw_only=True):
    """Where rows go: one file, or (`format` RAY) a Dataset of Ray, whose checkpoint and dead letters lie at `url`."""

    url: str
    format: str
    options: dict[str, Any]


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """A chain of stages between an input and an output. Every method gives another pipeline; `run` runs it."""

    source: Any = None
    """A `Source`; None for stages alone (`steps`)."""
    stages: tuple[Any, ...] = ()
    sink: _End | None = None
    in_flight: int = 1024
    checkpoint_every_s: float = 1.0

    @classmethod
    def read(cls, source: str | Any, *, format: str = "", **options: Any) -> Pipeline:  # noqa: A002 - what one calls it
        """Read rows from JSON lines, CSV or Parquet: a path, several with `*`, or any url fsspec knows (`options` are its
        file system's); or from a Dataset of Ray."""
        if not isinstance(source, str):
            return cls(source=ray_source(source))
        return cls(source=FileSource(url=source, format=format_of(source, format), options=options))

    @classmethod
    def steps(cls) -> Pipeline:
        """Begin stages alone, without a source: for `apply_to`."""
        return cls()

    def map(self, function: Function | str, *, concurrency: int = 4, retries: int = 0) -> Pipeline:
        """Put what a function makes of a row in its place: a plain one runs in a thread, a coroutine in the loop. Given as
        `module:name`, it is imported."""
        function = function_of(function)
        return self._with(Map(function=function, name=name_of(function), concurrency=concurrency, retries=retries))

    def filter(self, function: Function | str, *, concurrency: int = 4, retries: int = 0) -> Pipeline:
        """Keep the rows a function is true of."""
        function = function_of(function)
        return self._with(Filter(function=function, name=name_of(function), concurrency=concurrency, retries=retries))

    def infer(
        self, model: str, prompt: str | Function, *, into: str = "answer", system: str = "", concurrency: int = 32,
        retries: int = 5, lane: str = BATCH, **options: Any,
    ) -> Pipeline:  # fmt: skip
        """Ask a chat model. `prompt` is a text with columns in braces, or a function that gives one (or the messages);
        `options` go into the request (`max_tokens`, `temperature`)."""
        options = options | {"lane": lane}
        return self._with(
            Infer(
                model=model, prompt=prompt, system=system, into=into, options=options, concurrency=concurrency, retries=retries
            )
        )  # fmt: skip

    def embed(
        self, model: str, text: str | Function = "text", *, into: str = "embedding", concurrency: int = 32, retries: int = 5,
        lane: str = BATCH, **options: Any,
    ) -> Pipeline:  # fmt: skip
        """Embed a column, or what a function makes of a row."""
        options = options | {"lane": lane}
        return self._with(
            Embed(model=model, text=text, into=into, options=options, concurrency=concurrency, retries=retries)
        )

    def index(
        self, collection: str, *, id: str = "id", text: str | Function = "text", vector: str = "",
        payload: Sequence[str] | None = None, concurrency: int = 256, retries: int = 5,
    ) -> Pipeline:  # fmt: skip
        """Put rows into a collection of the vector service: the columns of id, text (or what a function makes of a row) and,
        where it is there already, vector. `payload` names columns (all the others). Rows go on when they are searchable."""
        return self._with(
            IndexRows(
                collection=collection, id=id, text=text, vector=vector, payload=tuple(payload) if payload is not None else None,
                concurrency=concurrency, retries=retries,
            )
        )  # fmt: skip

    def write(self, url: str, *, format: str = "", **options: Any) -> Pipeline:  # noqa: A002 - as in read
        """Write the rows to one file, in the order they were read. Dead letters go to `<url>.errors.jsonl`."""
        return self.replaced(sink=_End(url=url, format=format_of(url, format), options=options))

    def write_ray(self, work_url: str, **options: Any) -> Pipeline:
        """Make a Dataset of Ray of the rows, in the order they were read: `dataset` of the report. Below `work_url`, a path or
        url, are the checkpoint until it is made, and the dead letters."""
        return self.replaced(sink=_End(url=work_url.rstrip("/"), format=RAY, options=options))

    def apply_to(
        self, dataset: Any, *, workers: int = 1, batch_rows: int = 256, on_error: str = "column",
        client: Callable[[], Any] | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Have Ray do these stages inside its own `map_batches`, in so many actors; gives the Dataset that comes of it. Its column
        `error` says why a row could not be done, or (`on_error="raise"`) that ends the job. `client` makes an `inferbus.Client`
        in each actor; else it is that of the platform this process would ask. `options` are those of `map_batches`."""
        if self.source is not None or self.sink is not None:
            raise InvalidRequest("what is applied to a Dataset has stages alone: Pipeline.steps()...")
        return apply_steps(
            self.stages,
            dataset,
            workers=workers,
            batch_rows=batch_rows,
            on_error=on_error,
            client=client,
            options=options,
        )

    def limited(self, in_flight: int) -> Pipeline:
        """Have so many rows at most between reading and commit (1024)."""
        return self.replaced(in_flight=max(1, in_flight))

    def replaced(self, **fields: Any) -> Pipeline:
        return msgspec.structs.replace(self, **fields)

    def explain(self) -> str:
        """Say what a run will do; nothing is read."""
        lines = [f"read    {self.source.describe()}"] if self.source is not None else []
        lines += [
            f"{one.kind:<7} {one.describe()}  [at once {one.concurrency}, again up to {one.retries} times]"
            for one in self.stages
        ]
        if self.sink is not None:
            lines.append(f"write   {self.sink.url} ({self.sink.format}); dead letters {_errors_url(self.sink.url)}")
            lines.append(
                f"        at most {self.in_flight} rows between; every {self.checkpoint_every_s:g} s into "
                f"{_checkpoint_url(self.sink.url)}, from where a stopped run goes on"
            )
        return "\n".join(lines)

    def run(
        self,
        client: Asker | None = None,
        *,
        overwrite: bool = False,
        on_commit: Callable[[int], None] = lambda _: None,
    ) -> Report:
        """Run to the end. Without a `client`, stages that ask models use the platform of this folder, or the bus that
        `INFERBUS_BUS_URL` names. `on_commit` hears of every commit how many rows it had.

        Raises:
            InvalidRequest: it cannot be run. Conflict: the output is there already (`overwrite` replaces it), or the
                checkpoint is of another pipeline or input. DependencyDown: there is no bus to ask. StorageDown: files cannot
                be read or written now; run again to go on.
        """
        return asyncio.run(self.run_async(client, overwrite=overwrite, on_commit=on_commit))

    async def run_async(
        self,
        client: Asker | None = None,
        *,
        overwrite: bool = False,
        on_commit: Callable[[int], None] = lambda _: None,
    ) -> Report:
        """As `run`, in a running event loop; a `client` given is one that was entered."""
        if self.sink is None:
            raise InvalidRequest("a pipeline ends with .write(...)")
        if self.source is None:
            raise InvalidRequest("a pipeline begins with Pipeline.read(...); stages alone are for apply_to(dataset)")
        opened = await asyncio.to_thread(self.source.open)
        if not overwrite and await asyncio.to_thread(_is_there, self.sink):
            raise Conflict(f"{self.sink.url} is there already: write elsewhere, or run with overwrite=True")
        async with AsyncExitStack() as stack:
            checkpoint = Checkpoint(_open_checkpoint(self.sink, stack), by_digest=opened.by_digest)
            plan = [opened.mark, *(f"{one.kind} {one.describe()}" for one in self.stages)]
            run = await checkpoint.open(plan)
            resumed = checkpoint.done.count
            threads = ThreadPoolExecutor(max(4, *(one.concurrency for one in self.stages), 4), "pipeline")
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            tools = Tools(threads, await self._client(client, stack))
            blocks = await stack.enter_async_context(aclosing(blocks_of(opened.blocks, threads)))
            settings = RunSettings(in_flight=self.in_flight, checkpoint_every_s=self.checkpoint_every_s)
            await Runner(self.stages, tools, checkpoint, run, settings, on_commit).run(blocks)
            made = DatasetWriter() if self.sink.format == RAY else None
            written = await write_results(checkpoint, self.sink, _errors_url(self.sink.url), made)
            await checkpoint.remove()
        return Report(
            rows=checkpoint.done.count, written=written, failed=checkpoint.failed, resumed=resumed,
            dropped=checkpoint.done.count - written - checkpoint.failed, output=self.sink.url,
            errors=_errors_url(self.sink.url) if checkpoint.failed else "",
            dataset=made.dataset if made is not None else None,
        )  # fmt: skip

    def _with(self, stage: Stage) -> Pipeline:
        if stage.concurrency < 1:
            raise InvalidRequest("concurrency is at least 1")
        return self.replaced(stages=(*self.stages, stage), sink=None)

    async def _client(self, client: Asker | None, stack: AsyncExitStack) -> Asker | None:
        if client is not None or not any(isinstance(one, Infer | Embed | IndexRows) for one in self.stages):
            return client
        from inferbus.local.producer import local_client  # noqa: PLC0415 - the platform of this folder, only then

        return await stack.enter_async_context(local_client())


def _open_checkpoint(sink: _End, stack: AsyncExitStack) -> FsspecStorage:
    options = msgspec.json.encode(sink.options).decode()
    storage = open_storage(FilesSettings(url=_checkpoint_url(sink.url), options=options))
    stack.push_async_callback(storage.close)
    return storage


def _is_there(sink: _End) -> bool:
    if sink.format == RAY:
        return False
    try:
        return bool(files_of(sink.url, sink.options)[1])
    except InvalidRequest:
        return False


def _errors_url(url: str) -> str:
    return f"{url}.errors.{JSONL}"


def _checkpoint_url(url: str) -> str:
    return f"{url}.checkpoint"

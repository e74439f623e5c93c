"""One run of `inferbus batch run`: what must be right before any work, then upload, follow, download."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from inferbus.batch.http_api import ApiBatch, BatchApi
from inferbus.cli.batch_progress import BatchProgress
from inferbus.errors import InvalidRequest

OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"
SOME_FAILED = 3
_POLL_S = 1.0


def check_output(folder: Path) -> None:
    """Make a folder for results, or see that it is empty and can be written.

    Raises:
        InvalidRequest: nothing could be put there, or something is there already; nothing was begun.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = next(iter(folder.iterdir()), None)
        if there is not None:
            raise InvalidRequest(f"{folder} is not empty: {there.name} is in it; name another folder")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise InvalidRequest(f"{folder} cannot be written: {exc.strerror or exc}") from exc


def check_input(path: Path) -> None:
    """Raises InvalidRequest where there is no input, it cannot be read, or it is empty."""
    if not path.is_file() or not os.access(path, os.R_OK):
        raise InvalidRequest(f"{path} is no file that can be read")
    if not path.stat().st_size:
        raise InvalidRequest(f"{path} is empty")


async def begin(api: BatchApi, source: Path, fields: dict[str, Any], console: Console) -> ApiBatch:
    """Upload an input and begin its batch."""
    columns = (TextColumn("upload"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=source.stat().st_size)
        file_id = await api.upload(source, lambda size: bar.advance(task, size))
    return await api.create(fields | {"input_file_id": file_id})


async def follow(api: BatchApi, batch_id: str, console: Console) -> ApiBatch:
    """Show a batch until it is over; a gateway that is away for a while is waited for."""
    with BatchProgress(console) as progress:
        while True:
            batch = await api.get(batch_id)
            progress.show(batch)
            if batch.is_over:
                return batch
            await asyncio.sleep(_POLL_S)


async def fetch_results(api: BatchApi, batch: ApiBatch, folder: Path) -> list[Path]:
    """Write what a batch has made; gives the files."""
    made = []
    for file_id, name in ((batch.output_file_id, OUTPUT), (batch.error_file_id, ERRORS)):
        if file_id:
            await api.download(file_id, folder / name)
            made.append(folder / name)
    return made


def come_back(batch_id: str, folder: Path) -> str:
    return (
        f"the batch {batch_id} goes on without you\n"
        f"  follow it and get its results   inferbus batch watch {batch_id} --out {folder}\n"
        f"  stop it                         inferbus batch cancel {batch_id}"
    )


def close(batch: ApiBatch, files: list[Path]) -> None:
    """Say how a batch ended; exit status 0 where every line was answered, 3 where some were not, 1 where it was ended
    early."""
    counts, usage = batch.request_counts, batch.usage
    typer.echo(
        f"{batch.id} {batch.status}: {counts.completed} of {counts.total} answered, {counts.failed} failed; "
        f"{usage.input_tokens} tokens in, {usage.output_tokens} out, {usage.wasted_tokens} wasted"
    )
    for fault in batch.errors.data if batch.errors is not None else []:
        typer.echo(f"  {fault.code}: {fault.message}", err=True)
    for file in files:
        typer.echo(f"  {file}")
    if batch.status != "completed":
        raise typer.Exit(1)
    if counts.failed:
        typer.echo(f"  why: inferbus batch dead-letters list {batch.id}; again: inferbus batch retry-failed {batch.id}")
        raise typer.Exit(SOME_FAILED)

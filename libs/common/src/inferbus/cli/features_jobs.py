"""`inferbus features materialize | history | jobs | cancel`: work over files, done by the features service in slices."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from inferbus.cli.administration import say_json, say_table
from inferbus.cli.feature_operating import Json, ago, operate
from inferbus.contracts.features import DONE, QUEUED, RUNNING

_LOOK_S = 0.5
Files = Annotated[list[str], typer.Argument(help="Parquet files or globs the features service can read.")]
Timestamp = Annotated[str, typer.Option(help="Column of the row's time.")]
Arrived = Annotated[str, typer.Option(help="Column of an event's arrival, for windows.")]
Slices = Annotated[int, typer.Option(min=1, max=4096, help="Pieces it is done in.")]
Wait = Annotated[bool, typer.Option(help="Wait for its end.")]


def materialize(
    view: str,
    paths: Files,
    *,
    timestamp: Timestamp = "event_timestamp",
    arrived: Arrived = "",
    slices: Slices = 16,
    wait: Wait = True,
) -> None:
    """Write the newest row of each entity, or the newest window of events, from files; it goes on whatever is killed."""
    _work(view, paths, wait=wait, timestamp_column=timestamp, arrived_column=arrived, slices=slices)


def history(
    view: str,
    paths: Files,
    *,
    out: Annotated[Path, typer.Option(help="Folder for Parquet files, one a slice; the features service writes them.")],
    timestamp: Timestamp = "event_timestamp",
    arrived: Arrived = "",
    slices: Slices = 16,
    wait: Wait = True,
) -> None:
    """Compute all windows of a view from its events' files, for training; it goes on whatever is killed."""
    whole = str(out.resolve())
    _work(view, paths, wait=wait, timestamp_column=timestamp, arrived_column=arrived, slices=slices, out=whole)


def jobs(*, json: Json = False) -> None:
    """Show materialisations and histories, and how far they are."""
    found = operate("jobs")
    if json:
        say_json(found)
        return
    rows = [
        (
            one["id"], one["view"], "history" if one.get("out") else "store", one.get("state", QUEUED),
            f"{one.get('done', 0)}/{one.get('slices', 16)}", str(one.get("rows", 0)), ago(one["created"]),
            one.get("error", ""),
        )
        for one in found
    ]  # fmt: skip
    say_table(("job", "view", "into", "state", "slices", "rows", "begun", "error"), rows)


def cancel(job: str) -> None:
    """End a materialisation or a history; what it has written stays."""
    operate("cancel", name=job)
    typer.echo(f"cancelled {job}")


def _work(view: str, paths: list[str], *, wait: bool, **how: Any) -> None:
    absolute = [str(Path(path).resolve()) if not path.startswith("/") else path for path in paths]
    job = operate("materialize", view=view, paths=absolute, **how)
    typer.echo(f"{job['id']} queued")
    while wait and job.get("state", QUEUED) in {QUEUED, RUNNING}:
        time.sleep(_LOOK_S)
        job = operate("job", name=job["id"])
    if wait:
        typer.echo(f"{job['id']} {job['state']}: {job.get('rows', 0)} rows {job.get('error', '')}".rstrip())
        if job["state"] != DONE:
            raise typer.Exit(1)

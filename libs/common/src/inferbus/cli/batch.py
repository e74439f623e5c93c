"""`inferbus batch`: many lines at once, through the HTTP door like any other client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console

from inferbus.batch.http_api import ApiBatch, BatchApi
from inferbus.batch.letters import DeadLetter
from inferbus.cli.administration import at, say_json, say_table
from inferbus.cli.batch_progress import state_of
from inferbus.cli.batch_run import begin, check_input, check_output, close, come_back, fetch_results, follow
from inferbus.cli.http_connection import gateway_and_key
from inferbus.codec import from_json
from inferbus.errors import InvalidRequest

R = TypeVar("R")
app = typer.Typer(no_args_is_help=True, help="Batches: run, watch, status, list, cancel, pause, resume, retry-failed.")
letters = typer.Typer(no_args_is_help=True, help="Lines that could not be done: list, show, redrive.")
app.add_typer(letters, name="dead-letters")
_INTERRUPTED = 130

Url = Annotated[str, typer.Option("--url", help="The gateway; default INFERBUS_URL, or the platform of this folder.")]
Key = Annotated[str, typer.Option("--key", help="An API key; default INFERBUS_API_KEY, or the development key.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The batch, as `inferbus batch list` shows it.")]
Out = Annotated[Path, typer.Option("--out", help="A folder for the results: a new or an empty one.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Lines = Annotated[str, typer.Option("--lines", help="Only these lines: 3,17,40.")]
Edited = Annotated[Path | None, typer.Option("--edited", help="Lines to ask otherwise: JSON lines of line, original.")]


@app.command()
def run(
    source: Annotated[Path, typer.Argument(metavar="INPUT.jsonl", help="Lines in the format of the OpenAI Batch API.")],
    out: Out,
    model: Annotated[str, typer.Option("--model", help="For lines that name none.")] = "",
    endpoint: Annotated[str, typer.Option("--endpoint", help="What every line asks for.")] = "/v1/chat/completions",
    window: Annotated[str, typer.Option("--window", help="When it must be done: 24h, 90m, 7d.")] = "24h",
    priority: Annotated[int, typer.Option("--priority", help="Before others of yours: -100 to 100.")] = 0,
    quiet_hours: Annotated[str, typer.Option("--quiet-hours", help="When it rests (UTC): 08:00-18:00.")] = "",
    url: Url = "",
    key: Key = "",
) -> None:
    """Do every line of a file and write the answers. Ctrl-C leaves the batch running."""
    check_input(source)
    check_output(out)
    fields: dict[str, Any] = {
        "endpoint": endpoint, "completion_window": window, "model": model, "priority": priority,
        "quiet_hours": quiet_hours,
    }  # fmt: skip
    _attend(url, key, out, lambda api: begin(api, source, fields, Console()))


@app.command()
def watch(batch_id: Id, out: Out, url: Url = "", key: Key = "") -> None:
    """Follow a batch, and get its results when it is over."""
    check_output(out)
    _attend(url, key, out, lambda api: api.get(batch_id))


@app.command()
def status(batch_id: Id, url: Url = "", key: Key = "", *, json: Json = False) -> None:
    """Say how a batch is doing."""
    batch = _with_api(url, key, lambda api: api.get(batch_id))
    if json:
        say_json(batch)
    else:
        _table([batch])


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 20,
    url: Url = "",
    key: Key = "",
    *,
    json: Json = False,
) -> None:
    """Show your organisation's batches, newest first."""

    async def work(api: BatchApi) -> list[ApiBatch]:
        return [batch async for batch in api.batches(limit)]

    batches = _with_api(url, key, work)
    if json:
        say_json(batches)
    else:
        _table(batches)


@app.command()
def cancel(batch_id: Id, url: Url = "", key: Key = "") -> None:
    """Ask no more lines of a batch; what was answered is in its output."""
    _change(batch_id, "cancel", url, key)


@app.command()
def pause(batch_id: Id, url: Url = "", key: Key = "") -> None:
    """Let a batch rest: what runs is finished, nothing more is begun."""
    _change(batch_id, "pause", url, key)


@app.command()
def resume(batch_id: Id, url: Url = "", key: Key = "") -> None:
    """Let a batch go on."""
    _change(batch_id, "resume", url, key)


@app.command("retry-failed")
def retry_failed(batch_id: Id, url: Url = "", key: Key = "") -> None:
    """Ask every line again that could not be done, as a new batch."""
    _redrive(batch_id, "", None, url, key)


@letters.command("list")
def list_letters(batch_id: Id, url: Url = "", key: Key = "", *, json: Json = False) -> None:
    """Show the lines that could not be done, and why; `--json`: one object to a line, with the original."""

    async def work(api: BatchApi) -> list[DeadLetter]:
        return [letter async for letter in api.dead_letters(batch_id)]

    found = _with_api(url, key, work)
    if json:
        for letter in found:
            typer.echo(msgspec.json.encode(letter).decode())
        return
    head = ("line", "custom_id", "code", "status", "attempts", "message")
    say_table(
        head,
        [
            [
                str(one.line),
                one.custom_id or "-",
                one.code,
                str(one.status or "-"),
                str(one.attempts),
                one.message[:100],
            ]
            for one in found
        ],
    )


@letters.command("show")
def show_letter(
    batch_id: Id, line: Annotated[int, typer.Argument(min=1, help="Its line.")], url: Url = "", key: Key = ""
) -> None:
    """Show one of them as JSON: why, what was answered, the line as it was."""
    say_json(_with_api(url, key, lambda api: api.dead_letter(batch_id, line)))


@letters.command("redrive")
def redrive(batch_id: Id, lines: Lines = "", edited: Edited = None, url: Url = "", key: Key = "") -> None:
    """Ask some of them again, or edited ones, as a new batch."""
    _redrive(batch_id, lines, edited, url, key)


class _EditedLine(msgspec.Struct):
    line: int
    original: str


def edited_lines(path: Path | None) -> dict[int, str]:
    """Read edited lines: what `dead-letters list --json` prints, with another `original`.

    Raises:
        InvalidRequest: it cannot be read; the message names the line.
    """
    found: dict[int, str] = {}
    try:
        lines = path.read_bytes().splitlines() if path is not None else []
    except OSError as exc:
        raise InvalidRequest(f"{path} cannot be read: {exc.strerror or exc}") from exc
    for number, data in enumerate(lines, start=1):
        if data.strip():
            one = from_json(data, _EditedLine, what=f"{path}, line {number}")
            found[one.line] = one.original
    return found


def _redrive(batch_id: str, lines: str, edited: Path | None, url: str, key: str) -> None:
    numbers = [part.strip() for part in lines.split(",") if part.strip()]
    if not all(part.isdecimal() for part in numbers):
        raise InvalidRequest(f"--lines is {lines!r}; it must be numbers with commas between")
    changed = edited_lines(edited)
    again = _with_api(url, key, lambda api: api.retry_failed(batch_id, [int(part) for part in numbers], changed))
    typer.echo(f"{again.id} asks again what {batch_id} could not do: inferbus batch watch {again.id} --out FOLDER")


def _attend(url: str, key: str, out: Path, start: Callable[[BatchApi], Awaitable[ApiBatch]]) -> None:
    """Begin or find a batch and stay with it to its end; Ctrl-C leaves it alone."""
    known: list[str] = []

    async def work(api: BatchApi) -> tuple[ApiBatch, list[Path]]:
        batch = await start(api)
        known.append(batch.id)
        typer.echo(batch.id)
        batch = await follow(api, batch.id, Console())
        return batch, await fetch_results(api, batch, out)

    try:
        batch, files = _with_api(url, key, work)
    except KeyboardInterrupt:
        typer.echo(come_back(known[0], out) if known else "nothing was begun", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    close(batch, files)


def _change(batch_id: str, verb: str, url: str, key: str) -> None:
    batch = _with_api(url, key, lambda api: api.change(batch_id, verb))
    typer.echo(f"{batch.id} {state_of(batch)}")


def _with_api(url: str, key: str, work: Callable[[BatchApi], Awaitable[R]]) -> R:
    url, key = gateway_and_key(url, key)

    async def run() -> R:
        async with BatchApi(url, key) as api:
            return await work(api)

    return asyncio.run(run())


def _table(batches: list[ApiBatch]) -> None:
    head = ("id", "state", "rows", "failed", "tokens", "created", "endpoint")
    rows = []
    for one in batches:
        counts = one.request_counts
        done = f"{counts.completed + counts.failed}/{counts.total}"
        rows.append(
            [
                one.id,
                state_of(one),
                done,
                str(counts.failed),
                str(one.usage.total_tokens),
                at(one.created_at),
                one.endpoint,
            ]
        )
    say_table(head, rows)

"""`inferbus triton`: the Triton servers behind a pool's workers: what they have, and load and unload."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from inferbus.admission.administration import open_administration
from inferbus.admission.audit import Actor
from inferbus.admission.model_servers import WorkerSaid, worst_of
from inferbus.cli.administration import say_json, who
from inferbus.cli.connection import connected
from inferbus.contracts import triton
from inferbus.contracts.triton import TritonAsk
from inferbus.errors import InvalidRequest
from inferbus.process.presence import SILENT_S, PresenceTable

app = typer.Typer(no_args_is_help=True, help="Triton: index, metadata, config, stats; load, unload.")

Pool = Annotated[str, typer.Argument(help="The pool, as `inferbus models list` shows it.")]
Model = Annotated[str, typer.Argument(help="The model's name in the server.")]
Named = Annotated[str, typer.Argument(help="The model's name in the server; default: all.")]
Version = Annotated[str, typer.Option(help="Default: the server's choice.")]
Timeout = Annotated[float, typer.Option(help="Seconds it may take.")]


@app.command()
def index(pool: Pool) -> None:
    """List the models of the servers' repositories, and their state."""
    _run(pool, TritonAsk(op=triton.INDEX))


@app.command()
def metadata(pool: Pool, model: Model, *, version: Version = "") -> None:
    """Show a model's inputs, outputs and versions."""
    _run(pool, TritonAsk(op=triton.METADATA, model=model, version=version))


@app.command()
def config(pool: Pool, model: Model, *, version: Version = "") -> None:
    """Show a model's configuration."""
    _run(pool, TritonAsk(op=triton.CONFIG, model=model, version=version))


@app.command()
def stats(pool: Pool, model: Named = "", *, version: Version = "") -> None:
    """Show what the servers have counted of a model, or of all."""
    _run(pool, TritonAsk(op=triton.STATS, model=model, version=version))


@app.command()
def load(
    pool: Pool,
    model: Model,
    *,
    config: Annotated[Path | None, typer.Option(help="JSON in place of the repository's configuration.")] = None,
    timeout_s: Timeout = 120.0,
) -> None:
    """Load a model, or load it anew: with its newest version, or as `--config` says (a version_policy pins one)."""
    try:
        text = config.read_text() if config is not None else ""
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"{config}: {exc}") from exc
    _run(pool, TritonAsk(op=triton.LOAD, model=model, config=text, timeout_s=timeout_s))


@app.command()
def unload(
    pool: Pool,
    model: Model,
    *,
    dependents: Annotated[bool, typer.Option("--dependents", help="Also what it is an ensemble of.")] = False,
    timeout_s: Timeout = 120.0,
) -> None:
    """Unload a model: what is running is finished, what comes after is refused."""
    _run(pool, TritonAsk(op=triton.UNLOAD, model=model, dependents=dependents, timeout_s=timeout_s))


def _run(pool: str, ask: TritonAsk) -> None:
    """Ask, print what every worker says as JSON; exit status 1 where one refuses."""
    said = asyncio.run(_operate(pool, ask))
    say_json(said)
    if worst_of(said) >= 400:
        raise typer.Exit(1)


async def _operate(pool: str, ask: TritonAsk) -> list[WorkerSaid]:
    async with connected() as bus:
        table = PresenceTable(bus, bus.region)
        await table.start()
        try:
            await asyncio.sleep(SILENT_S)  # whoever lives has been heard by then
            workers = sorted(beat.process for beat in table.workers(pool))
            return await open_administration(bus, b"", Actor(name=who())).servers.operate(pool, workers, ask)
        finally:
            await table.stop()

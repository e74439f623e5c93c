"""`inferbus features apply`: a feature repository becomes what every features process serves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from inferbus.admission.audit import Actor
from inferbus.admission.feature_book import store_definitions, stored_catalogue
from inferbus.cli.administration import who
from inferbus.cli.connection import connected
from inferbus.contracts.features import Catalogue, Compiled
from inferbus.errors import InvalidRequest
from inferbus.local.layout import find_layout

_PYTHON = "INFERBUS_FEATURES_PYTHON"


def apply(
    folder: Annotated[Path, typer.Argument(help="The repository: Python files with Feast's definitions.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
) -> None:
    """Define what a feature repository says, in place of what was defined before. It runs the repository's code."""
    compiled = compile_repository(folder)
    before = asyncio.run(_apply(compiled, Actor(name=who()), dry_run=dry_run))
    for line in changes(before, compiled.catalogue):
        typer.echo(line)
    typer.echo(f"{'would be' if dry_run else 'is'} revision {compiled.catalogue.revision[:12]}")


def compile_repository(folder: Path) -> Compiled:
    """Run a repository's files where Feast is: the environment of the checkout, or the one `INFERBUS_FEATURES_PYTHON` names.

    Raises:
        InvalidRequest: it cannot be compiled, and which definition is why.
    """
    python = os.environ.get(_PYTHON) or str(find_layout().features_python)
    if not Path(python).exists():
        raise InvalidRequest(f"{python} is missing: run `make install`, or set {_PYTHON} to a Python that has Feast")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "compiled.json"
        ended = subprocess.run(
            [python, "-m", "inferbus_features.compiling", str(folder), str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            lines = ended.stderr.strip().splitlines()
            raise InvalidRequest(lines[-1] if lines else f"{folder} cannot be compiled", param="folder")
        return msgspec.json.decode(file.read_bytes(), type=Compiled)


def changes(before: Catalogue | None, after: Catalogue) -> list[str]:
    """Say what comes, goes and changes."""
    lines: list[str] = []
    for kind in ("entities", "sources", "views", "services"):
        old = {one.name: one for one in getattr(before, kind)} if before is not None else {}
        new = {one.name: one for one in getattr(after, kind)}
        word = kind.removesuffix("ies") + "y" if kind.endswith("ies") else kind.removesuffix("s")
        lines += [f"+ {word} {name}" for name in sorted(new.keys() - old.keys())]
        lines += [f"- {word} {name}" for name in sorted(old.keys() - new.keys())]
        lines += [f"~ {word} {name}" for name in sorted(new.keys() & old.keys()) if new[name] != old[name]]
    return lines or ["nothing changes"]


async def _apply(compiled: Compiled, actor: Actor, *, dry_run: bool) -> Catalogue | None:
    async with connected() as bus:
        before = await stored_catalogue(bus)
        if not dry_run:
            await store_definitions(bus, compiled, actor)
        return before

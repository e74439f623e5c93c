"""Following a re-indexing: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from inferbus.vectors.http_api import VectorsApi
from inferbus.vectors.shapes import CollectionObject

_POLL_S = 0.5


async def follow_reindexing(api: VectorsApi, name: str, console: Console) -> CollectionObject:
    """Show how far it is, until it is over."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task, said = bar.add_task("re-indexing", total=None), ""
        while True:
            found = await api.collection(name)
            moving = found.reindexing
            if moving is None or moving.is_over:
                return found
            bar.update(task, description=moving.state, completed=moving.done, total=moving.total or None)
            if not console.is_terminal and moving.state != said:
                said = moving.state
                console.print(f"{moving.state}: {moving.done}/{moving.total} chunks", highlight=False)
            await asyncio.sleep(_POLL_S)

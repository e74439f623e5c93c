"""Which engine a process has, and whether it is ready."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from inferbus_vectors.adapters.qdrant_edge.index import EdgeIndex
from inferbus_vectors.ports import VectorIndex
from inferbus_vectors.settings import VectorsSettings


class Engine(msgspec.Struct, frozen=True):
    """An engine that was started. `ready` waits until it serves; until then `why_not_ready` says why."""

    index: VectorIndex
    ready: Callable[[], Awaitable[None]]
    why_not_ready: Callable[[], str | None]


async def start_engine(settings: VectorsSettings) -> Engine:
    """Start the engine the settings name. `index.stop` it."""
    if settings.qdrant_url:
        # Its client takes a second and a half and 90 MB to import, which the embedded engine needs not.
        from inferbus_vectors.adapters.qdrant_server.index import ServerIndex, connect  # noqa: PLC0415  # see above

        server = ServerIndex(
            connect(settings.qdrant_url, api_key=settings.qdrant_api_key), prefix=settings.qdrant_prefix
        )
        return Engine(server, server.reached, server.why_not_ready)
    edge = EdgeIndex(Path(settings.folder), silence_s=settings.engine_silence_s)
    await edge.start()
    return Engine(edge, edge.owned, edge.why_not_ready)

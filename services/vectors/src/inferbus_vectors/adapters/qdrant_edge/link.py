"""Link: the service's end of the socket to an owner. Frames come out as they are read, without a task in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from inferbus_vectors.adapters.qdrant_edge import wire


class Link(asyncio.Protocol):
    """Calls `on_frame` for every frame; `lost` is done when the other end has hung up, or this one."""

    def __init__(self, on_frame: Callable[[bytes], None]) -> None:
        self._on_frame = on_frame
        self._frames = wire.Frames()
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # of a socket, though uvloop's is not of this class

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self._on_frame(frame)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # however it ended
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)

    def write(self, data: bytes) -> None:
        """Send a frame. What waits is bounded by whoever asks: so many searches, so many batches at once.

        Raises:
            ConnectionError: it is lost.
        """
        if self._transport is None:
            raise ConnectionResetError("the link is lost")
        self._transport.write(data)

    def close(self) -> None:
        """Hang up, after what was written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up now."""
        if self._transport is not None:
            self._transport.abort()

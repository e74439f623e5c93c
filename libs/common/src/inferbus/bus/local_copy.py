"""LocalCopy: a KV bucket, or a part of it, kept in memory, never more than a moment old."""

from __future__ import annotations

from inferbus.bus import Bus
from inferbus.bus.watch import KvWatch


class LocalCopy:
    """A subclass takes in what changes (`_on_change`, called for every key at the start too) and answers from that."""

    def __init__(self, bus: Bus, bucket: str, *, below: str = "") -> None:
        """`below`: only the keys that begin with it."""
        self._watch = KvWatch(bus, bucket, self._on_change, below=below)

    async def start(self) -> None:
        """Begin following; returns once the watch is set up (`ready` tells when everything is loaded)."""
        await self._watch.start()

    async def loaded(self) -> None:
        await self._watch.ready.wait()

    @property
    def ready(self) -> bool:
        return self._watch.ready.is_set()

    async def stop(self) -> None:
        await self._watch.stop()

    def _on_change(self, key: str, value: bytes | None) -> None:
        """Take in what the bucket says of one key; None: nothing, any more."""
        raise NotImplementedError

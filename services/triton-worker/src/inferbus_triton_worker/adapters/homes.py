"""A Triton that somebody else runs: a sidecar, or another machine."""

from __future__ import annotations

import asyncio


class ExternalTriton:
    """Implements `Home` for an address. Its end cannot be seen from here, only that it does not answer."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def start(self) -> str:
        return self._address

    async def stop(self) -> None:
        """It is not ours to stop."""

    async def died(self) -> str:
        await asyncio.Event().wait()
        return ""

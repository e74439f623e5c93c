"""What streams there were: a server that comes up without them has lost them, and must not be given empty ones.

A nats-server started with a wrong encryption key (or on another disk) is "ready" and has no streams. Making them anew
would hide that: requests would be accepted into a queue that is not the one that has the others.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import msgspec

from inferbus.errors import DependencyDown
from inferbus.private_files import write_private

Create = Literal["auto", "always", "never"]


class StreamsLost(DependencyDown):
    """Streams are missing that were there, or that this process was told not to make."""


class StreamMemory:
    """Which streams this bus has had: since this process started, and with a `file`, before."""

    def __init__(self, create: Create = "always", file: Path | None = None) -> None:
        """`create`: "auto" makes what has not been there before, "always" whatever is missing, "never" nothing."""
        self._create = create
        self._file = file
        self._known: set[str] = set()
        if file is not None and file.exists():
            self._known = set(msgspec.json.decode(file.read_bytes(), type=list[str]))

    def check(self, missing: list[str], *, volatile: Collection[str] = ()) -> None:
        """Allow that these streams are made, or refuse. `volatile`: those in memory, which every restart empties.

        Raises:
            StreamsLost: the message names them, and what to do.
        """
        if self._create == "never" and missing:
            raise StreamsLost(f"missing streams: {', '.join(missing)}; INFERBUS_TOPOLOGY_CREATE=never leaves them so")
        lost = sorted(self._known.intersection(missing).difference(volatile)) if self._create == "auto" else []
        if lost:
            raise StreamsLost(
                f"streams that were there are gone: {', '.join(lost)}. Is the server's encryption key the right one, and "
                "its disk? If they are to be made anew, empty: INFERBUS_TOPOLOGY_CREATE=always, once",
                retry_after_s=5.0,
            )

    def made(self, streams: list[str]) -> None:
        """Remember that these are there. (A stream in memory is lost at every restart: it is not to be given here.)"""
        if self._known.issuperset(streams):
            return
        self._known.update(streams)
        if self._file is not None:
            write_private(self._file, msgspec.json.encode(sorted(self._known)))

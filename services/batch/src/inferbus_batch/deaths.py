"""Deaths: which chunks were being worked on when a process ended without a word. A body beside the job's parts says so of
every chunk that was delivered before; whoever takes it next reads there that nobody has ended it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec

from inferbus.codec import from_json
from inferbus.contracts.batch import JobRecord
from inferbus.errors import NotFound, StorageDown
from inferbus.files.ports import Storage
from inferbus_batch.chunk_output import parts_folder
from inferbus_batch.domain.poison import DeathNote


class Deaths:
    """Every method but `ended` raises `StorageDown`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def of(self, job: JobRecord, n: int) -> DeathNote:
        """Say what is known of a chunk; one that nobody has ended counts as a death."""
        try:
            data = b"".join([piece async for piece in self._storage.read(_name(job, n))])
        except NotFound:
            return DeathNote()
        return from_json(data, DeathNote, what="note of deaths").counted()

    async def begun(self, job: JobRecord, n: int, note: DeathNote, how: str) -> None:
        """Note that the chunk is worked on."""
        await self._write(job, n, msgspec.structs.replace(note, running=how))

    async def ended(self, job: JobRecord, n: int, note: DeathNote) -> None:
        """Note that whoever worked on it lives."""
        with contextlib.suppress(StorageDown):  # it counts as a death then, of which many are needed
            await self._write(job, n, msgspec.structs.replace(note, running=""))

    async def _write(self, job: JobRecord, n: int, note: DeathNote) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield msgspec.json.encode(note)

        await self._storage.write(_name(job, n), pieces())


def _name(job: JobRecord, n: int) -> str:
    return f"{parts_folder(job.tenant, job.id)}/{n}.deaths"

"""Dead letters: the lines of a job that could not be done, read in pieces; and an input made of those to be asked again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping

from inferbus.batch.part_book import PartBook
from inferbus.batch.splitting import LineSplitter
from inferbus.batch.states import is_over
from inferbus.codec import from_json
from inferbus.contracts.batch import DeadRow, JobRecord, PartRecord
from inferbus.errors import Conflict, InvalidRequest
from inferbus.files.book import FileBook

_MAX_BYTES = 2**31
_PIECE_BYTES = 256 * 1024


class DeadLetters:
    """Reads the dead letters of jobs: of those that run, what has come so far."""

    def __init__(self, files: FileBook, parts: PartBook) -> None:
        self._files = files
        self._parts = parts

    async def of(self, job: JobRecord, *, after: int = 0) -> AsyncIterator[DeadRow]:
        """Give a job's dead letters in the order of its lines, those after a line.

        Raises:
            NotFound: they have expired. StorageDown, DependencyDown: later it may be possible.
        """
        splitter = LineSplitter(_MAX_BYTES)
        async for piece in self._bodies(job):
            for line in splitter.feed(piece):
                if line.data and (row := from_json(line.data, DeadRow, what="dead letter")).line > after:
                    yield row

    async def _bodies(self, job: JobRecord) -> AsyncIterator[bytes]:
        if is_over(job):
            if job.dead_file_id:
                async for piece in self._files.read(await self._files.get(job.tenant, job.dead_file_id)):
                    yield piece
            return
        found: list[PartRecord] = [part async for _, part in self._parts.since(job.tenant, job.id, 1)]
        for part in sorted(found, key=lambda one: one.n):
            if part.dead is not None and part.plan == job.plan:
                async for piece in self._files.storage.read(part.dead.body):
                    yield piece

    async def again(self, job: JobRecord, lines: Collection[int], edited: Mapping[int, str]) -> AsyncIterator[bytes]:
        """Give the input of a job that asks those lines (none: all) again, `edited` ones in their new form.

        Raises:
            Conflict: the job is not over, or has nothing to ask again. InvalidRequest: a line that is named is no dead
                letter, or was too long to be kept.
        """
        if not is_over(job) or not job.dead_file_id:
            raise Conflict(f"the batch {job.id} is {job.state} and has no dead letters to ask again", param="batch_id")
        wanted = set(lines) | set(edited)
        missing, waiting = set(wanted), list[bytes]()
        async for row in self.of(job):
            if wanted and row.line not in wanted:
                continue
            original = edited.get(row.line, row.original)
            if original:
                missing.discard(row.line)
                waiting.append(original.encode() + b"\n")
            if sum(map(len, waiting)) > _PIECE_BYTES:
                yield b"".join(waiting)
                waiting = []
        if missing:
            named = ", ".join(map(str, sorted(missing)[:10]))
            raise InvalidRequest(f"no dead letter that could be asked again has line {named}", param="lines")
        yield b"".join(waiting)

"""The lines of a chunk: read from the storage, checked against what was planned, and understood."""

from __future__ import annotations

import hashlib

import msgspec

from inferbus.batch.lines import Row, check_line
from inferbus.batch.splitting import LineSplitter
from inferbus.contracts.batch import ChunkSpec, JobRecord, LineFault
from inferbus.errors import NotFound
from inferbus.files.ports import Storage


class InputChanged(Exception):
    """The input is not what was planned any more."""


class ChunkLines(msgspec.Struct, frozen=True):
    """What a chunk asks for. `lines` are those that get a result, in order; `originals` as they are in the input, where
    they were read."""

    lines: list[int]
    rows: dict[int, Row]
    faults: dict[int, LineFault]
    originals: dict[int, bytes]


async def read_chunk(storage: Storage, job: JobRecord, spec: ChunkSpec) -> ChunkLines:
    """Read and understand a chunk's lines.

    Raises:
        InputChanged: they are not those that were planned. StorageDown: they cannot be read now.
    """
    known = {fault.line: fault for fault in spec.faults}
    if spec.unread:
        return ChunkLines([spec.first_line], {}, known, {})
    if job.input is None:
        raise InputChanged("the job names no input")
    try:
        data = b"".join([piece async for piece in storage.read(job.input.body, spec.offset, spec.bytes)])
    except NotFound:
        raise InputChanged("the input is gone") from None
    if len(data) != spec.bytes or hashlib.sha256(data).hexdigest() != spec.sha256:
        raise InputChanged(f"lines {spec.first_line} to {spec.first_line + spec.lines - 1} are not what they were")
    splitter = LineSplitter(spec.bytes + 1, first_line=spec.first_line, offset=spec.offset)
    found = ChunkLines([], {}, {}, {})
    for line in (*splitter.feed(data), *splitter.finish()):
        if line.is_blank or line.data is None:
            continue
        found.lines.append(line.number)
        found.originals[line.number] = line.data
        checked = known.get(line.number) or check_line(line.number, line.data, endpoint=job.endpoint, model=job.model)
        if isinstance(checked, Row):
            found.rows[line.number] = checked
        else:
            found.faults[line.number] = checked
    return found


def unreadable(spec: ChunkSpec) -> ChunkLines:
    """Give a chunk's lines by number alone, where nothing more can be known of them: blank ones are not told apart, so
    that it is the first ones that get a result."""
    lines = list(range(spec.first_line, spec.first_line + spec.rows))
    return ChunkLines(lines, {}, {fault.line: fault for fault in spec.faults if fault.line in lines}, {})

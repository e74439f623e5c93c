"""What a chunk comes to: the bodies of its part, with one result for each of its lines. Written, then committed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from inferbus import routes
from inferbus.batch.lines import CANCELLED_LINE, EXPIRED_LINE, FAILED_LINE, custom_id_of, output_line
from inferbus.contracts.batch import CANCELLED, EXPIRED, BodyRef, ChunkSpec, DeadRow, JobRecord, LineFault, PartRecord
from inferbus.files.ports import Storage
from inferbus_batch.chunk_input import ChunkLines
from inferbus_batch.domain.row_end import RowEnd, dead_fault, dead_row, spent_by

_UNASKED = {
    EXPIRED: (EXPIRED_LINE, "This request could not be executed before the completion window expired."),
    CANCELLED: (CANCELLED_LINE, "This request was not executed: the batch was cancelled."),
}
_FAILED = (FAILED_LINE, "This request was not executed: the batch failed.")


class Results(msgspec.Struct, frozen=True):
    """One result for each line of a chunk: in `answers` (a line of the output each) or in `dead`."""

    answers: list[bytes]
    dead: list[DeadRow]


def results_of(
    job: JobRecord, lines: ChunkLines, ends: Mapping[int, RowEnd], *, ending: str = "", failure: str = ""
) -> Results:
    """Give every line its one result. A row without an end was not asked: `ending` says why its job ended early, or
    `failure` what was wrong with the chunk."""
    answers, dead = [], []
    for line in lines.lines:
        original, row, end = lines.originals.get(line, b""), lines.rows.get(line), ends.get(line)
        custom_id = row.custom_id if row is not None else custom_id_of(original)
        if row is not None and end is not None and end.outcome.status == 200 and end.outcome.failure is None:
            answers.append(output_line(row.custom_id, end.request_id, 200, end.outcome.body))
        elif end is not None:
            dead.append(dead_row(line, custom_id, end, original))
        else:
            code, why = ("internal", failure) if failure else _UNASKED.get(ending, _FAILED)
            fault = lines.faults.get(line) or LineFault(line, code, why)
            dead.append(dead_fault(fault, custom_id, routes.line_request(job.id, line), original))
    return Results(answers, dead)


def parts_folder(tenant: str, job: str) -> str:
    """Say where the bodies of a job's parts lie until its files are made of them."""
    return f"batches/{tenant}/{job}"


async def write_part(
    storage: Storage, job: JobRecord, spec: ChunkSpec, results: Results, ends: Mapping[int, RowEnd], *, attempt: int,
    worker: str,
) -> PartRecord:  # fmt: skip
    """Write the bodies of a part under names nobody else uses; nothing refers to them yet.

    Raises:
        StorageDown: they cannot be written now.
    """
    name = f"{parts_folder(job.tenant, job.id)}/{spec.n}-{secrets.token_hex(6)}"
    return PartRecord(
        job=job.id, plan=spec.plan, n=spec.n, first_line=spec.first_line, rows=len(results.answers) + len(results.dead),
        completed=len(results.answers), failed=len(results.dead), spent=spent_by(list(ends.values())),
        output=await _write(storage, f"{name}.output", results.answers),
        dead=await _write(storage, f"{name}.dead", [msgspec.json.encode(row) + b"\n" for row in results.dead]),
        taken=sum(end.taken for end in ends.values()), attempt=attempt, worker=worker,
    )  # fmt: skip


async def _write(storage: Storage, name: str, lines: Sequence[bytes]) -> BodyRef | None:
    if not lines:
        return None

    async def pieces() -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    written = await storage.write(name, pieces())
    return BodyRef(body=name, bytes=written.bytes, sha256=written.sha256, rows=len(lines))


async def remove_part(storage: Storage, part: PartRecord) -> None:
    """Remove the bodies of a part that does not count."""
    for ref in (part.output, part.dead):
        if ref is not None:
            await storage.delete(ref.body)

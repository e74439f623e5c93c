"""/v1/batches, as the OpenAI API has it; and what is ours: pause, resume, dead letters, failed lines asked again.

A batch is its tenant's. Everything here reads and changes its record; the coordinators (services/batch) do the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from inferbus.admission.identity import Identity
from inferbus.batch.letters import DeadLetter, DeadLetterList, describe_dead
from inferbus.batch.states import cancelled, is_over, paused, resumed
from inferbus.contracts.batch import BY_USER, JobRecord, Pause
from inferbus.contracts.files import BATCH_INPUT
from inferbus.errors import Conflict, InvalidRequest, NotFound
from inferbus.files.book import NewFile
from inferbus.files.limits import check_room
from inferbus_gateway.batch_door import BatchDoor, opened
from inferbus_gateway.batch_wishes import check_batch_model, check_input, check_may_batch, is_same_wish, job_of
from inferbus_gateway.http.admin_request import read_wanted
from inferbus_gateway.http.batch_operations import BatchOperation, batch_operation
from inferbus_gateway.http.batch_shapes import (
    BatchList,
    BatchObject,
    NewBatch,
    Redrive,
    describe_batch,
)
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.kserve import AnyRequest

_PATH = "/v1/batches"
_ONE = f"{_PATH}/{{batch_id:str}}"
_PAGE, _MAX_PAGE, _MAX_LETTERS = 20, 100, 1000


def build_batches(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(_PATH, status_code=200, summary="Begin a batch", operation_class=batch_operation(NewBatch))
    async def create_batch(request: AnyRequest) -> BatchObject:
        identity, door = _open(deps, request)
        new = await read_wanted(request, NewBatch)
        check_may_batch(identity, new.endpoint)
        if new.model:
            check_batch_model(identity, deps.models, new.model, new.endpoint)
        try:
            check_input(await door.files.get(identity.tenant, new.input_file_id))
        except NotFound as exc:  # of a file, not of this path
            raise InvalidRequest(exc.message, param="input_file_id") from exc
        return describe_batch(await _begin(door, _job_of(request, identity, new)))

    @get(_PATH, summary="List your organisation's batches, newest first", operation_class=BatchOperation)
    async def list_batches(
        request: AnyRequest,
        after: Annotated[str, QueryParameter(description="Go on after the batch with this id.")] = "",
        limit: Annotated[int, QueryParameter(description="At most so many: 1 to 100.")] = _PAGE,
    ) -> BatchList:
        identity, door = _open(deps, request)
        if not 1 <= limit <= _MAX_PAGE:
            raise InvalidRequest(f"limit is {limit}; it must be from 1 to {_MAX_PAGE}", param="limit")
        jobs = [job async for job in door.jobs.of_tenant(identity.tenant)]
        return page_of_jobs(jobs, after, limit)

    @get(_ONE, summary="How a batch is doing", operation_class=BatchOperation)
    async def retrieve_batch(request: AnyRequest, batch_id: FromPath[str]) -> BatchObject:
        identity, door = _open(deps, request)
        return describe_batch((await door.jobs.find(identity.tenant, batch_id)).job)

    return create_batch, list_batches, retrieve_batch, *_build_changes(deps), *_build_dead_letters(deps)


def _build_changes(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    async def change(request: AnyRequest, batch_id: str, decide: Callable[[JobRecord], JobRecord]) -> BatchObject:
        identity, door = _open(deps, request)
        return describe_batch((await door.jobs.change(identity.tenant, batch_id, decide)).job)

    @post(f"{_ONE}/cancel", status_code=200, summary="Cancel a batch", operation_class=BatchOperation)
    async def cancel_batch(request: AnyRequest, batch_id: FromPath[str]) -> BatchObject:
        """Ask no more lines; those that were answered are in the output file all the same."""
        return await change(request, batch_id, lambda job: cancelled(job, time.time()))

    @post(f"{_ONE}/pause", status_code=200, summary="Let a batch rest", operation_class=BatchOperation)
    async def pause_batch(request: AnyRequest, batch_id: FromPath[str]) -> BatchObject:
        """What runs is finished, nothing more is begun. The completion window goes on."""
        return await change(request, batch_id, lambda job: paused(job, Pause(reason=BY_USER, at=time.time())))

    @post(f"{_ONE}/resume", status_code=200, summary="Let a batch go on", operation_class=BatchOperation)
    async def resume_batch(request: AnyRequest, batch_id: FromPath[str]) -> BatchObject:
        return await change(request, batch_id, resumed)

    return cancel_batch, pause_batch, resume_batch


def _build_dead_letters(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(
        f"{_ONE}/retry-failed", status_code=200, summary="Ask lines that could not be done again, as a new batch",
        operation_class=batch_operation(Redrive),
    )  # fmt: skip
    async def retry_failed(request: AnyRequest, batch_id: FromPath[str]) -> BatchObject:
        identity, door = _open(deps, request)
        parent = (await door.jobs.find(identity.tenant, batch_id)).job
        wanted = await read_wanted(request, Redrive)
        check_may_batch(identity, parent.endpoint)
        return describe_batch(await _begin(door, await _again(door, request, identity, parent, wanted)))

    @get(f"{_ONE}/dead-letters", summary="Lines that could not be done", operation_class=BatchOperation)
    async def list_dead_letters(
        request: AnyRequest,
        batch_id: FromPath[str],
        after: Annotated[int, QueryParameter(description="Only lines after this one.")] = 0,
        limit: Annotated[int, QueryParameter(description="At most so many: 1 to 1000.")] = _MAX_PAGE,
    ) -> DeadLetterList:
        identity, door = _open(deps, request)
        if not 1 <= limit <= _MAX_LETTERS:
            raise InvalidRequest(f"limit is {limit}; it must be from 1 to {_MAX_LETTERS}", param="limit")
        job = (await door.jobs.find(identity.tenant, batch_id)).job
        found: list[DeadLetter] = []
        async for row in door.dead_letters.of(job, after=after):
            if len(found) == limit:
                return DeadLetterList(data=found, has_more=True)
            found.append(describe_dead(row))
        return DeadLetterList(data=found)

    @get(f"{_ONE}/dead-letters/{{line:int}}", summary="One of them", operation_class=BatchOperation)
    async def retrieve_dead_letter(request: AnyRequest, batch_id: FromPath[str], line: FromPath[int]) -> DeadLetter:
        identity, door = _open(deps, request)
        job = (await door.jobs.find(identity.tenant, batch_id)).job
        async for row in door.dead_letters.of(job, after=line - 1):
            if row.line == line:
                return describe_dead(row)
            break
        raise NotFound(f"line {line} of {job.id} is no dead letter", param="line")

    return retry_failed, list_dead_letters, retrieve_dead_letter


def page_of_jobs(jobs: Sequence[JobRecord], after: str, limit: int) -> BatchList:
    """Cut a page out of a tenant's jobs, newest first. Pure.

    Raises:
        InvalidRequest: no job is called as `after`.
    """
    newest = sorted(jobs, key=lambda job: (job.created, job.id), reverse=True)
    if after:
        places = [place for place, job in enumerate(newest) if job.id == after]
        if not places:
            raise InvalidRequest(f"there is no batch {after[:80]!r} to go on after", param="after")
        newest = newest[places[0] + 1 :]
    data = [describe_batch(job) for job in newest[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return BatchList(data=data, first_id=first, last_id=last, has_more=len(newest) > limit)


def _open(deps: HttpDeps, request: AnyRequest) -> tuple[Identity, BatchDoor]:
    """Raises Unauthenticated; NotFound where this gateway keeps no files."""
    identity = deps.authenticator.authenticate(request.headers.get("authorization"))
    return identity, opened(deps.batch)


def _job_of(request: AnyRequest, identity: Identity, new: NewBatch) -> JobRecord:
    headers = request.headers
    key, trace = headers.get("idempotency-key", ""), headers.get("traceparent", "")
    return job_of(identity, new, idempotency_key=key, traceparent=trace)


async def _begin(door: BatchDoor, job: JobRecord) -> JobRecord:
    """Note a job; one that was noted before under its idempotency key is given back.

    Raises:
        Conflict: the key was used for something else.
    """
    try:
        return (await door.jobs.create(job)).job
    except Conflict:
        known = (await door.jobs.find(job.tenant, job.id)).job
        if not is_same_wish(known, job):
            raise Conflict("the idempotency key was used for another batch", param="Idempotency-Key") from None
        return known


async def _again(
    door: BatchDoor, request: AnyRequest, identity: Identity, parent: JobRecord, wanted: Redrive
) -> JobRecord:
    """Make the record of a job that asks a parent's lines again; of all of them its coordinator makes the input."""
    if not is_over(parent) or not parent.dead_file_id:
        raise Conflict(
            f"the batch {parent.id} is {parent.state} and has no dead letters to ask again", param="batch_id"
        )
    file_id = ""
    if wanted.lines or wanted.edited:
        edited = {one.line: one.original for one in wanted.edited}
        if any("\n" in line or not line.strip() for line in edited.values()):
            raise InvalidRequest("an edited line is one line, and not empty", param="edited")
        await check_room(door.files, identity.tenant, 0, door.settings)
        pieces = door.dead_letters.again(parent, wanted.lines, edited)
        new = NewFile(
            tenant=identity.tenant, purpose=BATCH_INPUT, filename=f"{parent.id}_failed.jsonl", key_id=identity.key_id,
            expires_at=int(time.time()) + door.settings.default_expiry_s if door.settings.default_expiry_s else 0,
        )  # fmt: skip
        file_id = (await door.files.create(new, pieces, limit_bytes=door.settings.max_file_bytes)).id
    new_batch = NewBatch(
        input_file_id=file_id, endpoint=parent.endpoint, completion_window=parent.completion_window,
        metadata=parent.metadata or None, model=parent.model, priority=parent.priority, quiet_hours=parent.quiet_hours,
    )  # fmt: skip
    job = _job_of(request, identity, new_batch)
    return msgspec.structs.replace(job, retry_of=parent.id, output_expires_s=parent.output_expires_s)

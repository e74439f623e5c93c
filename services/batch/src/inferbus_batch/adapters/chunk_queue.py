"""ChunkQueue: the chunks of a job, one consumer to a job. A consumer that is gone is made again: it has nothing to lose."""

from __future__ import annotations

import asyncio

import msgspec
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.batch import ChunkSpec, JobRecord
from inferbus.errors import DependencyDown
from inferbus.queue.delivery import Delivery

ACK_WAIT_S = 8.0
"""The lease of a chunk; renewed every third of it."""
_INACTIVE_S = 7 * 86_400
_PULL_S = 3.0
_NOT_THERE = {"503", "409"}


class _Created(msgspec.Struct):
    error: dict[str, object] | None = None


class ChunkQueue:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def next(self, job: JobRecord) -> Delivery | None:
        """Take the next chunk of a job's plan; None where all are taken.

        Raises:
            DependencyDown: the bus is away.
        """
        message = await self._pull(job.id)
        if message is None:
            await self._ensure(job)
            message = await self._pull(job.id)
        if message is None or _status_of(message):
            return None
        return Delivery(self._bus, message)

    async def publish(self, tenant: str, spec: ChunkSpec) -> None:
        """Put a chunk into the queue.

        Raises:
            DependencyDown: the bus stays away. Overloaded: the queue has no room.
        """
        subject = routes.batch_chunk(tenant, spec.job, spec.plan)
        await self._bus.accept(subject, to_json(spec), {}, msg_id=f"{tenant}:{spec.plan}:{spec.n}")

    async def forget(self, tenant: str, job_id: str) -> None:
        """Remove a job's chunks and its consumer."""
        body = msgspec.json.encode({"filter": routes.batch_chunks_of(tenant, job_id)})
        await self._bus.request(f"$JS.API.STREAM.PURGE.{routes.STREAM_BATCH_CHUNKS}", body)
        consumer = routes.durable_chunks(job_id)
        await self._bus.request(f"$JS.API.CONSUMER.DELETE.{routes.STREAM_BATCH_CHUNKS}.{consumer}")

    async def _pull(self, job_id: str) -> Msg | None:
        """Ask for one message: gives it, or a status that says there is none; None where there is no consumer."""
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        def on_message(message: Msg) -> None:
            if not answer.done():
                answer.set_result(message)

        inbox = self._bus.nc.new_inbox()
        subscription = await self._bus.listen(inbox, on_message)
        next_ = f"$JS.API.CONSUMER.MSG.NEXT.{routes.STREAM_BATCH_CHUNKS}.{routes.durable_chunks(job_id)}"
        try:
            await self._bus.publish(next_, b'{"batch":1,"no_wait":true}', reply=inbox)
            async with asyncio.timeout(_PULL_S):
                message = await answer
        except TimeoutError:
            raise DependencyDown("the queue of chunks does not answer") from None
        finally:
            await self._bus.unsubscribe(subscription)
        return None if _status_of(message) in _NOT_THERE else message

    async def _ensure(self, job: JobRecord) -> None:
        name = routes.durable_chunks(job.id)
        filter_ = routes.batch_chunk(job.tenant, job.id, job.plan)
        config = {
            "durable_name": name, "name": name, "filter_subject": filter_, "ack_policy": "explicit", "deliver_policy": "all",
            "ack_wait": int(ACK_WAIT_S * 1e9), "max_deliver": -1, "max_ack_pending": 1000, "replay_policy": "instant",
            "inactive_threshold": int(_INACTIVE_S * 1e9),
        }  # fmt: skip
        body = msgspec.json.encode({"stream_name": routes.STREAM_BATCH_CHUNKS, "config": config})
        create = f"$JS.API.CONSUMER.CREATE.{routes.STREAM_BATCH_CHUNKS}.{name}.{filter_}"
        answer = msgspec.json.decode((await self._bus.request(create, body)).data, type=_Created)
        if answer.error is not None:
            raise DependencyDown(f"no consumer of chunks: {answer.error.get('description')}")


def _status_of(message: Msg) -> str:
    """Give the status of what is no message of the stream."""
    headers = message.headers or {}
    return str(headers.get("Status", "")) if not message.reply.startswith("$JS.ACK") else ""

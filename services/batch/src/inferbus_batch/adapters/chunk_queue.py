"""ChunkQueue: the chunks of jobs, a consumer to each job. One that is gone is made again: it has nothing to lose."""

from __future__ import annotations

from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.consumers import ConsumerSpec, NoConsumer, delete_consumer, ensure_consumer, pull_one, purge
from inferbus.codec import to_json
from inferbus.contracts.batch import ChunkSpec, JobRecord
from inferbus.queue.delivery import Delivery

ACK_WAIT_S = 8.0
"""The lease of a chunk; renewed every third of it."""
_INACTIVE_S = 7 * 86_400.0


class ChunkQueue:
    """Every method raises `DependencyDown` while the bus is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, tenant: str, spec: ChunkSpec) -> None:
        """Put a chunk into the queue.

        Raises:
            Overloaded: the queue has no room.
        """
        subject = routes.batch_chunk(tenant, spec.job, spec.plan)
        await self._bus.accept(subject, to_json(spec), {}, msg_id=f"{tenant}:{spec.plan}:{spec.n}")

    async def next(self, job: JobRecord) -> Delivery | None:
        """Take the next chunk of a job's plan; None where all are taken."""
        try:
            message = await self._pull(job)
        except NoConsumer:
            await ensure_consumer(
                self._bus,
                ConsumerSpec(
                    stream=routes.STREAM_BATCH_CHUNKS, name=routes.durable_chunks(job.id), ack_wait_s=ACK_WAIT_S,
                    filter_subject=routes.batch_chunk(job.tenant, job.id, job.plan), inactive_s=_INACTIVE_S,
                ),
            )  # fmt: skip
            try:
                message = await self._pull(job)
            except NoConsumer:
                return None
        return None if message is None else Delivery(self._bus, message)

    async def forget(self, tenant: str, job_id: str) -> None:
        """Remove a job's chunks and its consumer."""
        await purge(self._bus, routes.STREAM_BATCH_CHUNKS, routes.batch_chunks_of(tenant, job_id))
        await delete_consumer(self._bus, routes.STREAM_BATCH_CHUNKS, routes.durable_chunks(job_id))

    async def _pull(self, job: JobRecord) -> Msg | None:
        return await pull_one(self._bus, routes.STREAM_BATCH_CHUNKS, routes.durable_chunks(job.id))

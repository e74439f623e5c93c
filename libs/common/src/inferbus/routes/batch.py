"""Batch jobs: their chunks, their parts, their lines."""

from __future__ import annotations

__all__ = [
    "KV_JOBS", "STREAM_BATCH_CHUNKS", "STREAM_BATCH_PARTS", "SUBJECTS_BATCH_CHUNKS", "SUBJECTS_BATCH_PARTS",
    "batch_chunk", "batch_chunks_of", "batch_part", "batch_parts_of", "chunk_fence", "durable_chunks", "fence_of", "group_request",
    "line_request",
]  # fmt: skip

STREAM_BATCH_CHUNKS, STREAM_BATCH_PARTS = "BATCH_CHUNKS", "BATCH_PARTS"
SUBJECTS_BATCH_CHUNKS, SUBJECTS_BATCH_PARTS = "batch.chunk.*.*.*", "batch.part.*.*.*"
KV_JOBS = "jobs"


def batch_chunk(tenant: str, job: str, plan: str) -> str:
    """Chunks of a job, as one run of planning has made them."""
    return f"batch.chunk.{tenant}.{job}.{plan}"


def batch_chunks_of(tenant: str, job: str) -> str:
    return f"batch.chunk.{tenant}.{job}.*"


def durable_chunks(job: str) -> str:
    """The consumer of a job's chunks."""
    return job


def batch_part(tenant: str, job: str, n: int) -> str:
    return f"batch.part.{tenant}.{job}.{n}"


def batch_parts_of(tenant: str, job: str) -> str:
    return f"batch.part.{tenant}.{job}.*"


def line_request(job: str, line: int, attempt: int = 1) -> str:
    """The request id of a line: of the first time it is asked, or of another that a stored failure made necessary."""
    return f"{job}-{line}" if attempt == 1 else f"{job}-{line}-r{attempt}"


def chunk_fence(job: str, chunk: int) -> str:
    """Where the latest delivery of a chunk is noted, among the outcomes of requests (`inferbus.batch.fence`)."""
    return f"{job}-c{chunk}"


def group_request(job: str, chunk: int, attempt: int, n: int) -> str:
    """The request id of a group of rows: the n-th of one delivery of a chunk."""
    return f"{chunk_fence(job, chunk)}-{attempt}-{n}"


def fence_of(group: str) -> tuple[str, int]:
    """Take a group's request id apart: its chunk's fence, and its delivery. 0: it is none."""
    parts = group.rsplit("-", 2)
    return (parts[0], int(parts[1])) if len(parts) == 3 and parts[1].isdecimal() else (group, 0)

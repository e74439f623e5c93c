"""Progress: what a job's committed parts add up to. Pure."""

from __future__ import annotations

import msgspec

from inferbus.contracts.batch import Counts, JobRecord, PartRecord, Spent


class Progress:
    """`add` each part once, in the order of the stream; `seq` is that of the last one."""

    def __init__(self) -> None:
        self.seq = 0
        self.parts = self.completed = self.failed = 0
        self._spent = Spent()

    def add(self, seq: int, part: PartRecord) -> None:
        self.seq = seq
        self.parts += 1
        self.completed += part.completed
        self.failed += part.failed
        one, all_ = part.spent, self._spent
        self._spent = Spent(
            prompt_tokens=all_.prompt_tokens + one.prompt_tokens,
            completion_tokens=all_.completion_tokens + one.completion_tokens,
            cached_tokens=all_.cached_tokens + one.cached_tokens,
            wasted_tokens=all_.wasted_tokens + one.wasted_tokens,
        )

    def noted(self, job: JobRecord) -> JobRecord:
        """Write it into a job's record."""
        counts = Counts(total=job.counts.total, completed=self.completed, failed=self.failed)
        return msgspec.structs.replace(job, parts=self.parts, counts=counts, spent=self._spent)

"""Fail points: places between two steps at which a test has this process kill itself. None are passed in production."""

from __future__ import annotations

import os
import signal

PLAN_PUBLISHED = "plan_published"
"""All chunks are in the queue; the job does not say so yet."""
ROWS_ENDED = "rows_ended"
"""Every row of a chunk has its end; nothing is written."""
PART_WRITTEN = "part_written"
"""A part's bodies are in the storage; the part is not committed."""
PART_COMMITTED = "part_committed"
"""The part is committed; its chunk is not acknowledged."""
FILES_WRITTEN = "files_written"
"""Output and error file are in the storage; the job does not say so yet."""


class FailPoints:
    """`fail_point` names one of the above, or nothing."""

    def __init__(self, fail_point: str, after: int) -> None:
        self._name = fail_point
        self._left = after

    def reach(self, name: str) -> None:
        """Kill this process if this is the place."""
        if name != self._name:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

"""Fail points: places between two steps at which a test has this process kill itself. None are passed in production."""

from __future__ import annotations

import os
import signal

PLAN_PUBLISHED = "plan_published"
"""All chunks are in the queue; the job does not say so yet."""
CHUNK_BEGUN = "chunk_begun"
"""A chunk's lines are read; no row is asked."""
ROWS_ENDED = "rows_ended"
"""Every row of a chunk has its end; nothing is written."""
PART_WRITTEN = "part_written"
"""A part's bodies are in the storage; the part is not committed."""
PART_COMMITTED = "part_committed"
"""The part is committed; its chunk is not acknowledged."""
FILES_WRITTEN = "files_written"
"""Output and error file are in the storage; the job does not say so yet."""


class FailPoints:
    """`fail_point` names one of the above, or nothing; `rows_ended.3` is that of chunk 3 alone, and with `:raise` behind it
    nothing is killed: it fails."""

    def __init__(self, fail_point: str, after: int) -> None:
        self._name, _, how = fail_point.partition(":")
        self._raises = how == "raise"
        self._left = after

    def reach(self, name: str, chunk: int = -1) -> None:
        """Kill this process if this is the place."""
        if self._name not in (name, f"{name}.{chunk}"):
            return
        self._left -= 1
        if self._left <= 0 and self._raises:
            raise RuntimeError(f"fail point {name}")
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

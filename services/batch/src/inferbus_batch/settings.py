"""The batch service's settings (section BATCH: `INFERBUS_BATCH_ROLE` and so on)."""

from __future__ import annotations

import msgspec

COORDINATOR, CHUNKS, BOTH = "coordinator", "chunks", "both"


class BatchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this process does, how much at once, and how patient it is. Times in seconds, sizes in bytes."""

    process: str = "batch-0"
    """Stable name of this process on the bus."""
    role: str = BOTH
    """coordinator, chunks or both."""

    chunk_slots: int = 4
    """Chunks this process works on at once."""
    in_flight: int = 256
    """Rows this process has asked and waits for, of all its chunks together."""
    group_rows: int = 32
    """Rows of one message of the queue at most; 1: every row is one."""
    row_attempts: int = 4
    """How often a row is asked whose failures are of the moment."""
    chunk_attempts: int = 25
    """A chunk that has failed here and was delivered so often gets errors for its rows."""
    chunk_deaths: int = 10
    """A chunk is given up likewise when so many processes ended while they worked on it, the last one on nothing else. What
    ends a process beside other chunks is tried alone."""
    row_deadline_s: float = 86_400.0
    """How long one asking of a row may take at most, queueing included; never beyond its job's window."""

    chunk_rows: int = 512
    chunk_bytes: int = 4 * 1024 * 1024
    first_chunk_rows: int = 16
    max_line_bytes: int = 16 * 1024 * 1024
    max_rows: int = 10_000_000
    """A job of more lines is refused."""

    quiet_hours: str = ""
    """When batch rests: `08:00-18:00` (UTC), or several with commas between. A job may have its own."""
    keep_s: float = 30 * 86_400.0
    """How long a job's record and files stay after its end; 0: for ever."""
    purge_every_s: float = 3600.0
    """How often expired files are looked for."""
    rest_after_s: float = 30.0
    """Without a job for that long the process lets go of everything but its watch of jobs."""
    drain_s: float = 10.0
    """How long rows that run may go on after the stop signal; what is left is taken up by another process."""

    fail_point: str = ""
    """For tests of crashes only: where this process kills itself (`fail_points`), e.g. `part_written`."""
    fail_after: int = 1
    """At which passing of the fail point."""

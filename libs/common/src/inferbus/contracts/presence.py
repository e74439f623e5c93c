"""Presence: every process says on `presence.<region>.<process>` twice a second that it lives, and how."""

from __future__ import annotations

import msgspec

STARTING, READY, DRAINING, ENGINE_DOWN, GONE = "starting", "ready", "draining", "engine_down", "gone"


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's own view, from its last step."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    prefix_cache_hit_rate: float = 0.0
    generated_tokens: int = 0
    restarts: int = 0


class Presence(msgspec.Struct, frozen=True, kw_only=True, tag="presence.beat.v1"):
    """One beat. `process` is a stable name, `incarnation` changes at every start; silent 1.5 s = presumed dead.

    `pending` counts messages waiting in the pool's queue as this worker last saw it, `pending_batch` those of the batch
    lane among them. With `every` 2 it beats only once a second, and silence counts twice as long: where nobody takes over
    its work.
    """

    process: str
    role: str
    incarnation: str
    region: str
    state: str
    in_flight: int = 0
    slots: int = 0
    pools: list[str] = []
    pending: int = 0
    pid: int = 0
    health_port: int = 0
    asker: str = ""
    wire_versions: tuple[int, ...] = (1,)
    engine: EngineStats | None = None
    pending_batch: int = 0
    every: int = 1

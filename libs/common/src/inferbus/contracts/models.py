"""The `models` bucket: what a model is called, which pool serves it, and its limits."""

from __future__ import annotations

import msgspec

TASKS = ("chat", "completions", "embeddings", "infer", "rerank")
VECTORS = "vectors"
"""What entitlements call search and indexing, which are no task of a model."""
DURABLE, DIRECT = "durable", "direct"
"""How work reaches a pool: through its queue, or asked of a worker at once (at most once, nothing waits)."""
LLM = "llm"


class Buckets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a pool's queue is split: `count` sub-queues, by a hash of the tenant or of the prompt's prefix.

    `pinned` gives tenants a bucket, which others are not hashed to. `weights` (1..100, of tenants; 1 unless named) say
    how many slots a tenant's bucket has for one of another's, while both wait.
    """

    count: int = 1
    by: str = "tenant"
    pinned: dict[str, int] = {}
    weights: dict[str, int] = {}


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of a pool. Counts are requests (waiting and running), sizes bytes, times seconds.

    The default deadlines are for requests that name none: of the interactive lane, and of the batch lane.
    """

    max_pending: int = 4096
    max_pending_per_tenant: int = 1024
    max_body_bytes: int = 32 * 1024 * 1024
    default_deadline_s: float = 600.0
    default_deadline_batch_s: float = 86_400.0

    def deadline_s(self, lane: str) -> float:
        """Give the deadline of a request that names none."""
        return self.default_deadline_batch_s if lane == "batch" else self.default_deadline_s


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model: `name` and `aliases` are what clients ask for, `pool` is the deployment that answers. Entitlements may
    name `tags` instead of models. `server_name`: what the model is called inside its server, where that is another name.
    Several models of runtimes other than `llm` may share a pool."""

    name: str
    pool: str
    runtime: str = LLM
    aliases: list[str] = []
    tasks: tuple[str, ...] = ("chat", "completions")
    buckets: Buckets = Buckets()
    limits: Limits = Limits()
    created: int = 0
    owned_by: str = "inferbus"
    tags: tuple[str, ...] = ()
    delivery: str = DURABLE
    server_name: str = ""

"""Bills: an event of usage for every vector operation, once. Tokens are in the events of the embeddings it asked for; this
one says that there was an operation, whose, and how long it took.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Coroutine
from typing import Any

import msgspec

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.contracts.usage import DEADLINE, FINISHED, REJECTED, UsageEvent
from inferbus.errors import Ended, InferbusError, Permanent
from inferbus.ledger.usage_log import UsageLog


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What was done: `vectors.search` or `vectors.index`. `model` is the collection's; `error` what it ended in."""

    task: str
    identity: Identity
    model: str
    lane: str
    request_id: str
    took_s: float
    error: InferbusError | None = None
    traceparent: str = ""


class Bills:
    """Writes events for one process, named after its incarnation."""

    def __init__(self, usage: UsageLog, incarnation: str) -> None:
        self._usage = usage
        self._me = incarnation
        self._numbers = itertools.count()

    async def settle(self, operation: Operation, *, name: str = "") -> None:
        """Write an operation's event, and wait until it is stored. `name` is that of one that may be done again, by
        whomever: of a name one event is kept."""
        await self.begin(operation, name=name)

    def begin(self, operation: Operation, *, name: str = "") -> Coroutine[Any, Any, None]:
        """Send an operation's event, together with what else is sent within 5 ms; what is returned waits until it is stored."""
        event_name = name or f"vectors:{self._me}:{next(self._numbers)}"
        record = self._usage.begin(event_name, _event(operation), soon=True)
        return self._usage.settle(record, amend=False)


def _event(operation: Operation) -> UsageEvent:
    identity = operation.identity
    trace = operation.traceparent.split("-")
    return UsageEvent(
        request_id=operation.request_id, tenant=identity.tenant, key_id=identity.key_id, team=identity.team,
        user=identity.user, model=operation.model, pool=routes.POOL_VECTORS, version="", task=operation.task,
        lane=operation.lane, prompt_tokens=0, completion_tokens=0, cached_tokens=0, queue_s=0.0,
        engine_s=operation.took_s, cost=0, price_version="", outcome=_outcome(operation.error),
        trace_id=trace[1] if len(trace) == 4 else "", at=round(time.time(), 3),
    )  # fmt: skip


def _outcome(error: InferbusError | None) -> str:
    if error is None:
        return FINISHED
    return REJECTED if isinstance(error, Permanent) else DEADLINE if isinstance(error, Ended) else error.code

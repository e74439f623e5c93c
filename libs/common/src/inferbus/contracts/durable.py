"""Durable requests: what is kept of an answer while it is made, its one stored outcome, and who asked for it.

`deltas.<tenant>.<request>` carries msgpack arrays (`Claim`, `Deltas`); `results.<tenant>.<request>` the answer's bytes as
they are, everything else in headers, so that any NATS client can read it; the buckets carry JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from inferbus.contracts.step import Cached, Done, Ids, Usage
from inferbus.errors import InvalidRequest


class StoredDelta(msgspec.Struct, frozen=True, array_like=True):
    """One engine output of a durable stream: `k` counts 0, 1, 2 ... over all attempts; the rest is `step.Delta`'s."""

    k: int
    ids: Ids
    data: bytes
    done: list[Done] = []
    cached: Cached | None = None


class Claim(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """An attempt begins, or begins to write anew after the stream was lost: whoever wrote before is refused from here on.

    `run` is the attempt's random number, `story` that of the first attempt whose answer is being continued: an answer
    begun anew has another one, and must not be joined to what a client already has. `next` is the index of the first
    delta after this, `work` and `attempt` say which delivery of which message it is, `created` and `fingerprint` are
    the answer's (see `step.Started`). With `ack_subject` a gateway may hand the message back for a worker whose
    `incarnation` is gone.
    """

    run: int
    story: int
    next: int
    worker: str
    work: int
    attempt: int
    created: int
    fingerprint: str
    incarnation: str = ""
    ack_subject: str = ""


class Deltas(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Outputs in order, without a gap, as many as had waited."""

    run: int
    story: int
    items: list[StoredDelta]


DeltaMessage = Claim | Deltas


class Failure(msgspec.Struct, frozen=True):
    """An end by the platform: a code of the error table and a message for the user."""

    code: str
    message: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a durable request ended. Stored once; whoever comes second changes nothing.

    `body` is the whole answer (or the error body), where `streamed` all its server-sent events with their ids. `deltas`
    counts the stream's deltas, `story` is theirs. `ticket` says where a large body is; `body` is empty then.
    """

    status: int
    usage: Usage = Usage()
    content_type: str = "application/json"
    body: bytes = b""
    streamed: bool = False
    deltas: int = 0
    story: int = 0
    failure: Failure | None = None
    ticket: str = ""


def headers_of_outcome(outcome: Outcome) -> dict[str, str]:
    """Write all of an outcome but its body as NATS headers."""
    usage = outcome.usage
    headers = {
        "Ib-Status": str(outcome.status),
        "Ib-Content-Type": outcome.content_type,
        "Ib-Usage": f"{usage.prompt_tokens},{usage.completion_tokens},{usage.cached_tokens}",
    }
    if outcome.streamed:
        headers |= {"Ib-Stream": "1", "Ib-Deltas": str(outcome.deltas), "Ib-Story": str(outcome.story)}
    if outcome.failure is not None:
        headers["Ib-Error"] = json.dumps([outcome.failure.code, outcome.failure.message[:2000]])  # ASCII, one line
    if outcome.ticket:
        headers["Ib-Ticket"] = outcome.ticket
    return headers


def outcome_from(headers: Mapping[str, str], body: bytes) -> Outcome:
    """Read an outcome.

    Raises:
        InvalidRequest: a header is missing or unreadable.
    """
    try:
        prompt, completion, cached = headers["Ib-Usage"].split(",")
        error = headers.get("Ib-Error")
        return Outcome(
            status=int(headers["Ib-Status"]),
            usage=Usage(int(prompt), int(completion), int(cached)),
            content_type=headers["Ib-Content-Type"],
            body=body,
            streamed=headers.get("Ib-Stream") == "1",
            deltas=int(headers.get("Ib-Deltas", "0")),
            story=int(headers.get("Ib-Story", "0")),
            failure=Failure(*json.loads(error)) if error else None,
            ticket=headers.get("Ib-Ticket", ""),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise InvalidRequest(f"unreadable outcome: {exc!r}") from exc


class DurableRequest(msgspec.Struct, frozen=True, kw_only=True, tag="durable.request.v1"):
    """A durable request that was, or is about to be, accepted; in the bucket `requests` under `<tenant>.<request>`.

    `digest` identifies path and body, `deadline_at` and `created` are Unix seconds by the gateway's clock, `asker` is
    the gateway process that waits for it.
    """

    request_id: str
    digest: str
    path: str
    model: str
    streamed: bool
    created: float
    deadline_at: float
    asker: str


class IdempotencyKey(msgspec.Struct, frozen=True, kw_only=True, tag="durable.idempotency.v1"):
    """Which request an idempotency key stands for; in the bucket `idempotency` under `<tenant>.<hash of the key>`."""

    request_id: str
    digest: str

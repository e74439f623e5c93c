"""Facts: what happened, on `events.<service>.<fact>`, kept in the stream EVENTS for whoever bills, audits or alerts."""

from __future__ import annotations

import msgspec

QUEUED, PREFILL, DECODE = "queued", "prefill", "decode"
CANCELLED, DEADLINE = "cancelled", "deadline"


class RequestCancelled(msgspec.Struct, frozen=True, kw_only=True, tag="request.cancelled.v1"):
    """A request that was accepted ended without its whole answer, because nobody waits for it any more: told once.

    `reason` is `cancelled` (by its client, by its id, or because the client read too slowly) or `deadline`. `phase` is
    how far it had got: `queued` (no worker had it), `prefill` (no token yet), `decode`. Tokens are those spent until
    then, of all attempts; `prompt_tokens` is the whole prompt, of which in `prefill` a part need not have been computed.
    None: not known. `attempt` is the last one that had begun, 0 where none had.
    """

    request_id: str
    tenant: str
    pool: str
    reason: str
    phase: str
    attempt: int
    streamed: bool
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

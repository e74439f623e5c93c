"""Headers of the bus door: what a producer sends on `request.*`, and what it reads on its reply subject."""

from __future__ import annotations

REPLY_TO = "Ib-Reply"
"""Required. The subject for the answer; must lie under `reply.<tenant>.`."""

PATH = "Ib-Path"
"""The API path the body is for; default `/v1/chat/completions`."""

REQUEST_ID = "Ib-Request"
"""The producer's own id (letters, digits, `_`, `-`); one is made where absent. On parts of kept answers: the request's."""

DEADLINE_MS = "Ib-Deadline-Ms"
"""Milliseconds the producer is willing to wait; default the model's."""

DELIVERY = "Ib-Delivery"
"""`results`: the request is durable. Its answer is kept, goes on without anybody who waits, and can be fetched."""

IDEMPOTENCY_KEY = "Ib-Idempotency-Key"
"""Durable, and done once: the same key and body again joins the running request or gets its stored answer."""

AFTER = "Ib-After"
"""On `fetch.*`: the last event id that is known already."""

STATUS = "Ib-Status"
"""On answers: the HTTP status the same request would have had."""

CONTENT_TYPE = "Ib-Content-Type"
"""On the last part of an answer that is no JSON: what it is. For binary tensors it has the length of the JSON in front."""

JSON_BYTES = "Ib-Json-Bytes"
"""On a request of inference with binary tensors: the length of the JSON in front of them."""

SEQ = "Ib-Seq"
"""On answers: 0, 1, 2, ... within one request."""

END = "Ib-End"
"""On answers: `1` on the last one. An answer over 4 MB that is not streamed comes in several: joined they are its body."""

EVENT = "Ib-Event"
"""On parts of a durable stream: the event's id. A part without it, without body and without `Ib-End` says only that the
request goes on."""

RETRY_AFTER = "Ib-Retry-After"
"""On refusals that may be none later: in how many seconds."""

LIMIT_REQUESTS = "Ib-Ratelimit-Limit-Requests"
"""On the first part of an answer under a limit, and on refusals over one: the tightest limit of requests."""

REMAINING_REQUESTS = "Ib-Ratelimit-Remaining-Requests"
"""Beside it: about how much of it is left."""

RESET_REQUESTS = "Ib-Ratelimit-Reset-Requests"
"""Beside it: until its window ends, such as `12.5s`."""

LIMIT_TOKENS = "Ib-Ratelimit-Limit-Tokens"
"""As of requests: the tightest limit of tokens."""

REMAINING_TOKENS = "Ib-Ratelimit-Remaining-Tokens"
"""Beside it: about how much of it is left."""

RESET_TOKENS = "Ib-Ratelimit-Reset-Tokens"
"""Beside it: until its window ends."""

OF_HTTP = {
    "x-ratelimit-limit-requests": LIMIT_REQUESTS,
    "x-ratelimit-remaining-requests": REMAINING_REQUESTS,
    "x-ratelimit-reset-requests": RESET_REQUESTS,
    "x-ratelimit-limit-tokens": LIMIT_TOKENS,
    "x-ratelimit-remaining-tokens": REMAINING_TOKENS,
    "x-ratelimit-reset-tokens": RESET_TOKENS,
}
"""What HTTP calls the same."""

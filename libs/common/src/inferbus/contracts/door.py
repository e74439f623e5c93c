"""Headers of the bus door: what a producer sends on `request.*`, and what it reads on its reply subject."""

from __future__ import annotations

REPLY_TO = "Ib-Reply"
"""Required. The subject for the answer; must lie under `reply.<tenant>.`."""

PATH = "Ib-Path"
"""The API path the body is for; default `/v1/chat/completions`."""

REQUEST_ID = "Ib-Request"
"""The producer's own id (letters, digits, `_`, `-`); one is made where absent."""

DEADLINE_MS = "Ib-Deadline-Ms"
"""Milliseconds the producer is willing to wait; default the model's."""

STATUS = "Ib-Status"
"""On answers: the HTTP status the same request would have had."""

SEQ = "Ib-Seq"
"""On answers: 0, 1, 2, ... within one request."""

END = "Ib-End"
"""On answers: `1` on the last one."""

"""Print the page of errors: `python -m inferbus.errors_page > docs/errors.md` (a contract test compares)."""

from __future__ import annotations

import sys

from inferbus.errors import ERROR_TABLE, Verdict, error_from, verdict_of

_HEAD = """\
# Errors

Generated from `ERROR_TABLE` in `inferbus.errors` by `python -m inferbus.errors_page`; do not edit.

Every error a user sees is one of these, at either door. HTTP answers have the status and the body of the OpenAI API:

```json
{"error": {"message": "...", "type": "<type>", "param": "<field or null>", "code": "<code>"}}
```

At the bus door the same body comes on the reply subject with the status in `Ib-Status` and `Ib-End: 1`. A stream that
has begun ends in an SSE `error` event with this body. Where *again* says yes, a `Retry-After` header says after how many
seconds; the request was not done, or not all of it. Errors of the engine itself (a prompt that is too long, a parameter
it does not know) are passed on as the engine words them, with its status.

| code | status | type | again | the message on the queue | meaning |
|---|---|---|---|---|---|
"""

_TAIL = """
*The message on the queue* says what becomes of the work when a worker meets the error: *dead letter* copies it with the
reason to `dlq.<subject>` and ends it, *tried again* hands it back with a delay (dead letter at the limit of attempts),
*ended* acknowledges it. A bug is tried again with growing delays and becomes a dead letter at the fifth attempt.
"""

_QUEUE = {
    Verdict.TERMINATE: "dead letter",
    Verdict.RETRY: "tried again",
    Verdict.ACKNOWLEDGE: "ended",
    Verdict.BUG: "tried again, as a bug",
}


def errors_page() -> str:
    """Give the page, from the table alone."""
    rows = [
        f"| `{row.code}` | {row.http_status} | `{row.openai_type}` | {'yes' if row.retryable else 'no'} "
        f"| {_QUEUE[verdict_of(error_from(row.code, ''))]} | {row.meaning} |\n"
        for row in sorted(ERROR_TABLE.values(), key=lambda row: (row.http_status, row.code))
    ]
    return _HEAD + "".join(rows) + _TAIL


if __name__ == "__main__":
    sys.stdout.write(errors_page())

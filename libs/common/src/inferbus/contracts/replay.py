"""Replays of admin requests, in the bucket `idempotency` under `ADMIN.<hash of the idempotency key>`."""

from __future__ import annotations

import msgspec


class AdminReplay(msgspec.Struct, frozen=True, kw_only=True, tag="admin.replay.v1"):
    """What an idempotency key stands for: `digest` is its request's, `nonce` what secrets were derived with.

    `answer` is the answer's JSON without them, empty until there is one; `code` and `message` are the refusal where it was
    refused.
    """

    digest: str
    nonce: str
    answer: str = ""
    code: str = ""
    message: str = ""
    param: str = ""

"""Step frames: what a worker sends an asker on `step.<asker>`, many to a message, and the answers to `ask`.

Wire: one msgpack array of frames per event-loop tick and asker; a frame is an array whose first element is its
kind. Array-like and append-only: a new field goes last and has a default (DESIGN.md 2b).
"""

from __future__ import annotations

import msgspec

Ids = list[tuple[int, list[int]]]
"""(choice index, token ids) pairs of one engine output."""

Done = tuple[int, str, str | int | None]
"""A choice that ended with an output: choice index, finish reason, stop reason (the string or token id that stopped it)."""

Cached = tuple[int | None, int | None]
"""Prompt tokens found in the prefix cache, and put there, as the engine reports them."""


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Tokens spent by one request, as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Started(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """An attempt began: sets the fence. `ack_subject` lets the asker nak for a dead worker.

    `run` is a random number of this very run, in all its frames: a server killed within milliseconds of a delivery may
    deliver again under the same attempt number. `created` is the Unix time the answer carries, `fingerprint` names
    what must be equal where another engine is to go on (model, tokenizer, engine, its arguments). `resumed` counts the
    delivered tokens it goes on from: an attempt that did not ask begins at 0, and must not where something was delivered.
    """

    tag: int
    attempt: int
    seq: int
    ack_subject: str
    worker: str
    incarnation: str
    run: int = 0
    created: int = 0
    fingerprint: str = ""
    resumed: int = 0


class Delta(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One engine output: its token ids, the very bytes the client gets, and the choices that ended with it.

    `cached` is on the first one.
    """

    tag: int
    attempt: int
    seq: int
    ids: Ids
    data: bytes
    run: int = 0
    done: list[Done] = []
    cached: Cached | None = None


class Finished(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The end: HTTP status, usage and, where nothing was streamed, the whole body. Repeated until confirmed. With a `ticket`
    the body is in the payload stream, since it is too large for a message."""

    tag: int
    attempt: int
    seq: int
    status: int
    usage: Usage
    data: bytes
    content_type: str = "application/json"
    run: int = 0
    ticket: str = ""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """An error of the platform. `final` false: the work goes back to the queue, the request is not over."""

    tag: int
    attempt: int
    seq: int
    code: str
    message: str
    final: bool = True
    run: int = 0


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Before starting a redelivered or old message: is it still wanted? Sent as a request of its own."""

    tag: int
    attempt: int
    seq: int
    request_id: str


Frame = Started | Delta | Finished | Failed | Ask


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The asker's answer to `ask`: `verdict` is fresh, continue, cancelled or gone.

    `engine_deaths`: how many engines died under this request so far. `solo`: run it with nothing beside it. The rest
    comes with continue and is what `Resume` has.
    """

    verdict: str
    engine_deaths: int = 0
    solo: bool = False
    ids: Ids = []
    chunks: list[list[int]] = []
    done: list[Done] = []
    cached: Cached | None = None
    created: int = 0
    fingerprint: str = ""


FRESH, CONTINUE, CANCELLED, GONE = "fresh", "continue", "cancelled", "gone"


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """What the asker already has of a streamed answer: all an equal engine needs to go on exactly there.

    `ids` are each choice's token ids so far, `chunks` (same order) the sizes of the outputs they came in, `done` the
    choices that have ended, `cached` and `created` as first reported. `fingerprint` must be the engine's own.
    """

    ids: Ids
    chunks: list[list[int]]
    done: list[Done] = []
    cached: Cached | None = None
    created: int = 0
    fingerprint: str = ""

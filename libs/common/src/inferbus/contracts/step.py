"""Step frames: what a worker sends an asker on `step.<asker>`, many to a message, and the answers to `ask`.

Wire: one msgpack array of frames per event-loop tick and asker; a frame is an array whose first element is its
kind. Array-like and append-only: a new field goes last and has a default (DESIGN.md 2b).
"""

from __future__ import annotations

import msgspec

Ids = list[tuple[int, list[int]]]
"""(choice index, token ids) pairs of one engine output."""


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Tokens spent by one request, as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Started(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """An attempt began: sets the fence. `ack_subject` lets the asker nak for a dead worker."""

    tag: int
    attempt: int
    seq: int
    ack_subject: str
    worker: str
    incarnation: str


class Delta(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One engine output: its token ids and the very bytes the client gets."""

    tag: int
    attempt: int
    seq: int
    ids: Ids
    data: bytes


class Finished(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The end: HTTP status, usage and, where nothing was streamed, the whole body. Repeated until confirmed."""

    tag: int
    attempt: int
    seq: int
    status: int
    usage: Usage
    data: bytes
    content_type: str = "application/json"


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """An error of the platform. `final` false: the work goes back to the queue, the request is not over."""

    tag: int
    attempt: int
    seq: int
    code: str
    message: str
    final: bool = True


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Before starting a redelivered or old message: is it still wanted? Sent as a request of its own."""

    tag: int
    attempt: int
    seq: int
    request_id: str


Frame = Started | Delta | Finished | Failed | Ask


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The asker's answer to `ask`: `verdict` is fresh, continue, cancelled or gone.

    `engine_deaths`: how many engines died under this request so far. `solo`: run it with nothing beside it.
    """

    verdict: str
    engine_deaths: int = 0
    solo: bool = False
    ids: Ids = []
    chunks: list[list[int]] = []
    done: list[tuple[int, str, str | int | None]] = []


FRESH, CONTINUE, CANCELLED, GONE = "fresh", "continue", "cancelled", "gone"

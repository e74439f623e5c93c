"""What the worker's domain needs from the outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from inferbus.contracts.presence import EngineStats
from inferbus.contracts.step import Cached, Done, Ids, Resume, Usage


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One request for the engine. `body` is the client's JSON, internal fields already stripped by the adapter.

    `key` is unique in this worker and what `abort` takes; `request_id` is the client's and may come twice.
    `model`, if set, replaces the body's (an alias). `path` is an inference path of the OpenAI API; `created` is the Unix
    time the answer carries. With `resume` the answer goes on where another engine stopped: what is in it is neither
    generated nor sent to the sink again, but counts in the usage.
    """

    key: str
    request_id: str
    path: str
    body: bytes
    streamed: bool
    created: int
    priority: int = 0
    traceparent: str = ""
    model: str = ""
    resume: Resume | None = None
    bound: int = 0
    """A length of the answer that is in the body and was not the client's wish: where there is less room, that is taken."""
    json_bytes: int = 0
    """How many bytes of the body are its JSON, where raw tensors follow it; 0: all of them."""
    left_s: float = 0.0
    """Seconds until its deadline, at submission; 0: not known. The worker aborts it then; an engine may tell others."""
    tenant: str = ""
    key_id: str = ""
    team: str = ""
    user: str = ""
    """Whose it is: for what an engine asks others for on its behalf."""


class Sink(Protocol):
    """Where an engine puts what one request produces. All calls are made on the event loop, in order."""

    def delta(self, ids: Ids, data: bytes, done: Sequence[Done] = (), cached: Cached | None = None) -> None:
        """Give one engine output of a streamed request: token ids, the SSE bytes for the client, the choices it ended;
        with the first one the prompt tokens found in the prefix cache and put there."""

    def finished(self, status: int, usage: Usage, data: bytes, content_type: str) -> None:
        """Give the end: HTTP status, tokens spent, and the whole body where nothing was streamed."""

    def failed(self, error: BaseException, spent: Usage | None = None) -> None:
        """Give the end by an error of ours: EngineDead (retryable) or a bug; or by `abort`, then with the tokens spent so
        far where the engine can tell. In `spent` the prompt counts as a whole."""


class Engine(Protocol):
    """An inference engine in this process (or a simulator that says it is one)."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Names what must be equal in two engines for one to go on with the other's answer: model, tokenizer, engine
        version, arguments that change what is generated. Empty before the first start."""
        ...

    async def start(self) -> None:
        """Load and become ready. May take a minute; never blocks the event loop for more than a moment."""

    async def stop(self) -> None:
        """Free everything, child processes included."""

    async def submit(self, work: Work, sink: Sink) -> None:
        """Begin `work`; returns once the engine has it. Everything after goes to `sink`, ended by exactly one
        `finished` or `failed`. Work with a `resume` it cannot continue exactly (another fingerprint, beam search) fails
        with `ResumeImpossible`."""

    def abort(self, key: str) -> None:
        """Stop a request now. Its sink still gets its end. Unknown keys are ignored."""

    async def died(self) -> str:
        """Wait until the engine is dead or hung; returns why. Every open sink has got `failed(EngineDead)` by then."""

    @property
    def slots(self) -> int:
        """How many requests it runs at once."""
        ...

    def stats(self) -> EngineStats:
        """Figures of the last step; O(1)."""
        ...

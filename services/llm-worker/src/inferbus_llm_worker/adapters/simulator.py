"""An engine that is none: it answers chats with made-up words at a chosen pace, embeds texts by the words they have, and
says so in its name.

For measuring the platform without an engine, and for tests. It is never a default, and every place that names an
engine (logs, presence, `owned_by` in /v1/models) shows `simulator`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from inferbus.contracts.presence import EngineStats
from inferbus.contracts.step import Usage
from inferbus.errors import EngineDead, InferbusError, InvalidRequest, ResumeImpossible, openai_body
from inferbus.worker.open_calls import OpenCall, OpenCalls
from inferbus.worker.ports import Sink, Work
from inferbus.worker.tasks import CHAT
from inferbus_llm_worker.adapters.simulated_vectors import answer_texts
from inferbus_llm_worker.adapters.simulated_words import SimulatedWords
from inferbus_llm_worker.domain.body_policy import BodyLimits, apply_policy, decode_body
from inferbus_llm_worker.domain.resuming import check_resumable, choices_of

_encode = msgspec.json.encode
_MIDDLE = b'"},"logprobs":null,"finish_reason":null}]}\n\n'
_NOT_CACHED = (0, 0)
_JSON, _SSE = "application/json", "text/event-stream; charset=utf-8"
_DEFAULT_TOKENS = 16
_UNSEEN_TOKENS = 64
_STOPPED = "the engine was stopped"


class _Generation:
    """One answer in the making (`simulated_words`)."""

    __slots__ = (
        "burst",
        "call",
        "due_s",
        "first_id",
        "head",
        "include_usage",
        "max_tokens",
        "prefix",
        "prompt_tokens",
        "streamed",
        "tokens",
        "words",
    )

    def __init__(self, call: OpenCall, work: Work, body: dict[str, Any], due_s: float, *, paced: bool) -> None:
        self.call = call
        self.due_s = due_s
        self.tokens = 0
        self.streamed = bool(body.get("stream"))
        self.burst = 1 if paced or self.streamed else _UNSEEN_TOKENS
        self.max_tokens = _wanted_tokens(body)
        self.prompt_tokens = _count_words(body.get("messages"))
        self.words = SimulatedWords(body["messages"])
        self.first_id = self.words.first
        options = body.get("stream_options")
        self.include_usage = isinstance(options, dict) and options.get("include_usage") is True
        kind = b"chat.completion.chunk" if self.streamed else b"chat.completion"
        self.head = b'{"id":%s,"object":"%s","created":%d,"model":%s,"choices":[' % (
            _encode(f"chatcmpl-{work.request_id}"), kind, work.created, _encode(str(body.get("model", ""))),
        )  # fmt: skip
        self.prefix = b'data: %s{"index":0,"delta":{"content":"%s' % (self.head, self.words.prefix.encode())
        if work.resume is not None:
            self._resume(work, body)

    def _resume(self, work: Work, body: dict[str, Any]) -> None:
        """Go on after what was delivered; it must be what this answer begins with."""
        assert work.resume is not None  # noqa: S101  # for the type checker; the caller looked
        choices = choices_of(work.resume)
        if not choices:
            return
        check_resumable(work.path, body, choices)
        if work.resume.fingerprint not in ("", SimulatorEngine.fingerprint):
            raise ResumeImpossible(f"begun by {work.resume.fingerprint}, this is {SimulatorEngine.fingerprint}")
        delivered = choices[0].ids if 0 in choices else []
        if delivered != self.words.tokens(len(delivered)) or len(delivered) > self.max_tokens:
            raise ResumeImpossible("this is not the beginning of the simulator's answer")
        self.tokens = len(delivered)

    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.tokens, 0)

    def usage_json(self) -> bytes:
        total = self.prompt_tokens + self.tokens
        return b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (
            self.prompt_tokens, total, self.tokens,
        )  # fmt: skip

    @property
    def is_over(self) -> bool:
        return self.tokens >= self.max_tokens

    def step(self) -> bool:
        """Make what one step makes; says whether it was the last."""
        at = self.tokens
        self.tokens = min(at + self.burst, self.max_tokens)
        last = self.tokens >= self.max_tokens
        if self.streamed:
            ids = [(0, [self.first_id + at])]
            if at and not last:
                self.call.delta(ids, self.prefix + b"%d" % at + _MIDDLE)
            else:
                done = [(0, "length", None)] if last else ()
                self.call.delta(ids, self._edge(at, last), done, None if at else _NOT_CACHED)
        if last:
            self.finish()
        return last

    def finish(self) -> None:
        data = b"" if self.streamed else self._body()
        self.call.finish(200, self.usage(), data, _SSE if self.streamed else _JSON)

    def _edge(self, at: int, last: bool) -> bytes:
        """Give the chunk of the first token or of the last, with all that goes before or after it."""
        role = b'"role":"assistant",' if at == 0 else b""
        reason = b'"length"' if last else b"null"
        data = b'data: %s{"index":0,"delta":{%s"content":"%s%d"},"logprobs":null,"finish_reason":%s}]}\n\n' % (
            self.head, role, self.words.prefix.encode(), at, reason,
        )  # fmt: skip
        if last and self.include_usage:
            data += b'data: %s],"usage":%s}\n\n' % (self.head, self.usage_json())
        return data + b"data: [DONE]\n\n" if last else data

    def _body(self) -> bytes:
        text = self.words.text(self.tokens)
        return b'%s{"index":0,"message":{"role":"assistant","content":%s},"logprobs":null,"finish_reason":"length"}],"usage":%s}' % (
            self.head, _encode(text), self.usage_json(),
        )  # fmt: skip


class SimulatorEngine:
    """Implements `Engine` without a model: one step loop for all requests, one token each per step.

    Args:
        slots: how many requests run at once; more wait, as in a real engine.
        ttft_s: time from `submit` to the first token.
        itl_s: time between two steps; 0 makes a token per pass of the event loop, and of an answer that is not
            streamed, where nobody sees steps, all at once (64 at most).
        limits: caps on bodies, as for a real engine.
        dimension: how many numbers the vectors have (`simulated_vectors`).
    """

    name = "simulator"
    fingerprint = "simulator-1"

    def __init__(
        self, *, slots: int = 64, ttft_s: float = 0.0, itl_s: float = 0.0, limits: BodyLimits | None = None,
        dimension: int = 64,
    ) -> None:  # fmt: skip
        self._slots = slots
        self._ttft_s = ttft_s
        self._itl_s = itl_s
        self._limits = limits or BodyLimits()
        self._dimension = dimension
        self._calls = OpenCalls()
        self._running: list[_Generation] = []
        self._waiting: list[_Generation] = []
        self._wake = asyncio.Event()
        self._steps: asyncio.Task[None] | None = None
        self._generated = 0
        self._starts = 0

    @property
    def slots(self) -> int:
        return self._slots

    async def start(self) -> None:
        self._starts += 1
        self._steps = asyncio.create_task(self._step_loop(), name="simulator-steps")
        structlog.get_logger().warning("simulator_started", engine=self.name, slots=self._slots)

    async def stop(self) -> None:
        if self._steps is not None:
            self._steps.cancel()
            await asyncio.gather(self._steps, return_exceptions=True)
            self._steps = None
        self._calls.fail_all(lambda: EngineDead(_STOPPED))
        self._running.clear()
        self._waiting.clear()

    async def submit(self, work: Work, sink: Sink) -> None:
        call = self._calls.begin(work.key, sink)
        try:
            body = decode_body(work.body)
            if work.path != CHAT:
                self._answer_texts(call, work, body)
                return
            apply_policy(body, self._limits)
            if work.model:
                body["model"] = work.model
            now = asyncio.get_running_loop().time()
            generation = _Generation(call, work, body, now + self._ttft_s, paced=self._itl_s > 0)
            call.on_spent(generation.usage)
        except ResumeImpossible as error:
            call.fail(error)
            return
        except InferbusError as error:
            call.finish(error.row.http_status, Usage(), _encode(openai_body(error)), _JSON)
            return
        if generation.is_over:  # all of it was delivered
            generation.finish()
            return
        self._waiting.append(generation)
        self._wake.set()

    def _answer_texts(self, call: OpenCall, work: Work, body: dict[str, Any]) -> None:
        """Embed or score at once, or after the time a first token takes."""
        if work.model:
            body["model"] = work.model
        data, usage = answer_texts(work.path, body, self._dimension)
        asyncio.get_running_loop().call_later(self._ttft_s, call.finish, 200, usage, data, _JSON)

    def abort(self, key: str) -> None:
        self._calls.abort(key, "aborted")
        self._running = [generation for generation in self._running if not generation.call.ended]
        self._wake.set()

    async def died(self) -> str:
        """Wait for the step loop to end, which only a bug or `stop` makes it do."""
        if self._steps is None:
            return "it was never started"
        await asyncio.wait([self._steps])
        return "its step loop ended"

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            generated_tokens=self._generated,
            restarts=max(0, self._starts - 1),
        )

    async def _step_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            self._admit()
            self._step(now)
            if self._running:
                # What is due again waits one inter-token time; a first token that is due later, for that time or news.
                next_due = min(generation.due_s for generation in self._running)
                if next_due <= loop.time() + self._itl_s:
                    await asyncio.sleep(self._itl_s)
                else:
                    self._wake.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(next_due):
                            await self._wake.wait()
            elif not self._waiting:
                self._wake.clear()
                await self._wake.wait()

    def _admit(self) -> None:
        self._waiting = [generation for generation in self._waiting if not generation.call.ended]
        free = self._slots - len(self._running)
        if free > 0 and self._waiting:
            self._running += self._waiting[:free]
            del self._waiting[:free]

    def _step(self, now: float) -> None:
        left = []
        for generation in self._running:
            if generation.call.ended:
                continue
            if generation.due_s > now:
                left.append(generation)
                continue
            before = generation.tokens
            if not generation.step():
                left.append(generation)
            self._generated += generation.tokens - before
        self._running = left


def _wanted_tokens(body: dict[str, Any]) -> int:
    wanted = body.get("max_completion_tokens", body.get("max_tokens"))
    if wanted is None:
        return _DEFAULT_TOKENS
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise InvalidRequest("max_tokens must be an integer of at least 1", param="max_tokens")
    return wanted


def _count_words(messages: object) -> int:
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list with at least one message", param="messages")
    contents = (message.get("content") for message in messages if isinstance(message, dict))
    return sum(len(content.split()) for content in contents if isinstance(content, str))

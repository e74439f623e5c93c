"""The direct path: plain streamed chat from the engine's output handler to the sink, in one call per token.

vLLM's request model, renderer and sampling parameters, then `AsyncLLM.add_request` with a collector of our own: no
task, no generator and no pydantic per token, half the CPU of vLLM's own layer, the same bytes (see `chunks`).
Whatever is not plain is declined and goes through vLLM's application.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens, should_include_usage
from vllm.parser.abstract_parser import DelegatingParser
from vllm.v1.engine.exceptions import EngineDeadError

from inferbus.contracts.step import Usage
from inferbus.errors import DependencyDown, EngineDead, InferbusError, ResumeImpossible
from inferbus.worker.open_calls import OpenCall
from inferbus.worker.ports import Work
from inferbus_llm_worker.adapters.vllm.boot import Booted
from inferbus_llm_worker.adapters.vllm.chunks import ChatChunks, ChunkStyle, GenerationFailed
from inferbus_llm_worker.adapters.vllm.resume_plan import ResumePlan, add_plan

SSE = "text/event-stream; charset=utf-8"

_PLAIN_FIELDS = frozenset({
    "model", "messages", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "max_tokens",
    "max_completion_tokens", "min_tokens", "stop", "stop_token_ids", "seed", "n", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "ignore_eos", "user", "logit_bias", "bad_words",
    "include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens", "stream_interval",
    "cache_salt", "chat_template_kwargs", "metadata", "allowed_token_ids", "repetition_detection",
})  # fmt: skip
"""Body fields the encoder knows the effect of; any other one means vLLM's own layer."""


class DirectChat:
    """Serves plain streamed chats of one engine. `served` counts them."""

    def __init__(self, booted: Booted, serving: Any) -> None:
        self._booted = booted
        self._serving = serving
        self._possible = _is_plain(booted, serving)
        self._style = ChunkStyle(
            fingerprint=serving.system_fingerprint,
            parser=serving.parser_cls is not None,
            prompt_details=serving.enable_prompt_tokens_details,
        )
        self._aborts: set[asyncio.Task[None]] = set()
        self.served = 0

    def takes(self, body: dict[str, Any]) -> bool:
        """Say whether `body` is a plain streamed chat."""
        if not (self._possible and body.get("stream") is True and body.keys() <= _PLAIN_FIELDS):
            return False
        messages = body.get("messages")
        return isinstance(messages, list) and bool(messages) and all(_is_plain_message(m) for m in messages)

    async def begin(self, work: Work, body: dict[str, Any], call: OpenCall, plan: ResumePlan | None = None) -> bool:
        """Give the chat to the engine. False: vLLM's own layer must answer, nothing has been sent.

        Raises:
            DependencyDown: the engine is dead; it never had this request.
            ResumeImpossible: the engine cannot go on with `plan`.
        """
        try:
            stream = await self._prepare(work, body, call, plan)
            if stream is None:
                return False
            if not call.ended:
                await stream.begin()
        except EngineDeadError as exc:
            raise DependencyDown("the engine is not running") from exc
        except ResumeImpossible:
            raise
        except Exception as exc:
            # vLLM's layer refuses it the same way, and has the exact status and body for it.
            structlog.get_logger().debug("direct_chat_declined", request_id=work.request_id, reason=str(exc))
            return False
        self.served += 1
        return True

    async def _prepare(
        self, work: Work, body: dict[str, Any], call: OpenCall, plan: ResumePlan | None = None
    ) -> _Stream | None:
        serving = self._serving
        request = ChatCompletionRequest.model_validate(body)
        rendered = await serving.render_chat_request(request)
        if not isinstance(rendered, tuple) or len(rendered[1]) != 1 or request.structured_outputs is not None:
            return None
        (prompt,) = rendered[1]
        if prompt.get("type") != "token":
            return None
        lora = serving._maybe_get_adapters(request, supports_default_mm_loras=True)
        wanted = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        max_tokens = get_max_tokens(
            serving.model_config.max_model_len, wanted, len(prompt["prompt_token_ids"]),
            serving.default_sampling_params, serving.override_max_tokens,
        )  # fmt: skip
        include, continuous = should_include_usage(request.stream_options, serving.enable_force_include_usage)
        chat_id = f"chatcmpl-{work.request_id}"
        chunks = ChatChunks(
            chat_id=chat_id, created=work.created, model=serving.models.model_name(lora),
            role=serving.get_chat_request_role(request), n=request.n or 1,
            include_usage=include, continuous_usage=continuous, style=self._style,
        )  # fmt: skip
        prompt_tokens = len(prompt["prompt_token_ids"])
        call.on_spent(lambda: Usage(prompt_tokens, chunks.usage().completion_tokens))
        params = request.to_sampling_params(max_tokens, serving.default_sampling_params)
        if plan is not None:
            chunks.resume(plan.choices, plan.cached, prompt_tokens)
            add_plan(params, plan.without_replay())
        traced = work.traceparent and self._booted.engine.observability_config.otlp_traces_endpoint is not None
        arguments = {
            "request_id": chat_id,
            "prompt": prompt,
            "params": params,
            "lora_request": lora,
            "priority": work.priority,
            "trace_headers": {"traceparent": work.traceparent} if traced else None,
        }
        return _Stream(self._booted, call, chunks, arguments, self._aborts, resumes=plan is not None)


class _Stream:
    """One direct chat. `_put` replaces the collector's: vLLM's output handler calls it once per step."""

    def __init__(
        self, booted: Booted, call: OpenCall, chunks: ChatChunks, arguments: dict[str, Any],
        aborts: set[asyncio.Task[None]], *, resumes: bool,
    ) -> None:  # fmt: skip
        self._engine = booted.engine
        self._stats = booted.stats
        self._call = call
        self._chunks = chunks
        self._arguments = arguments
        self._aborts = aborts
        self._resumes = resumes
        self._internal_id = ""

    async def begin(self) -> None:
        if self._chunks.is_over:  # all was delivered but the end's confirmation
            self._finish()
            return
        collector = await self._engine.add_request(**self._arguments)
        self._internal_id = collector.request_id
        collector.put = self._put
        if (output := collector.output) is not None:  # came while `add_request` was still sending
            collector.output = None
            self._put(output)
        self._call.on_stop(self._stop)

    def _stop(self) -> None:
        task = asyncio.ensure_future(self._engine.abort(self._internal_id, internal=True))
        self._aborts.add(task)  # the loop keeps no reference of its own
        task.add_done_callback(self._aborts.discard)

    def _put(self, output: Any) -> None:
        if self._call.ended:
            return
        try:
            if isinstance(output, Exception):
                self._call.fail(EngineDead("the engine died"))
                return
            ids, data = self._chunks.encode(output)
            for _, new in ids:
                self._stats.generated_tokens += len(new)
            if self._chunks.news:
                self._call.delta(ids, data, *self._chunks.take_news())
            elif ids or data:
                self._call.delta(ids, data)
            if output.finished:
                self._finish()
        except Exception as exc:  # raised into vLLM's output handler it would end the engine for everybody
            structlog.get_logger().exception("direct_chat_failed", key=self._call.key)
            self._call.fail(self._error(exc))
            self._stop()

    def _finish(self) -> None:
        self._call.finish(200, self._chunks.usage(), b"", SSE)

    def _error(self, exc: Exception) -> Exception:
        if not isinstance(exc, GenerationFailed):
            return exc
        return ResumeImpossible(str(exc)) if self._resumes else InferbusError(str(exc))


def _is_plain_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("content"), str) and "tool_calls" not in message


def _is_plain(booted: Booted, serving: Any) -> bool:
    """Say whether this engine's plain chats look as `chunks` makes them, whatever the request."""
    if serving._include_reasoning_tokens_details or serving.enable_log_outputs or serving.enable_per_request_metrics:
        return False
    if serving.request_logger is not None or booted.engine.vllm_config.speculative_config is not None:
        return False  # the one is done per request, the other adds metrics to the usage chunk
    parser = serving.parser_cls
    if parser is None:
        return True
    # A plain tool parser passes text through when no tools are given; one that parses everything does not.
    passes = parser.parse_delta is DelegatingParser.parse_delta
    return passes and not getattr(parser.tool_parser_cls, "engine_based_streaming", False)

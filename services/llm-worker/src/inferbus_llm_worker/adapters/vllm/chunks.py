"""vLLM's chat completion chunks, byte for byte, without pydantic.

One object per request; the prefix of every chunk is built once, a token costs one string escape and a few joins.
`tests/engine` holds the equality with vLLM's own bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from inferbus.contracts.step import Cached, Done, Ids, Usage
from inferbus_llm_worker.adapters.vllm.tap import prompt_length
from inferbus_llm_worker.domain.resuming import SoFar

_encode = msgspec.json.encode
_MIDDLE = b'},"logprobs":null,"finish_reason":null,"token_ids":null}]'
_DONE = b"data: [DONE]\n\n"


class GenerationFailed(Exception):
    """The engine lives, but could not finish this request."""


class ChunkStyle(msgspec.Struct, frozen=True, kw_only=True):
    """How a served model's chunks look, whatever the request.

    `parser`: a tool parser is configured; even idle it swallows empty deltas. `prompt_details`: usage has
    `prompt_tokens_details`.
    """

    fingerprint: str | None
    parser: bool
    prompt_details: bool


class ChatChunks:
    """Encodes the outputs of one streamed chat.

    `news` says that the last output told more than tokens: `take_news` gives it.
    """

    def __init__(
        self,
        *,
        chat_id: str,
        created: int,
        model: str,
        role: str,
        n: int,
        include_usage: bool,
        continuous_usage: bool,
        style: ChunkStyle,
    ) -> None:
        self._head = b'data: {"id":%s,"object":"chat.completion.chunk","created":%d,"model":%s,"choices":[' % (
            _encode(chat_id), created, _encode(model),
        )  # fmt: skip
        self._role = _encode(role)
        self._bare = [self._head + b'{"index":%d,"delta":{' % i for i in range(n)]
        self._content = [bare + b'"content":' for bare in self._bare]
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._style = style
        self._fingerprint = b',"system_fingerprint":' + _encode(style.fingerprint) if style.fingerprint else b""
        self._tokens = [0] * n
        self._done = [False] * n
        self._begun = False
        self._prompt_tokens = 0
        self._cached: int | None = None
        self._cache_created: int | None = None
        self.news = False
        self._ended: list[Done] = []
        self._first_cached: Cached | None = None

    def resume(self, choices: dict[int, SoFar], cached: Cached | None, prompt_tokens: int) -> None:
        """Go on after outputs that were encoded elsewhere: the role was sent, these tokens count."""
        self._begun = True
        self._prompt_tokens = prompt_tokens
        self._cached, self._cache_created = cached or (None, None)
        for index, choice in choices.items():
            self._tokens[index] = len(choice.ids)
            self._done[index] = choice.end is not None

    @property
    def is_over(self) -> bool:
        return all(self._done)

    def take_news(self) -> tuple[list[Done], Cached | None]:
        """Give the choices that ended since the last call, and with the first output its cached tokens."""
        news = self._ended, self._first_cached
        self.news, self._ended, self._first_cached = False, [], None
        return news

    def usage(self) -> Usage:
        return Usage(self._prompt_tokens, sum(self._tokens), self._cached or 0)

    def encode(self, output: Any) -> tuple[Ids, bytes]:
        """Give the token ids and the bytes of one vLLM `RequestOutput`, the stream's end included.

        Raises:
            GenerationFailed: the engine reports an internal error for this request.
        """
        chunks: list[bytes] = []
        ids: Ids = []
        if not self._begun:
            self._begin(output, chunks)
        for choice in output.outputs:
            self._encode_choice(choice, ids, chunks)
        if output.finished:
            if self._include_usage:
                chunks.append(self._usage_chunk())
            chunks.append(_DONE)
        return ids, chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _begin(self, output: Any, chunks: list[bytes]) -> None:
        self._begun = True
        self._prompt_tokens = prompt_length(output)
        self._first_cached = output.num_cached_tokens, output.num_cache_creation_tokens
        self._cached, self._cache_created = self._first_cached
        self.news = True
        usage = self._running_usage(0) if self._continuous_usage else b""
        chunks += [
            b'%s"role":%s,"content":""},"logprobs":null,"finish_reason":null}]%s,"prompt_token_ids":null,"prompt_text":null}\n\n'
            % (bare, self._role, usage)
            for bare in self._bare
        ]

    def _encode_choice(self, choice: Any, ids: Ids, chunks: list[bytes]) -> None:
        index, text, new, reason = choice.index, choice.text, choice.token_ids, choice.finish_reason
        if self._done[index]:
            return
        if reason == "error":
            raise GenerationFailed("the engine could not finish this request")
        if not text and not new and not self._tokens[index]:
            return
        if new:
            self._tokens[index] += len(new)
            ids.append((index, new if type(new) is list else list(new)))
        if text or not self._style.parser:
            chunk = self._content[index] + _encode(text)
        elif reason is None:
            return
        else:
            chunk = self._bare[index]
        chunk += _MIDDLE if reason is None else self._finish(index, choice)
        if self._continuous_usage:
            chunk += self._running_usage(self._tokens[index])
        if reason is not None and not self._include_usage:
            chunk += self._fingerprint
        chunks.append(chunk + b"}\n\n")

    def _finish(self, index: int, choice: Any) -> bytes:
        self._done[index] = True
        self._ended.append((index, choice.finish_reason, choice.stop_reason))
        self.news = True
        reasons = _encode(choice.finish_reason), _encode(choice.stop_reason)
        return b'},"logprobs":null,"finish_reason":%s,"stop_reason":%s,"token_ids":null}]' % reasons

    def _running_usage(self, completion: int) -> bytes:
        return b',"usage":{%s,"completion_tokens_details":null}' % self._counts(completion)

    def _usage_chunk(self) -> bytes:
        counts = self._counts(sum(self._tokens))
        return b'%s],"usage":{%s%s}%s}\n\n' % (self._head, counts, self._prompt_details(), self._fingerprint)

    def _counts(self, completion: int) -> bytes:
        prompt = self._prompt_tokens
        return b'"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d' % (
            prompt,
            prompt + completion,
            completion,
        )

    def _prompt_details(self) -> bytes:
        known = {"cached_tokens": self._cached, "created_cache_tokens": self._cache_created}
        details = {name: count for name, count in known.items() if count is not None}
        if not self._style.prompt_details or not details:
            return b""
        return b',"prompt_tokens_details":' + _encode(details)

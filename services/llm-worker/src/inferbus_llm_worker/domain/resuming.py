"""Taking up a begun answer: what of each choice was delivered, and which requests no engine can continue exactly.

Decided from the request alone; what depends on the engine is its adapter's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from inferbus.contracts.step import Resume
from inferbus.errors import ResumeImpossible
from inferbus.worker.tasks import CHAT, COMPLETIONS, MESSAGES

_RESUMABLE_PATHS = frozenset({CHAT, COMPLETIONS, MESSAGES})
"""/v1/responses is not among them: every event of it carries random item ids, which a second engine draws anew."""


class SoFar(msgspec.Struct, frozen=True, kw_only=True):
    """One choice up to the cut: the token ids of each output, and (finish reason, stop reason) if it has ended."""

    outputs: list[list[int]]
    end: tuple[str, str | int | None] | None = None

    @property
    def ids(self) -> list[int]:
        return [token for output in self.outputs for token in output]


def choices_of(resume: Resume) -> dict[int, SoFar]:
    """Give what was delivered of each choice; empty where nothing was.

    Raises:
        ResumeImpossible: the sizes of the outputs do not add up to the ids.
    """
    ends = {index: (reason, stop) for index, reason, stop in resume.done}
    outputs: dict[int, list[list[int]]] = {index: [] for index in ends}
    if len(resume.chunks) != len(resume.ids):
        raise ResumeImpossible("sizes of outputs are known for some choices only")
    for (index, ids), sizes in zip(resume.ids, resume.chunks, strict=True):
        if sum(sizes) != len(ids) or any(size < 1 for size in sizes):
            raise ResumeImpossible(f"the outputs of choice {index} do not add up to its tokens")
        found, at = outputs.setdefault(index, []), 0
        for size in sizes:
            found.append(ids[at : at + size])
            at += size
    return {index: SoFar(outputs=made, end=ends.get(index)) for index, made in outputs.items()}


def wanted_choices(body: dict[str, Any]) -> int:
    """Give how many choices a body asks for."""
    n = body.get("n")
    return n if isinstance(n, int) and n > 0 else 1


def check_resumable(path: str, body: dict[str, Any], choices: dict[int, SoFar]) -> None:
    """Check that a streamed request can be taken up exactly.

    Raises:
        ResumeImpossible: it cannot; the message says why.
    """
    why = _obstacle(path, body)
    if why is None and any(index >= wanted_choices(body) for index in choices):
        why = "more choices were delivered than the request asks for"
    if why is not None:
        raise ResumeImpossible(why)


def _obstacle(path: str, body: dict[str, Any]) -> str | None:
    if path not in _RESUMABLE_PATHS:
        return f"a stream of {path} cannot be continued by another engine"
    if body.get("stream") is not True:
        return "what was delivered of an answer that is not streamed is unknown"
    if body.get("use_beam_search"):
        return "a beam search cannot be continued: its other beams are lost"
    if _has_several_prompts(body.get("prompt")) or body.get("prompt_embeds") is not None:
        return "a completion of several prompts, or of embeddings, cannot be continued exactly"
    echoes = path == COMPLETIONS and body.get("echo") and body.get("logprobs") is not None
    if echoes or body.get("prompt_logprobs") is not None:
        return "log probabilities of the prompt cannot be given a second time"
    if body.get("thinking_token_budget") is not None:
        return "a thinking budget counts from the start of the answer"
    return None


def _has_several_prompts(prompt: object) -> bool:
    return isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)

"""What vLLM has made of requests that still run. Answers that are not streamed say nothing before their end, but the
output processor in this process counts their tokens all the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import structlog

from inferbus.contracts.step import Usage


def spent_on(output_processor: Any, request_ids: Iterable[str]) -> Usage | None:
    """Count prompt and output tokens of running requests, by the ids they were submitted under.

    None where vLLM has none of them any more, or keeps its books in another way than it did.
    """
    prompt = completion = 0
    known = False
    try:
        for request_id in request_ids:
            states = [
                output_processor.request_states[internal]
                for internal in output_processor.external_req_ids.get(request_id, ())
                if internal in output_processor.request_states
            ]
            if not states:
                continue
            known = True
            prompt += states[0].prompt_len  # choices of one request share it
            completion += sum(
                state.detokenizer.num_output_tokens() for state in states if state.detokenizer is not None
            )
            completion += _ended(states[0].parent_req)
    except (AttributeError, KeyError, TypeError) as exc:
        structlog.get_logger().warning("spent_not_known", error=repr(exc))
        return None
    return Usage(prompt, completion) if known else None


def _ended(parent: Any) -> int:
    """Count the tokens of a request's choices that have ended while others of it run."""
    outputs = parent.output_aggregator if parent is not None else ()
    return sum(len(output.token_ids) for output in outputs if output is not None)

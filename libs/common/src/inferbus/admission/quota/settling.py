"""Settling: what a request is charged, by how it ended (docs/operations.md, "Limits of use"). Pure."""

from __future__ import annotations

from inferbus.admission.quota.tokens import Estimate
from inferbus.answers.exchange import Exchange
from inferbus.contracts.step import Usage
from inferbus.errors import Cancelled, DeadlineWhileQueued, DeadlineWhileRunning, SlowClient

_BY_ITS_CLIENT = (Cancelled, SlowClient, DeadlineWhileRunning)


def charge_of(exchange: Exchange, estimate: Estimate) -> Usage | None:
    """Say what an exchange that has closed is charged; None: nothing, not even the request.

    It came to its end: what the engine says. No engine had it: nothing, but where its client gave it up the request stays
    counted. An engine had it and its client gave it up: the prompt as estimated and the tokens that were delivered; where
    answers are not delivered in parts nobody here knows how far it was, and what was reserved counts. The platform failed:
    what was delivered, and the prompt if anything was.
    """
    end = exchange.end
    if end is not None:
        return end.usage
    given_up = isinstance(exchange.error, _BY_ITS_CLIENT)
    begun = exchange.started
    if not begun:
        accepted = (exchange.stored is not None or exchange.handed_in) and not isinstance(
            exchange.error, DeadlineWhileQueued
        )
        return Usage() if accepted and given_up else None
    delivered = exchange.delivered_tokens
    if given_up:
        counts_deltas = exchange.streamed and not exchange.durable
        return Usage(estimate.prompt, delivered if counts_deltas else estimate.completion)
    return Usage(estimate.prompt, delivered) if delivered else None

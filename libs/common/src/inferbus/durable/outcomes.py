"""Outcomes: the one stored end of every durable request, on `results.<tenant>.<request>`. Who comes first is right."""

from __future__ import annotations

import secrets

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import HOLD_S, last_stored
from inferbus.bus.tickets import INLINE_BYTES, load_payload, store_payload, ticket_from
from inferbus.codec import to_json
from inferbus.contracts.durable import Failure, Outcome, headers_of_outcome, outcome_from
from inferbus.contracts.step import Usage
from inferbus.errors import InferbusError, openai_body

KEPT_S = 86_400
"""How long an outcome is kept, in seconds; the topology's `results_max_age_s`."""


def failed_outcome(error: InferbusError, usage: Usage | None = None, *, events: Outcome | None = None) -> Outcome:
    """Make the outcome of a request that ended in an error; `events` is what a stream had delivered before it."""
    failure = Failure(error.code, error.message)
    if events is not None:
        return msgspec.structs.replace(
            events, status=error.row.http_status, usage=usage or Usage(), failure=failure, streamed=True
        )
    body = to_json(openai_body(error))
    return Outcome(status=error.row.http_status, usage=usage or Usage(), body=body, failure=failure)


ROW_KEPT_S = 3600
"""How long that of a batch's row is: it is needed until the row's part is committed, and there are many of them."""


async def store_outcome(
    bus: Bus, tenant: str, request_id: str, outcome: Outcome, *, hold_s: float = 3.0, ttl_s: int | None = None,
    soon: bool = False,
) -> bool:  # fmt: skip
    """Store how a request ended. False if it had been stored already, by whomever: nothing has changed then. `ttl_s`: it
    is kept for so many seconds, and not as long as others. `soon`: nobody waits for milliseconds.

    Raises:
        DependencyDown, Overloaded: the bus stayed away for `hold_s` seconds, or has no room.
    """
    if len(outcome.body) > INLINE_BYTES:
        ticket = await store_payload(bus, tenant, outcome.body, ttl_s=KEPT_S)
        outcome = msgspec.structs.replace(outcome, body=b"", ticket=ticket.to_header())
    subject = routes.results(tenant, request_id)
    headers = headers_of_outcome(outcome) | {EXPECTED: "0"}
    msg_id = secrets.token_hex(16)  # for the retries of this call; a second outcome must be refused, not taken for one
    try:
        await bus.accept(subject, outcome.body, headers, msg_id=msg_id, ttl_s=ttl_s, hold_s=hold_s, soon=soon)
    except WrongSequence:
        return False
    return True


async def load_outcome(bus: Bus, tenant: str, request_id: str) -> Outcome | None:
    """Read how a request ended, its body included; None if it has not.

    Raises:
        DependencyDown: the stream does not answer. TicketLost: the body is gone.
    """
    stored = await last_stored(bus, routes.STREAM_RESULTS, routes.results(tenant, request_id), hold_s=HOLD_S)
    return None if stored is None else await whole_outcome(bus, tenant, outcome_from(stored.headers, stored.data))


async def whole_outcome(bus: Bus, tenant: str, outcome: Outcome) -> Outcome:
    """Fetch the body of an outcome that has it elsewhere."""
    if not outcome.ticket:
        return outcome
    body = await load_payload(bus, tenant, ticket_from(outcome.ticket))
    return msgspec.structs.replace(outcome, body=body, ticket="")


async def has_outcome(bus: Bus, tenant: str, request_id: str) -> bool:
    """Say whether a request has ended."""
    subject = routes.results(tenant, request_id)
    return await last_stored(bus, routes.STREAM_RESULTS, subject, hold_s=HOLD_S) is not None

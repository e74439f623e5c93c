"""Pushing rows over the bus, with an answer for each that is wrong: what gateways and the command line share."""

from __future__ import annotations

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.waiting import NoResponders
from inferbus.codec import from_json, to_json
from inferbus.contracts.features import KEY, ManageReply, ManageRequest, PushAnswer, PushMessage
from inferbus.feature_reads import error_of

_TIMEOUT_S = 10.0


async def push_rows(bus: Bus, tenant: str, source: str, message: PushMessage, *, key_id: str = "") -> PushAnswer:
    """Have a features process check rows and store those that are right; without one, store them as they are. `key_id`: the
    tenant's key that pays, and whose limits hold.

    Raises:
        InferbusError: nothing is stored (no such source), or, of the retryable ones, it is not known.
    """
    arguments = {"source": source, "rows": message.rows, "id": message.id, "key": key_id}
    try:
        answer = await bus.request(
            routes.features_manage(tenant, "push"), to_json(ManageRequest(arguments=arguments)), timeout_s=_TIMEOUT_S
        )
    except NoResponders:
        msg_id = routes.push_name(tenant, source, message.id) if message.id else None
        sequence = await bus.accept(
            routes.features_push(tenant, source), to_json(message), paid_by(key_id), msg_id=msg_id
        )
        return PushAnswer(accepted=len(message.rows), sequence=sequence, checked=False)
    reply = from_json(answer.data, ManageReply, what="the answer")
    if reply.error is not None:
        raise error_of(reply.error)
    return msgspec.convert(reply.data, PushAnswer)


def paid_by(key_id: str) -> dict[str, str]:
    """Write the headers of a push that a key pays."""
    return {KEY: key_id} if key_id else {}

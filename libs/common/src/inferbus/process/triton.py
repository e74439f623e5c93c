"""Asking workers about their Triton servers, over the bus (contracts.triton)."""

from __future__ import annotations

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import from_json, to_json
from inferbus.contracts.control import MODEL, TRITON
from inferbus.contracts.triton import TritonAsk, TritonReply
from inferbus.errors import (
    DeadlineWhileRunning,
    DependencyDown,
    InferbusError,
    InvalidRequest,
    NotFound,
    Unsupported,
)

_SLACK_S = 2.0
_REFUSALS: dict[int, type[InferbusError]] = {
    400: InvalidRequest, 404: NotFound, 422: Unsupported, 503: DependencyDown, 504: DeadlineWhileRunning,
}  # fmt: skip


async def ask_triton(bus: Bus, process: str, ask: TritonAsk) -> TritonReply:
    """Ask one worker, as an administrator; what its server refuses comes as a reply.

    Raises:
        DependencyDown: there is no such worker, it has no Triton, or it does not answer in time.
    """
    return await _ask(bus, process, TRITON, ask)


async def ask_model(bus: Bus, process: str, ask: TritonAsk) -> TritonReply:
    """Ask one worker, as a gateway: what there is to know of a model (`OF_MODELS`), else the reply is a refusal.

    Raises:
        DependencyDown: as above.
    """
    return await _ask(bus, process, MODEL, ask)


async def _ask(bus: Bus, process: str, verb: str, ask: TritonAsk) -> TritonReply:
    message = await bus.request(routes.control_of(process, verb), to_json(ask), timeout_s=ask.timeout_s + _SLACK_S)
    return from_json(message.data, TritonReply, what=f"reply of {process}")


def refusal_of(reply: TritonReply) -> InferbusError | None:
    """Give what a server refused as the error it is for a client; None where it did not."""
    if reply.status < 400:
        return None
    return _REFUSALS.get(reply.status, InferbusError)(reply.error or f"the server says {reply.status}")

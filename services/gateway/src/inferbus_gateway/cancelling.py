"""Cancelling: a request is cancelled by its id, wherever it is: at this gateway, at another one, or at none any more."""

from __future__ import annotations

from typing import Protocol

import msgspec
import structlog
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.answers.asker import Asker
from inferbus.answers.endings import CANCELLED, QUEUED, RUNNING
from inferbus.answers.exchange import Exchange
from inferbus.bus import Bus
from inferbus.errands import Errands
from inferbus.errors import DependencyDown, NotFound
from inferbus.process.presence import PresenceTable

_OTHERS_S = 1.0
log = structlog.get_logger()


class Kept(Protocol):
    """Requests whose answers are kept, and which may have outlived their gateway."""

    async def cancel_orphan(self, tenant: str, request_id: str, *, tell: bool = True) -> bool:
        """Cancel one whose gateway is gone; False if there is none. `tell`: its worker has not heard of it yet."""
        ...

    async def state_of(self, tenant: str, request_id: str) -> str | None:
        """Say how one is doing, or how it ended; None if there is none."""
        ...


class Relayed(Protocol):
    """Requests under the id their producer gave them, where this gateway began them anew under another."""

    def find(self, tenant: str, request_id: str) -> Exchange | None: ...

    def remember_cancel(self, tenant: str, request_id: str) -> None:
        """Nobody here has it; should it come to this door, it is cancelled then."""
        ...


class Cancelling:
    """Hears `cancel.<tenant>.<request>` for the requests of this gateway, and asks the others for theirs."""

    def __init__(
        self, bus: Bus, asker: Asker, presence: PresenceTable, relayed: Relayed, kept: Kept, errands: Errands
    ) -> None:
        self._bus = bus
        self._asker = asker
        self._presence = presence
        self._relayed = relayed
        self._kept = kept
        self._errands = errands

    async def start(self) -> None:
        await self._bus.subscribe(routes.CANCEL_ALL, self._on_cancel)

    async def cancel(self, tenant: str, request_id: str) -> str:
        """Cancel a request, in whatever phase it is; give what it is then: cancelled, or how it had ended before. Asking
        again gives the same.

        Raises:
            NotFound: no gateway has, or lately had, such a request of this tenant. DependencyDown: nobody can tell now.
        """
        state = self._cancel_here(tenant, request_id)
        if state is None:
            state = await self._ask_others(tenant, request_id)
        if state is None and await self._kept.cancel_orphan(tenant, request_id):
            state = CANCELLED
        if state is None:
            state = await self._kept.state_of(tenant, request_id)
        if state is None:
            raise NotFound(f"no request {request_id} is open, or was lately", param="request_id")
        if state in (QUEUED, RUNNING):
            raise DependencyDown("the request's gateway did not answer", retry_after_s=1.0)
        return state

    def _cancel_here(self, tenant: str, request_id: str) -> str | None:
        exchange = self._relayed.find(tenant, request_id) or self._asker.find(tenant, request_id)
        if exchange is None:
            return self._asker.state_of(tenant, request_id)
        if not exchange.ended:
            exchange.cancel()
            log.info("cancelled_by_id", request_id=request_id, tenant=tenant)
        return self._asker.state_of(tenant, exchange.request_id)

    async def _ask_others(self, tenant: str, request_id: str) -> str | None:
        """Ask all gateways; only one that has it answers, so silence means that none does."""
        gateways = [beat for beat in self._presence.alive().values() if beat.role == "gateway"]
        alone = self._presence.settled and all(beat.asker == self._asker.id for beat in gateways)
        if alone and self._bus.connected:
            return None
        try:
            answer = await self._bus.request(routes.cancel(tenant, request_id), timeout_s=_OTHERS_S)
        except DependencyDown:
            if not self._bus.connected:
                raise
            return None
        return msgspec.json.decode(answer.data, type=str)

    async def _on_cancel(self, message: Msg) -> None:
        tenant, request_id = routes.parse_cancel(message.subject)
        state = self._cancel_here(tenant, request_id)
        # A producer may name any subject for an answer, and we would publish to it with our rights: gateways only.
        by_gateway = self._bus.is_inbox(message.reply)
        if state is None:
            self._relayed.remember_cancel(tenant, request_id)
            if not by_gateway:  # which looks for itself
                self._errands.add("cancel_orphan", lambda: self._cancel_orphan(tenant, request_id))
        elif by_gateway:
            await self._bus.publish(message.reply, msgspec.json.encode(state))

    async def _cancel_orphan(self, tenant: str, request_id: str) -> None:
        await self._kept.cancel_orphan(tenant, request_id, tell=False)

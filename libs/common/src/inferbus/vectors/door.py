"""VectorsDoor: what gateways and batches ask of the vector service, over the bus: searches, collections, documents.

Tenant and key go in subject and header; nothing of a body says whose data it is. Searches and management are answered by
one of the service's processes; documents are accepted durably, also while none runs.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.tokens import Estimate
from inferbus.bus import Bus
from inferbus.bus.waiting import NoResponders
from inferbus.codec import from_json, to_json
from inferbus.contracts.models import VECTORS
from inferbus.contracts.step import Usage
from inferbus.contracts.vector_manage import ManageAnswer
from inferbus.contracts.vector_search import SearchAnswer, Searched, SearchRequest, VectorsRefused
from inferbus.contracts.vectors import KEY_ID, REPORT_TO, Document, IndexReport
from inferbus.contracts.watchlists import WatchAnswer
from inferbus.errors import DependencyDown, Forbidden, InferbusError, InvalidRequest, Transient, error_from
from inferbus.vectors.packing import Packed, packed, summed

A = TypeVar("A", bound=msgspec.Struct)
ENDPOINT = VECTORS
"""What entitlements call all of this, and limits as well: a request counts, tokens are the embedding models'."""
SEARCH_S, MANAGE_S = 30.0, 60.0
HOLD_S, RECENT_S, _AGAIN_S = 15.0, 60.0, 0.1
"""For how long a request waits for a service that was there within the last minute."""
_SLACK_S = 0.25
"""The service answers at a search's deadline; whoever asks should not be first."""
_NOTHING = Estimate(0, 0)
_SEARCHED: Any = Searched  # unions, which msgspec takes for a type
_MANAGED: Any = ManageAnswer
_WATCHED: Any = WatchAnswer


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """Documents that survive any crash from now on; `report` says what became of them, where somebody waited for that."""

    documents: int
    messages: int
    report: IndexReport | None = None


class Put:
    """Messages that were accepted: their `places` in the stream, and who waits for what becomes of each. `forget` it."""

    def __init__(self, messages: list[Packed]) -> None:
        self.messages = messages
        self.places: list[int] = []
        self.reports: list[asyncio.Future[IndexReport]] = []

    @property
    def documents(self) -> int:
        return sum(message.count for message in self.messages)

    async def report(self, wait_s: float) -> IndexReport | None:
        """Add up what became of them; None where not all of it is known in time."""
        _, late = await asyncio.wait(self.reports, timeout=wait_s)
        parts = zip(self.messages, self.reports, strict=True)
        return None if late else summed([(message, future.result()) for message, future in parts])

    @property
    def untold(self) -> list[int]:
        """The places of messages of which nothing is known yet."""
        return [place for place, future in zip(self.places, self.reports, strict=True) if not future.done()]

    def forget(self) -> None:
        for future in self.reports:
            future.cancel()


class VectorsDoor:
    """One per process that asks for tenants: a gateway, a batch service."""

    def __init__(self, bus: Bus, quota: Quota) -> None:
        self._bus = bus
        self._quota = quota
        self._inbox = ""
        self._answered = float("-inf")
        self._waiting: dict[str, asyncio.Future[IndexReport]] = {}

    async def start(self) -> None:
        self._inbox = self._bus.nc.new_inbox()
        await self._bus.listen(f"{self._inbox}.*", self._on_report)

    @asynccontextmanager
    async def admitted(self, identity: Identity) -> AsyncIterator[None]:
        """Count a request against every limit it falls under.

        Raises:
            Forbidden: vectors are not open to this key. RateLimited: a limit is used up.
        """
        check_may_use(identity)
        reservation = await self._quota.reserve(identity, ENDPOINT, lambda: _NOTHING)
        try:
            yield
        finally:
            reservation.settle(Usage(0, 0, 0))

    async def search(self, identity: Identity, name: str, request: SearchRequest) -> SearchAnswer:
        """Search a collection, by its name or an alias.

        Raises:
            NotFound, InvalidRequest: by the service; `param` names the field. DependencyDown: nobody answers.
        """
        subject = routes.vectors_search(identity.tenant, checked_name(name))
        message = await self._ask(subject, to_json(request), identity, SEARCH_S)
        return _checked(message, _SEARCHED, SearchAnswer)

    async def find(
        self, identity: Identity, name: str, body: bytes, headers: dict[str, str], *, timeout_s: float
    ) -> bytes:
        """Search with a request, and headers, that are written already; gives the answer as it came. Raises as `search`, but
        for what the service refuses: that is an answer."""
        subject = routes.vectors_search(identity.tenant, checked_name(name))
        return (await self._ask(subject, body, identity, timeout_s + _SLACK_S, headers)).data

    async def manage(self, identity: Identity, verb: str, wanted: msgspec.Struct, type_: type[A]) -> A:
        """Ask something about a tenant's collections. Raises as `search`."""
        subject = routes.vectors_manage(identity.tenant, verb)
        return _checked(await self._ask(subject, to_json(wanted), identity, MANAGE_S), _MANAGED, type_)

    async def watch(self, identity: Identity, verb: str, wanted: msgspec.Struct, type_: type[A]) -> A:
        """Ask something about a tenant's watchlists or dead letters. Raises as `search`."""
        subject = routes.vectors_watch(identity.tenant, verb)
        return _checked(await self._ask(subject, to_json(wanted), identity, MANAGE_S), _WATCHED, type_)

    async def index(
        self, identity: Identity, name: str, documents: Iterable[Document], *, wait_s: float = 0.0
    ) -> Accepted:
        """Accept documents durably, in their order; with `wait_s` also wait for what becomes of them.

        Raises:
            TooLarge: one of them is; nothing was accepted. Forbidden: the batch lane, on which they are embedded, is not
                open to this key. Overloaded, DependencyDown: the queue is full, or the bus away.
        """
        put = await self.put(identity, name, documents, told=wait_s > 0)
        try:
            report = await put.report(wait_s) if wait_s else None
        finally:
            put.forget()
        return Accepted(documents=put.documents, messages=len(put.messages), report=report)

    async def put(self, identity: Identity, name: str, documents: Iterable[Document], *, told: bool) -> Put:
        """Accept documents durably, in their order; `told`: what becomes of them can be waited for. Raises as `index`."""
        if routes.BATCH not in identity.lanes:
            raise Forbidden("the batch lane is not open to this key", param="lane")
        subject = routes.vectors_index(identity.tenant, checked_name(name))
        put = Put(packed(documents))
        try:
            for message in put.messages:
                headers = {KEY_ID: identity.key_id} if identity.key_id else {}
                token = secrets.token_hex(8)
                if told:
                    put.reports.append(self._expect(token))
                    headers[REPORT_TO] = f"{self._inbox}.{token}"
                sequence = await self._bus.accept(subject, message.data, headers, msg_id=f"{identity.tenant}:{token}")
                put.places.append(sequence)
        except BaseException:
            put.forget()
            raise
        return put

    async def _ask(
        self, subject: str, data: bytes, identity: Identity, timeout_s: float, said: dict[str, str] | None = None
    ) -> Msg:
        """Ask one of the service's processes. Where one was there a moment ago, the next is waited for: it restarts."""
        headers = (said or {}) | ({KEY_ID: identity.key_id} if identity.key_id else {})
        now = time.monotonic()
        give_up = now + (HOLD_S if now - self._answered < RECENT_S else 0.0)
        while True:
            try:
                message = await self._bus.request(subject, data, headers, timeout_s=timeout_s)
            except NoResponders as exc:
                if time.monotonic() >= give_up:
                    raise DependencyDown("no vector service is running", retry_after_s=2.0) from exc
                await asyncio.sleep(_AGAIN_S)
                continue
            self._answered = time.monotonic()
            return message

    def _expect(self, token: str) -> asyncio.Future[IndexReport]:
        future = self._waiting[token] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self._waiting.pop(token, None))
        return future

    def _on_report(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(from_json(message.data, IndexReport, what="report"))


def _checked(message: Msg, union: Any, type_: type[A]) -> A:
    answer = from_json(message.data, union, what="answer")
    if isinstance(answer, VectorsRefused):
        raise refusal(answer)
    if not isinstance(answer, type_):
        raise InferbusError(f"the vector service answered {type(answer).__name__}, not {type_.__name__}")
    return answer


def check_may_use(identity: Identity) -> None:
    """Raises Forbidden where vectors are not open to this key."""
    if identity.endpoints and ENDPOINT not in identity.endpoints:
        raise Forbidden(f"the endpoint {ENDPOINT} is not open to this key")


def checked_name(name: str) -> str:
    """Refuse what cannot be one token of a subject; the rest of the rules is the service's.

    Raises:
        InvalidRequest: it is no name.
    """
    if not name or routes.token_safe(name) != name or len(name) > 128:
        raise InvalidRequest(f"{name[:80]!r} is no name of a collection: letters, digits, _ and -", param="collection")
    return name


def refusal(answer: VectorsRefused) -> InferbusError:
    """Give what the service refused as an error of ours."""
    error = error_from(answer.code, answer.message)
    error.param = answer.param or None
    if isinstance(error, Transient) and answer.retry_after_s:
        error.retry_after_s = answer.retry_after_s
    return error

"""ModelServers: what operators do to the Triton servers behind a pool's workers. A change has its audit event before it is
made; looking has none."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import msgspec

from inferbus.admission.audit import AuditedStore
from inferbus.contracts.triton import CHANGES, LOAD, LOOKS, TritonAsk, TritonReply
from inferbus.errors import DependencyDown, InvalidRequest
from inferbus.process.triton import ask_triton

MAX_TIMEOUT_S = 600.0
_ACTIONS = {LOAD: "triton_loaded"}


class WorkerSaid(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one worker's server says: `data` as it says it, or with a `status` of 400 and more, why not."""

    worker: str
    status: int = 200
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""


class ModelServers:
    """Asks workers; made for one who may (role `admin`)."""

    def __init__(self, store: AuditedStore) -> None:
        self._store = store

    async def operate(self, pool: str, workers: Sequence[str], ask: TritonAsk) -> list[WorkerSaid]:
        """Ask all workers of a pool together; a load or unload is for every one of them.

        Raises:
            InvalidRequest: no such operation, or a change that names no model. DependencyDown: there is no worker; the audit
                event of a change could not be stored, and it was not made.
        """
        check_ask(ask)
        if not workers:
            raise DependencyDown(f"no worker of the pool {pool} is ready")
        if ask.op in CHANGES:
            after = {
                name: value for name, value in msgspec.to_builtins(ask).items() if name not in ("type", "timeout_s")
            }
            ask = msgspec.structs.replace(ask, operation=secrets.token_hex(8))
            await self._store.note(_ACTIONS.get(ask.op, "triton_unloaded"), f"{pool}/{ask.model}", after)
        return list(await asyncio.gather(*(self._ask(worker, ask) for worker in workers)))

    async def _ask(self, worker: str, ask: TritonAsk) -> WorkerSaid:
        try:
            reply = await ask_triton(self._store.bus, worker, ask)
        except DependencyDown as exc:
            reply = TritonReply(status=exc.row.http_status, error=exc.message)
        data = reply.data if reply.status < 400 else msgspec.Raw(b"null")
        return WorkerSaid(worker=worker, status=reply.status, data=data, error=reply.error)


def check_ask(ask: TritonAsk) -> None:
    """Refuse an operation that cannot be.

    Raises:
        InvalidRequest: `param` names the field.
    """
    if ask.op not in (*LOOKS, *CHANGES):
        raise InvalidRequest(f"{ask.op[:40]!r} is none of {', '.join((*LOOKS, *CHANGES))}", param="op")
    if ask.op in CHANGES and not ask.model:
        raise InvalidRequest(f"{ask.op} what? name a model", param="model")
    if ask.config and ask.op == LOAD:
        try:
            msgspec.json.decode(ask.config, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise InvalidRequest(f"config is a JSON object: {exc}", param="config") from exc
    if not 0 < ask.timeout_s <= MAX_TIMEOUT_S:
        raise InvalidRequest(f"timeout_s is over 0 and at most {MAX_TIMEOUT_S:g}", param="timeout_s")


def worst_of(said: Sequence[WorkerSaid]) -> int:
    """Give the one status of all: that of the worst."""
    return max((one.status for one in said), default=200)

"""/admin/v1/triton: the Triton servers behind the workers of a pool, looked at and changed, all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from inferbus.admission.model_servers import WorkerSaid, worst_of
from inferbus.codec import to_json
from inferbus.contracts.models import LLM
from inferbus.contracts.triton import CHANGES, LOOKS, TritonAsk
from inferbus.errors import NotFound
from inferbus_gateway.http.admin_request import (
    ADMIN_PATH,
    AdminOperation,
    AnyRequest,
    admin_operation,
    open_session,
    read_wanted,
)
from inferbus_gateway.http.inference import HttpDeps

_PATH = f"{ADMIN_PATH}/triton"
_OP = f"{_PATH}/{{pool:str}}/{{op:str}}"


class TritonChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be loaded or unloaded. `config`: a configuration in place of the repository's; `dependents`: also what it
    is an ensemble of; `timeout_s`: how long loading may take."""

    model: str
    config: dict[str, Any] | None = None
    dependents: bool = False
    timeout_s: float = 120.0


class TritonPool(msgspec.Struct, kw_only=True):
    """A pool of tensors: its models, and those of its workers that are ready."""

    pool: str
    models: list[str]
    workers: list[str]


class TritonPools(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[TritonPool]


class TritonSaid(msgspec.Struct, kw_only=True):
    """What each worker's server says. The answer's status is the worst of theirs."""

    object: str = "list"
    data: list[WorkerSaid]


def build_triton(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get(_PATH, sync_to_thread=False, summary="The pools that Triton serves", operation_class=AdminOperation)
    def list_pools(request: AnyRequest) -> TritonPools:
        open_session(deps, request)
        return TritonPools(data=[_described(deps, pool) for pool in sorted(_pools(deps))])

    @get(_OP, summary=f"Look: {', '.join(LOOKS)}; `?model=`, `&version=`", operation_class=AdminOperation)
    async def look(request: AnyRequest, pool: FromPath[str], op: FromPath[str]) -> Response[bytes]:
        query = request.query_params
        ask = TritonAsk(op=op, model=query.get("model", ""), version=query.get("version", ""))
        return await _operate(deps, request, pool, ask, LOOKS)

    @post(_OP, status_code=200, summary="load or unload a model", operation_class=admin_operation(TritonChange))
    async def change(request: AnyRequest, pool: FromPath[str], op: FromPath[str]) -> Response[bytes]:
        open_session(deps, request)  # nobody else's body is read
        wanted = await read_wanted(request, TritonChange)
        config = "" if wanted.config is None else to_json(wanted.config).decode()
        ask = TritonAsk(
            op=op, model=wanted.model, config=config, dependents=wanted.dependents, timeout_s=wanted.timeout_s
        )
        return await _operate(deps, request, pool, ask, CHANGES)

    return list_pools, look, change


async def _operate(
    deps: HttpDeps, request: AnyRequest, pool: str, ask: TritonAsk, allowed: tuple[str, ...]
) -> Response[bytes]:
    session = open_session(deps, request)
    if pool not in _pools(deps):
        raise NotFound(f"no pool {pool[:80]!r} of tensors", param="pool")
    if ask.op not in allowed:
        raise NotFound(f"{ask.op[:40]!r} is none of {', '.join(allowed)} ({request.method})", param="op")
    workers = [beat.process for beat in deps.servers.workers(pool)]
    said = await session.books.servers.operate(pool, workers, ask)
    return Response(to_json(TritonSaid(data=said)), status_code=worst_of(said), media_type="application/json")


def _pools(deps: HttpDeps) -> set[str]:
    return {entry.pool for entry in deps.models.all() if entry.runtime != LLM}


def _described(deps: HttpDeps, pool: str) -> TritonPool:
    models = [entry.name for entry in deps.models.all() if entry.pool == pool and entry.runtime != LLM]
    return TritonPool(pool=pool, models=models, workers=[beat.process for beat in deps.servers.workers(pool)])

"""/admin/v1/limits and /admin/v1/audit."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from inferbus.admission.audit import read_audit
from inferbus.admission.limit_book import Limited
from inferbus.codec import from_json
from inferbus.contracts.audit import AdminChanged
from inferbus.contracts.limits import LimitSet
from inferbus.errors import InvalidRequest
from inferbus_gateway.http.admin_request import (
    ADMIN_PATH,
    AdminOperation,
    AnyRequest,
    Deleted,
    admin_operation,
    open_session,
)
from inferbus_gateway.http.inference import HttpDeps

_PATH = f"{ADMIN_PATH}/limits"
_ONE = f"{_PATH}/{{kind:str}}/{{name:path}}"


class LimitList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[Limited]


class AuditList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[AdminChanged]


def build_limits(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get(_PATH, summary="List all limits", operation_class=AdminOperation)
    async def list_limits(request: AnyRequest) -> LimitList:
        return LimitList(data=await open_session(deps, request).books.limits.list())

    @get(_ONE, summary="Limits of `key/<id>`, `team/<tenant>/<team>`, `org/<tenant>` or `model/<name>`",
         operation_class=AdminOperation)  # fmt: skip
    async def get_limits(request: AnyRequest, kind: FromPath[str], name: FromPath[str]) -> Limited:
        return await open_session(deps, request).books.limits.get(kind, name.removeprefix("/"))

    @put(_ONE, summary="Replace the limits; 0, or not said, is no limit", operation_class=admin_operation(LimitSet))
    async def set_limits(request: AnyRequest, kind: FromPath[str], name: FromPath[str]) -> Limited:
        session = open_session(deps, request)
        wanted = from_json(await request.body(), dict[str, object], what="body")
        return await session.books.limits.set(kind, name.removeprefix("/"), wanted)

    @delete(_ONE, status_code=200, summary="Limit it no more", operation_class=AdminOperation)
    async def clear_limits(request: AnyRequest, kind: FromPath[str], name: FromPath[str]) -> Deleted:
        await open_session(deps, request).books.limits.clear(kind, name.removeprefix("/"))
        return Deleted(id=f"{kind}{name}")

    return list_limits, get_limits, set_limits, clear_limits


def build_audit(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get(f"{ADMIN_PATH}/audit", summary="Changes, oldest first, from `?since=` (Unix seconds) on",
         operation_class=AdminOperation)  # fmt: skip
    async def list_audit(request: AnyRequest) -> AuditList:
        session = open_session(deps, request)
        try:
            since = float(request.query_params.get("since", "0"))
        except ValueError as exc:
            raise InvalidRequest("since is in Unix seconds", param="since") from exc
        return AuditList(data=await read_audit(session.bus, since=since))

    return [list_audit]

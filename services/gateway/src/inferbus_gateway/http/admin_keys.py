"""/admin/v1/keys: a key is shown by the answer that made it, and by a replay of that."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from inferbus.admission.key_book import derived
from inferbus.admission.views import KeyView, view_of_key
from inferbus.admission.wanted import KeyChange, NewKey, Rotation
from inferbus_gateway.http.admin_request import (
    ADMIN_PATH,
    AdminOperation,
    AnyRequest,
    Deleted,
    admin_operation,
    once,
    open_session,
    read_wanted,
    unix_now,
)
from inferbus_gateway.http.inference import HttpDeps

_PATH = f"{ADMIN_PATH}/keys"
_ONE = f"{_PATH}/{{id:str}}"


class KeyList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[KeyView]


def build_keys(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get(_PATH, summary="List the keys, of one tenant with `?tenant=`", operation_class=AdminOperation)
    async def list_keys(request: AnyRequest) -> KeyList:
        found = await open_session(deps, request).books.keys.list(request.query_params.get("tenant", ""))
        return KeyList(data=[view_of_key(one, now=unix_now()) for one in found])

    @get(_ONE, summary="Describe a key", operation_class=AdminOperation)
    async def get_key(request: AnyRequest, id: FromPath[str]) -> KeyView:
        return view_of_key(await open_session(deps, request).books.keys.get(id), now=unix_now())

    @patch(_ONE, summary="Change what a key may do", operation_class=admin_operation(KeyChange))
    async def update_key(request: AnyRequest, id: FromPath[str]) -> KeyView:
        session = open_session(deps, request)
        changed = await session.books.keys.update(id, await read_wanted(request, KeyChange))
        return view_of_key(changed, now=unix_now())

    @delete(_ONE, status_code=200, summary="Forget a revoked key", operation_class=AdminOperation)
    async def delete_key(request: AnyRequest, id: FromPath[str]) -> Deleted:
        await open_session(deps, request).books.keys.delete(id)
        return Deleted(id=id)

    return [list_keys, get_key, update_key, delete_key, *_build_posts(deps)]


def _build_posts(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(_PATH, status_code=201, summary="Create a key; shown once", operation_class=admin_operation(NewKey))
    async def create_key(request: AnyRequest) -> KeyView:
        session = open_session(deps, request)
        wanted = await read_wanted(request, NewKey)

        async def perform(nonce: str, __: bool) -> KeyView:
            _, entry = await session.books.keys.create(wanted, derived(session.admin.secret, nonce))
            return view_of_key(entry, now=unix_now())

        view, nonce, _ = await once(session, request, KeyView, perform)
        return _with_key(view, derived(session.admin.secret, nonce).secret)

    @post(
        f"{_ONE}/rotate", status_code=200, summary="Give a key a new secret; the old one holds for `grace_s`",
        operation_class=admin_operation(Rotation),
    )  # fmt: skip
    async def rotate_key(request: AnyRequest, id: FromPath[str]) -> KeyView:
        session = open_session(deps, request)
        wanted = await read_wanted(request, Rotation)

        async def perform(nonce: str, __: bool) -> KeyView:
            _, entry = await session.books.keys.rotate(id, wanted, derived(session.admin.secret, nonce))
            return view_of_key(entry, now=unix_now())

        view, nonce, _ = await once(session, request, KeyView, perform)
        return _with_key(view, derived(session.admin.secret, nonce).secret)

    @post(f"{_ONE}/revoke", status_code=200, summary="Make a key worthless, for ever", operation_class=AdminOperation)
    async def revoke_key(request: AnyRequest, id: FromPath[str]) -> KeyView:
        session = open_session(deps, request)

        async def perform(_: str, __: bool) -> KeyView:
            return view_of_key(await session.books.keys.revoke(id), now=unix_now())

        return (await once(session, request, KeyView, perform))[0]

    return create_key, rotate_key, revoke_key


def _with_key(view: KeyView, secret: str) -> KeyView:
    return msgspec.structs.replace(view, key=f"ib-{view.id}-{secret}")

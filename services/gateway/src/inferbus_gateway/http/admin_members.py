"""/admin/v1/organisations, /teams, /users."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from inferbus.admission.views import MemberView, OrganisationView, V, view_of
from inferbus.admission.wanted import MemberChange, NewMember, NewOrganisation, OrganisationChange
from inferbus.contracts.directory import Organisation, Team, User
from inferbus_gateway.http.admin_request import (
    ADMIN_PATH,
    AdminOperation,
    AnyRequest,
    Deleted,
    admin_operation,
    once,
    open_session,
    read_wanted,
)
from inferbus_gateway.http.inference import HttpDeps


class OrganisationList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[OrganisationView]


class MemberList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[MemberView]


def build_organisations(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    path = f"{ADMIN_PATH}/organisations"

    @post(path, status_code=201, summary="Create an organisation", operation_class=admin_operation(NewOrganisation))
    async def create_organisation(request: AnyRequest) -> OrganisationView:
        return await _create(deps, request, Organisation, NewOrganisation, OrganisationView)

    @get(path, summary="List the organisations", operation_class=AdminOperation)
    async def list_organisations(request: AnyRequest) -> OrganisationList:
        return OrganisationList(data=await _list(deps, request, Organisation, OrganisationView))

    @get(f"{path}/{{id:str}}", summary="Describe an organisation", operation_class=AdminOperation)
    async def get_organisation(request: AnyRequest, id: FromPath[str]) -> OrganisationView:
        found = await open_session(deps, request).books.directory.get(Organisation, id, id)
        return view_of(found, OrganisationView)

    @patch(f"{path}/{{id:str}}", summary="Change an organisation", operation_class=admin_operation(OrganisationChange))
    async def update_organisation(request: AnyRequest, id: FromPath[str]) -> OrganisationView:
        session = open_session(deps, request)
        change = await read_wanted(request, OrganisationChange)
        return view_of(await session.books.directory.update(Organisation, id, id, change), OrganisationView)

    @delete(f"{path}/{{id:str}}", status_code=200, summary="Forget an organisation", operation_class=AdminOperation)
    async def delete_organisation(request: AnyRequest, id: FromPath[str]) -> Deleted:
        return await _delete(deps, request, Organisation, id, id)

    return create_organisation, list_organisations, get_organisation, update_organisation, delete_organisation


def build_teams_and_users(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    return [*_build_members(deps, Team, "team"), *_build_members(deps, User, "user")]


def _build_members(deps: HttpDeps, type_: type[Team | User], noun: str) -> Sequence[HTTPRouteHandler]:
    path = f"{ADMIN_PATH}/{noun}s"
    one = f"{path}/{{tenant:str}}/{{id:str}}"

    @post(path, status_code=201, summary=f"Create a {noun}", operation_class=admin_operation(NewMember))
    async def create_member(request: AnyRequest) -> MemberView:
        return await _create(deps, request, type_, NewMember, MemberView)

    @get(path, summary=f"List the {noun}s, of one tenant with `?tenant=`", operation_class=AdminOperation)
    async def list_members(request: AnyRequest) -> MemberList:
        return MemberList(data=await _list(deps, request, type_, MemberView))

    @get(one, summary=f"Describe a {noun}", operation_class=AdminOperation)
    async def get_member(request: AnyRequest, tenant: FromPath[str], id: FromPath[str]) -> MemberView:
        return view_of(await open_session(deps, request).books.directory.get(type_, tenant, id), MemberView)

    @patch(one, summary=f"Change a {noun}", operation_class=admin_operation(MemberChange))
    async def update_member(request: AnyRequest, tenant: FromPath[str], id: FromPath[str]) -> MemberView:
        session = open_session(deps, request)
        change = await read_wanted(request, MemberChange)
        return view_of(await session.books.directory.update(type_, tenant, id, change), MemberView)

    @delete(one, status_code=200, summary=f"Forget a {noun}", operation_class=AdminOperation)
    async def delete_member(request: AnyRequest, tenant: FromPath[str], id: FromPath[str]) -> Deleted:
        return await _delete(deps, request, type_, tenant, id)

    return create_member, list_members, get_member, update_member, delete_member


Kind = type[Organisation] | type[Team] | type[User]


async def _create(
    deps: HttpDeps, request: AnyRequest, type_: Kind, body: type[NewOrganisation | NewMember], view: type[V]
) -> V:
    session = open_session(deps, request)
    wanted = await read_wanted(request, body)

    async def perform(_: str, resumed: bool) -> V:
        return view_of(await session.books.directory.create(type_, wanted, resumed=resumed), view)

    made, _, _ = await once(session, request, view, perform)
    return made


async def _list(deps: HttpDeps, request: AnyRequest, type_: Kind, view: type[V]) -> list[V]:
    found = await open_session(deps, request).books.directory.list(type_, request.query_params.get("tenant", ""))
    return [view_of(one, view) for one in found]


async def _delete(deps: HttpDeps, request: AnyRequest, type_: Kind, tenant: str, id_: str) -> Deleted:
    await open_session(deps, request).books.directory.delete(type_, tenant, id_)
    return Deleted(id=id_)

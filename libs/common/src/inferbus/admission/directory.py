"""Directory: organisations, teams and users, created and changed, every change with its audit event."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from inferbus import routes
from inferbus.admission import revisions
from inferbus.admission.audit import AuditedStore, Change
from inferbus.admission.limit_clearing import clear_limits
from inferbus.admission.wanted import MemberChange, NewMember, NewOrganisation, check_token, said
from inferbus.codec import from_json
from inferbus.contracts.directory import ORGANISATION, TEAM, USER, Member, Organisation, Team, User, key_of
from inferbus.contracts.keys import KeyEntry
from inferbus.errors import Conflict, NotFound

M = TypeVar("M", bound=Member)
_PREFIX: dict[type, str] = {Organisation: ORGANISATION, Team: TEAM, User: USER}
_NOUN: dict[type, str] = {Organisation: "organisation", Team: "team", User: "user"}


class Directory:
    """The `directory` bucket, for whoever may write it (role `admin`)."""

    def __init__(self, store: AuditedStore) -> None:
        self._store = store

    async def create(self, type_: type[M], wanted: NewOrganisation | NewMember, *, resumed: bool = False) -> M:
        """Create one. `resumed`: an earlier try may have done it already, and is then taken for this one.

        Raises:
            InvalidRequest: a field is impossible. Conflict: there is one of this name.
        """
        tenant = wanted.tenant if isinstance(wanted, NewMember) else wanted.id
        check_token(wanted.id, "id")
        check_token(tenant, "tenant")
        fields = said(wanted, now=time.time()) | {"id": wanted.id, "tenant": tenant}
        entry = type_(**fields, created=int(time.time()))

        def decide(before: M | None) -> M:
            if before is None:
                return entry
            if resumed and msgspec.structs.replace(before, created=entry.created) == entry:
                return before
            raise Conflict(f"there is a {_NOUN[type_]} {wanted.id} already", param="id")

        return await self._change(type_, tenant, wanted.id, "created", decide)  # type: ignore[return-value]  # decide never gives None

    async def list(self, type_: type[M], tenant: str = "") -> list[M]:
        """List them, of one tenant or of all, oldest first."""
        below = f"{_PREFIX[type_]}." + (
            f"{check_token(tenant, 'tenant')}." if tenant and type_ is not Organisation else ""
        )
        found = [
            from_json(data, type_, what="entry")
            for data in await revisions.read_all(self._store.bus, routes.KV_DIRECTORY, below)
        ]
        return sorted(
            (one for one in found if not tenant or one.tenant == tenant),
            key=lambda one: (one.created, one.tenant, one.id),
        )

    async def get(self, type_: type[M], tenant: str, id_: str) -> M:
        """Raises NotFound where there is none."""
        found = await self._store.find(routes.KV_DIRECTORY, _key(type_, tenant, id_), type_)
        if found is None:
            raise _unknown(type_, id_)
        return found

    async def update(self, type_: type[M], tenant: str, id_: str, change: MemberChange) -> M:
        """Change what was said of it.

        Raises:
            NotFound: there is none. InvalidRequest: a field is impossible.
        """
        fields = said(change, now=time.time())

        def decide(before: M | None) -> M:
            if before is None:
                raise _unknown(type_, id_)
            return msgspec.structs.replace(before, **fields)

        return await self._change(type_, tenant, id_, "updated", decide)  # type: ignore[return-value]  # decide never gives None

    async def delete(self, type_: type[M], tenant: str, id_: str) -> None:
        """Forget one that no key needs, and its limits.

        Raises:
            NotFound: there is none. Conflict: it has keys that are not revoked, or an organisation teams or users: without
                its entry they would be narrowed by nothing.
        """
        await self.get(type_, tenant, id_)
        if left := await self._needed_by(type_, tenant, id_):
            raise Conflict(f"the {_NOUN[type_]} {id_} still has {left}", param="id")

        def decide(before: M | None) -> None:
            if before is None:
                raise _unknown(type_, id_)

        if type_ is Organisation:
            await clear_limits(self._store, tenant, "org", tenant)
        elif type_ is Team:
            await clear_limits(self._store, tenant, "team", tenant, id_)
        await self._change(type_, tenant, id_, "deleted", decide)

    async def _needed_by(self, type_: type, tenant: str, id_: str) -> str:
        """Say what of a tenant still needs an entry; empty where nothing does."""
        keys = [
            from_json(data, KeyEntry, what="key") for data in await revisions.read_all(self._store.bus, routes.KV_KEYS)
        ]
        mine = [key for key in keys if key.tenant == tenant and not key.disabled]
        if type_ is Team:
            mine = [key for key in mine if key.team == id_]
        elif type_ is User:
            mine = [key for key in mine if key.user == id_]
        if mine:
            return f"{len(mine)} keys: revoke them first"
        members = [*await self.list(Team, tenant), *await self.list(User, tenant)] if type_ is Organisation else []
        return f"{len(members)} teams and users: delete them first" if members else ""

    async def _change(
        self, type_: type[M], tenant: str, id_: str, done: str, decide: Callable[[M | None], M | None]
    ) -> M | None:
        change = Change(
            bucket=routes.KV_DIRECTORY, key=_key(type_, tenant, id_), action=f"{_NOUN[type_]}_{done}", tenant=tenant
        )
        return await self._store.change(change, type_, decide)


def _key(type_: type[M], tenant: str, id_: str) -> str:
    if not (routes.is_tenant(tenant) and routes.is_tenant(id_)):
        raise _unknown(type_, id_)
    return key_of(type_(id=id_, tenant=tenant))


def _unknown(type_: type, id_: str) -> NotFound:
    return NotFound(f"there is no {_NOUN[type_]} {id_[:80]!r}", param="id")

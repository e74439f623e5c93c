"""KeyBook: API keys created, changed, rotated and revoked, every change with its audit event. Secrets are shown once."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable

import msgspec

from inferbus import routes
from inferbus.admission import revisions
from inferbus.admission.audit import AuditedStore, Change
from inferbus.admission.directory import Directory
from inferbus.admission.keys import mac_of
from inferbus.admission.limit_clearing import clear_limits
from inferbus.admission.wanted import KeyChange, NewKey, Rotation, check_grace, check_token, said
from inferbus.codec import from_json
from inferbus.contracts.directory import Team, User
from inferbus.contracts.keys import KeyEntry
from inferbus.errors import Conflict, InvalidRequest, NotFound


class Draw(msgspec.Struct, frozen=True):
    """Where a key's id and secret come from: drawn, or derived, so that who asks again gets the same."""

    id: str
    secret: str


def drawn() -> Draw:
    return Draw(secrets.token_hex(6), secrets.token_hex(24))


def derived(seal: bytes, nonce: str) -> Draw:
    """Derive id and secret from a secret only the asker has and a nonce that may be stored."""
    digest = hmac.digest(seal, f"key:{nonce}".encode(), "sha512")
    return Draw(digest[:6].hex(), digest[6:30].hex())


class KeyBook:
    """The `keys` bucket, for whoever may write it (role `admin`) and knows the gateways' pepper."""

    def __init__(self, store: AuditedStore, directory: Directory, pepper: bytes) -> None:
        self._store = store
        self._directory = directory
        self._pepper = pepper

    async def create(self, wanted: NewKey, draw: Draw) -> tuple[str, KeyEntry]:
        """Make a key; gives it, and the entry that recognises it. The same draw again gives the same key.

        Raises:
            InvalidRequest: a field is impossible, or there is no such team or user.
        """
        check_token(wanted.tenant, "tenant")
        fields = said(wanted, now=time.time())
        await self._check_members(wanted)
        entry = KeyEntry(**fields, id=draw.id, mac=mac_of(self._pepper, draw.secret), created=int(time.time()))

        def decide(before: KeyEntry | None) -> KeyEntry:
            if before is not None and before.mac != entry.mac:
                raise Conflict(f"there is a key {entry.id} already")
            return before or entry

        return _written(draw), await self._change(draw.id, "created", decide, wanted.tenant)

    async def list(self, tenant: str = "") -> list[KeyEntry]:
        """List the keys, of one tenant or of all, oldest first."""
        found = await revisions.read_all(self._store.bus, routes.KV_KEYS)
        keys = [from_json(data, KeyEntry, what="key") for data in found]
        return sorted((key for key in keys if tenant in ("", key.tenant)), key=lambda key: (key.created, key.id))

    async def get(self, id_: str) -> KeyEntry:
        """Raises NotFound where there is none."""
        found = await self._store.find(routes.KV_KEYS, _checked(id_), KeyEntry)
        if found is None:
            raise _unknown(id_)
        return found

    async def update(self, id_: str, change: KeyChange) -> KeyEntry:
        """Change what a key may do.

        Raises:
            NotFound: there is none. InvalidRequest: a field is impossible. Conflict: it is revoked.
        """
        fields = said(change, now=time.time())
        return await self._change(id_, "updated", lambda key: msgspec.structs.replace(_alive(key, id_), **fields))

    async def rotate(self, id_: str, rotation: Rotation, draw: Draw) -> tuple[str, KeyEntry]:
        """Give a key a new secret; the old one is good for a time. One that was rotated out before is not any more.

        Raises:
            NotFound: there is none. InvalidRequest: the time is impossible. Conflict: it is revoked.
        """
        grace_s, mac = check_grace(rotation), mac_of(self._pepper, draw.secret)

        def decide(before: KeyEntry | None) -> KeyEntry:
            key = _alive(before, id_)
            if key.mac == mac:
                return key  # an earlier try has done it
            until = int(time.time()) + grace_s
            return msgspec.structs.replace(
                key, mac=mac, previous_mac=key.mac if grace_s else "", previous_until=until if grace_s else 0
            )

        return _written(Draw(id_, draw.secret)), await self._change(id_, "rotated", decide)

    async def revoke(self, id_: str) -> KeyEntry:
        """Make a key worthless for ever. Its entry stays; revoking it again changes nothing.

        Raises:
            NotFound: there is none.
        """

        def decide(before: KeyEntry | None) -> KeyEntry:
            if before is None:
                raise _unknown(id_)
            return msgspec.structs.replace(before, disabled=True)

        return await self._change(id_, "revoked", decide)

    async def delete(self, id_: str) -> None:
        """Forget a revoked key, and its limits.

        Raises:
            NotFound: there is none. Conflict: it is not revoked.
        """

        def decide(before: KeyEntry | None) -> None:
            if before is None:
                raise _unknown(id_)
            if not before.disabled:
                raise Conflict(f"the key {id_} is in force: revoke it first")

        key = await self.get(id_)
        if key.disabled:
            await clear_limits(self._store, key.tenant, "key", id_)
        change = Change(bucket=routes.KV_KEYS, key=id_, action="key_deleted", tenant=key.tenant)
        await self._store.change(change, KeyEntry, decide)

    async def _change(
        self, id_: str, done: str, decide: Callable[[KeyEntry | None], KeyEntry], tenant: str = ""
    ) -> KeyEntry:
        tenant = tenant or (await self.get(id_)).tenant
        change = Change(bucket=routes.KV_KEYS, key=_checked(id_), action=f"key_{done}", tenant=tenant)
        changed = await self._store.change(change, KeyEntry, decide)
        if changed is None:
            raise _unknown(id_)
        return changed

    async def _check_members(self, wanted: NewKey) -> None:
        field = "team"
        try:
            if wanted.team:
                await self._directory.get(Team, wanted.tenant, wanted.team)
            field = "user"
            if wanted.user:
                await self._directory.get(User, wanted.tenant, wanted.user)
        except NotFound as exc:
            raise InvalidRequest(f"{wanted.tenant} has no such {field}", param=field) from exc


def _written(draw: Draw) -> str:
    return f"ib-{draw.id}-{draw.secret}"


def _alive(key: KeyEntry | None, id_: str) -> KeyEntry:
    if key is None:
        raise _unknown(id_)
    if key.disabled:
        raise Conflict(f"the key {id_} is revoked")
    return key


def _checked(id_: str) -> str:
    if routes.token_safe(id_) != id_ or not 0 < len(id_) <= 64:
        raise _unknown(id_)
    return id_


def _unknown(id_: str) -> NotFound:
    return NotFound(f"there is no key of id {id_[:80]!r}", param="id")

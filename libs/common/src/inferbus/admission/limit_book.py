"""LimitBook: limits of keys, teams, organisations and models, every change with its audit event."""

from __future__ import annotations

import msgspec

from inferbus import routes
from inferbus.admission import revisions
from inferbus.admission.audit import AuditedStore, Change
from inferbus.admission.directory import Directory
from inferbus.admission.key_book import KeyBook
from inferbus.admission.limit_clearing import clear_limits
from inferbus.admission.wanted import check_token
from inferbus.codec import from_json
from inferbus.contracts.directory import Team
from inferbus.contracts.limits import LIMIT_SCOPES, LimitSet, limit_key, limits_from
from inferbus.errors import InvalidRequest, NotFound


class Limited(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and whose they are: `name` is a key's id, `<tenant>/<team>`, a tenant, or a model."""

    scope: str
    name: str
    limits: LimitSet


class LimitBook:
    """The `limits` bucket, for whoever may write it (role `admin`)."""

    def __init__(self, store: AuditedStore, directory: Directory, keys: KeyBook) -> None:
        self._store = store
        self._directory = directory
        self._keys = keys

    async def set(self, scope: str, name: str, wanted: object) -> Limited:
        """Replace the limits of one; what is not said is not limited.

        Raises:
            InvalidRequest: a limit is impossible; `param` names it. NotFound: there is no such key or team.
        """
        limits = limits_from(wanted)
        key, tenant = await self._place(scope, name)
        change = Change(bucket=routes.KV_LIMITS, key=key, action="limits_set", tenant=tenant)
        await self._store.change(change, LimitSet, lambda _: limits)
        return _limited(key, limits)

    async def get(self, scope: str, name: str) -> Limited:
        """Raises NotFound where nothing is limited."""
        key = _key_of(scope, name)
        found = await self._store.find(routes.KV_LIMITS, key, LimitSet)
        if found is None:
            raise NotFound(f"there are no limits of {scope} {name[:80]!r}")
        return _limited(key, found)

    async def list(self) -> list[Limited]:
        found = await revisions.read_keys(self._store.bus, routes.KV_LIMITS)
        return [_limited(key, from_json(data, LimitSet, what=key)) for key, data in sorted(found.items())]

    async def clear(self, scope: str, name: str) -> None:
        """Limit it no more. Raises NotFound where nothing is limited."""
        limited = await self.get(scope, name)
        await clear_limits(self._store, _tenant_of(limited), scope, *_key_of(scope, name).split(".")[1:])

    async def _place(self, scope: str, name: str) -> tuple[str, str]:
        """Give the key of a scope's limits and the tenant they belong to; what they are for must be there."""
        key = _key_of(scope, name)
        if scope == "key":
            return key, (await self._keys.get(name)).tenant
        if scope == "team":
            tenant, _, team = name.partition("/")
            await self._directory.get(Team, tenant, team)
            return key, tenant
        return key, name if scope == "org" else ""


def _key_of(scope: str, name: str) -> str:
    """Raises InvalidRequest where there is no such scope, or the name cannot be one."""
    if scope not in LIMIT_SCOPES:
        raise InvalidRequest(f"limits are of {', '.join(LIMIT_SCOPES)}", param="scope")
    if scope == "model":
        return limit_key(scope, routes.token_safe(name))
    parts = name.split("/") if scope == "team" else [name]
    if scope == "team" and len(parts) != 2:
        raise InvalidRequest("a team is named <tenant>/<team>", param="name")
    return limit_key(scope, *(check_token(part, "name") for part in parts))


def _limited(key: str, limits: LimitSet) -> Limited:
    scope, _, name = key.partition(".")
    return Limited(scope=scope, name=name.replace(".", "/"), limits=limits)


def _tenant_of(limited: Limited) -> str:
    match limited.scope:
        case "org":
            return limited.name
        case "team":
            return limited.name.partition("/")[0]
    return ""

"""Wanted: what an operator asks for, and what of it is impossible. Pure; the admin API and the command line share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from inferbus import routes
from inferbus.admission.narrowing import TAG
from inferbus.contracts.models import TASKS, VECTORS
from inferbus.errors import InvalidRequest
from inferbus.queue.fair_share import MAX_WEIGHT

MAX_TOKENS, MAX_PRIORITY, MAX_GRACE_S = 10**9, 100, 30 * 86_400
_MAX_NAME, _MAX_MODELS = 200, 256


class Entitled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is, or as it is by default."""

    name: str | UnsetType = UNSET
    lanes: tuple[str, ...] | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    endpoints: tuple[str, ...] | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET
    priority: int | UnsetType = UNSET


class MemberChange(Entitled, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of a team or a user."""

    disabled: bool | UnsetType = UNSET


class OrganisationChange(MemberChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of an organisation: only those have a weight."""

    weight: int | UnsetType = UNSET


class NewOrganisation(OrganisationChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An organisation: `id` is the tenant."""

    id: str


class NewMember(MemberChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A team or a user of a tenant."""

    tenant: str
    id: str


class KeyChange(Entitled, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of a key. `expires` is in Unix seconds, 0: never."""

    expires: int | UnsetType = UNSET


class NewKey(KeyChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key of a tenant, and perhaps of a team and a user of its."""

    tenant: str
    team: str = ""
    user: str = ""


class Rotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new secret for a key; the old one is good for so many seconds more."""

    grace_s: int = 3600


def check_token(value: str, field: str) -> str:
    """Refuse what cannot be a part of a subject, as tenants, teams and users are.

    Raises:
        InvalidRequest: `param` names the field.
    """
    if not routes.is_tenant(value):
        raise InvalidRequest(f"{field} {value[:80]!r}: use a-z, 0-9, _ and -, at most 64", param=field)
    return value


def check_grace(rotation: Rotation) -> int:
    """Raises InvalidRequest where the time is impossible."""
    if not 0 <= rotation.grace_s <= MAX_GRACE_S:
        raise InvalidRequest(f"grace_s is {rotation.grace_s}: use 0 to {MAX_GRACE_S} seconds", param="grace_s")
    return rotation.grace_s


def said(wanted: Entitled, *, now: float) -> dict[str, Any]:
    """Give the fields an entry is to have, as far as they were said; `now` in Unix seconds.

    Raises:
        InvalidRequest: one of them is impossible; `param` names it.
    """
    fields = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not UNSET}
    for name, value in fields.items():
        check = _CHECKS.get(name)
        if check is not None:
            check(value)
    if 0 < fields.get("expires", 0) <= now:
        raise _refused("expires", "is in the past")
    return fields


def _name(value: str) -> None:
    if len(value) > _MAX_NAME or not value.isprintable():
        raise _refused("name", f"is printable, at most {_MAX_NAME} characters")


def _lanes(value: tuple[str, ...]) -> None:
    if not value or set(value) - set(routes.LANES):
        raise _refused("lanes", f"are one or more of {', '.join(routes.LANES)}")


def _models(value: tuple[str, ...]) -> None:
    wrong = [one for one in value if not one.removeprefix(TAG) or len(one) > _MAX_NAME or not one.isprintable()]
    if wrong or len(value) > _MAX_MODELS:
        raise _refused("models", f"are at most {_MAX_MODELS} names, or {TAG}<tag>")


def _endpoints(value: tuple[str, ...]) -> None:
    known = (*TASKS, VECTORS)
    if set(value) - set(known):
        raise _refused("endpoints", f"are some of {', '.join(known)}; none for all")


def _max_tokens(value: int) -> None:
    if not 0 <= value <= MAX_TOKENS:
        raise _refused("max_tokens", f"is 0 (no bound) to {MAX_TOKENS}")


def _priority(value: int) -> None:
    if not -MAX_PRIORITY <= value <= MAX_PRIORITY:
        raise _refused("priority", f"is {-MAX_PRIORITY} to {MAX_PRIORITY}, 0 for none said")


def _weight(value: int) -> None:
    if not 1 <= value <= MAX_WEIGHT:
        raise _refused("weight", f"is 1 to {MAX_WEIGHT}")


def _expires(value: int) -> None:
    if not 0 <= value < 2**40:
        raise _refused("expires", "is in Unix seconds, 0 for never")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "name": _name, "lanes": _lanes, "models": _models, "endpoints": _endpoints, "max_tokens": _max_tokens,
    "priority": _priority, "expires": _expires, "weight": _weight,
}  # fmt: skip


def _refused(field: str, rule: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {rule}", param=field)

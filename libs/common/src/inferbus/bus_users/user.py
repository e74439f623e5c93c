"""One user of the bus, as its operators keep it: the public half of an NKey and what it is for. Never a seed."""

from __future__ import annotations

import os
import re

import msgspec
import nkeys  # type: ignore[import-untyped]  # it has no types

from inferbus.bus.credentials import public_key
from inferbus.errors import InvalidRequest
from inferbus.routes import is_tenant, token_safe

PRODUCER, WORKER = "producer", "worker"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NKEY = re.compile(r"U[A-Z2-7]{55}")


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One queue a worker may pull: a deployment of a model in a region."""

    pool: str
    runtime: str = "llm"
    region: str = "local"


class BusUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`role` is a user of the template (`gateway`, `worker`, ...) or `producer`, who belongs to a tenant. A worker without
    `pools` may pull every queue. Times are Unix seconds; `revoked` 0: it may connect."""

    name: str
    role: str
    nkey: str
    tenant: str = ""
    pools: tuple[Pool, ...] = ()
    created: int = 0
    revoked: int = 0

    @property
    def login(self) -> str:
        """What the process is given as `INFERBUS_BUS_USER`: it names the inboxes that nobody else may listen to."""
        if self.role == PRODUCER:
            return producer_login(self.tenant)
        return f"{WORKER}.{self.name}" if self.pools else self.role


def producer_login(tenant: str) -> str:
    """Give the `user` of a tenant's producers. A prefix of its own: a tenant may be called `gateway`."""
    return f"{PRODUCER}.{tenant}"


def new_seed() -> str:
    """Make the secret half of a user's NKey."""
    return str(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode())


def check_user(user: BusUser) -> BusUser:
    """Refuse a user who could never work, or whose fields would end up in the server's configuration as something else.

    Raises:
        InvalidRequest: the message names the field.
    """
    if not _NAME.fullmatch(user.name):
        raise InvalidRequest(f"name {user.name!r}: letters, digits, _ and -, at most 128", param="name")
    if not _NKEY.fullmatch(user.nkey):
        raise InvalidRequest("nkey is no public NKey of a user (U and 55 letters and digits)", param="nkey")
    if user.role == PRODUCER and not is_tenant(user.tenant):
        raise InvalidRequest(
            f"tenant {user.tenant!r}: a producer belongs to one; use a-z, 0-9, _ and -", param="tenant"
        )
    if user.role != PRODUCER and user.tenant:
        raise InvalidRequest("tenant is for producers", param="tenant")
    if user.role != WORKER and user.pools:
        raise InvalidRequest("pools are for workers", param="pools")
    for pool in user.pools:
        for field in ("pool", "runtime", "region"):
            value = getattr(pool, field)
            if not value or token_safe(value) != value:
                raise InvalidRequest(
                    f"{field} {value!r} is not a subject token (letters, digits, _ and -)", param=field
                )
    return user


def matches(user: BusUser, seed: str) -> bool:
    """Say whether a seed is this user's."""
    return public_key(seed) == user.nkey

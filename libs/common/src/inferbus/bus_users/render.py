"""The server's configuration with its users in it. Pure: a template and users in, text out."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from inferbus import routes
from inferbus.bus_users.template import TENANT, BadTemplate, Template
from inferbus.bus_users.user import PRODUCER, WORKER, BusUser, Pool, check_user, producer_login

_HEAD = "# Made by `inferbus bus-users` from the template: change that, or the users, not this file.\n"
_MAX_BUCKETS = 64  # of one pool: check_entry
_ANY_DIRECT = '"direct.>"'
_ANY_NEXT, _ANY_ACK = '"$JS.API.CONSUMER.MSG.NEXT.*.*"', '"$JS.ACK.>"'


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files as the server sees them. With `ca` it asks every client for a certificate signed by it."""

    cert: str
    key: str
    ca: str = ""


def render(template: Template, users: list[BusUser], tls: Tls | None = None) -> str:
    """Give the configuration in which exactly these users may connect; revoked ones are left out.

    Raises:
        BadTemplate: the template lacks a role, or what a user's own permissions are put in place of.
        InvalidRequest: a user is not well-formed.
    """
    entries = [_entry(template, check_user(user)) for user in users if not user.revoked]
    return _HEAD + template.before + "\n".join(entries) + template.after + (_tls(tls) if tls is not None else "")


def _entry(template: Template, user: BusUser) -> str:
    head = f"            # {user.name}\n            {{ nkey: {user.nkey}"
    body = _permissions(template, user)
    return f"{head}, permissions: {{\n{body}\n            }} }}" if body else f"{head} }}"


def _permissions(template: Template, user: BusUser) -> str:
    role = TENANT if user.role == PRODUCER else user.role
    if role not in template.roles or user.role == TENANT:
        known = ", ".join(sorted({*template.roles, PRODUCER} - {TENANT}))
        raise BadTemplate(f"{user.name}: there is no role {user.role!r}; roles are {known}")
    body = template.roles[role]
    if user.role == PRODUCER:
        body = _replaced(body, f"_INBOX_{TENANT}.", f"_INBOX_{producer_login(TENANT)}.")
        return _replaced(body, f".{TENANT}.", f".{user.tenant}.")
    if user.role == WORKER and user.pools:
        body = _replaced(body, _ANY_NEXT, _listed(subject for pool in user.pools for subject in _pulls(pool)))
        body = _replaced(body, _ANY_ACK, _listed(subject for pool in user.pools for subject in _acks(pool)))
        body = _replaced(body, f"_INBOX_{WORKER}.>", f"_INBOX_{user.login}.>")
        body = _replaced(body, _ANY_DIRECT, _listed(_direct(pool) for pool in user.pools))
    return body


def _replaced(body: str, old: str, new: str) -> str:
    if old not in body:
        raise BadTemplate(f"the template's permissions lack {old}, which has to be narrowed")
    return body.replace(old, new)


def _listed(subjects: Iterable[str]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)


def _consumers(pool: Pool) -> list[tuple[str, str]]:
    return [
        (routes.stream_infer(pool.region, pool.runtime, lane), routes.durable_worker(pool.pool, bucket))
        for lane in routes.LANES
        for bucket in range(_MAX_BUCKETS)
    ]


def _pulls(pool: Pool) -> list[str]:
    return [f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}" for stream, durable in _consumers(pool)]


def _direct(pool: Pool) -> str:
    return routes.direct_pool(region=pool.region, runtime=pool.runtime, pool=pool.pool)


def _acks(pool: Pool) -> list[str]:
    """Both forms of acknowledgement subjects (ADR-15 of NATS: the second has domain and account before the stream)."""
    found = _consumers(pool)
    return [f"$JS.ACK.{stream}.{durable}.>" for stream, durable in found] + [
        f"$JS.ACK.*.*.{stream}.{durable}.>" for stream, durable in found
    ]


def _tls(tls: Tls) -> str:
    lines = [f"    cert_file: {_quoted(tls.cert)}", f"    key_file: {_quoted(tls.key)}"]
    if tls.ca:
        lines += [f"    ca_file: {_quoted(tls.ca)}", "    verify: true"]
    return "\ntls {\n" + "\n".join(lines) + "\n}\n"


def _quoted(path: str) -> str:
    if '"' in path or "\\" in path or "\n" in path:
        raise BadTemplate(f"{path!r} cannot be written into the server's configuration")
    return f'"{path}"'

"""Audit events: what an operator changed, on `audit.<tenant>.<fact>`, kept in the stream AUDIT."""

from __future__ import annotations

from typing import Any

import msgspec


class AdminChanged(msgspec.Struct, frozen=True, kw_only=True, tag="admin.changed.v1"):
    """Somebody changes something: stored before the change is, so that none goes without it.

    `action` is `<what>_<done>` (`key_created`, `limits_set`); `target` names it in its bucket. `before` and `after` are
    the entries as JSON objects without the hashes of keys, None where there was, or is, nothing. `at` is the writer's clock in
    Unix seconds; the stream's own timestamp is the server's. `void` names an earlier event (`id`) whose change was not
    made after all.
    """

    id: str
    at: float
    actor: str
    action: str
    target: str
    tenant: str = ""
    request_id: str = ""
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    void: str = ""

"""The envelope: what travels in the headers of a work message. The body stays the caller's raw bytes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter

import msgspec

from inferbus.errors import InvalidRequest

WIRE_VERSION = "1"

REPLY, RESULTS = "reply", "results"
"""Modes of delivery: to the asker, or kept (docs/contracts.md, durable requests)."""


class UnknownVersion(Exception):
    """The message speaks a later wire version: transient, another worker may know it."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, tag="work.envelope.v1"):
    """Everything a worker must know besides the body. Absent optional fields are absent headers.

    `tag` is the asker's own integer for the request, `deadline_ms` the milliseconds that remained at
    publish (counted from the stream's timestamp, by server time), `model` the name the pool serves the request under
    where the body says an alias. `team` and `user` are the key's at that time: for the ledger. Work of a higher
    `priority` is served sooner by engines that have priorities, within its lane.
    `bound` is a length of the answer that the platform wrote into the body, since the client named none: an engine that has
    less room takes what it has. `json_bytes`: so long is the JSON in front of a body's binary tensors (KServe v2); 0: all
    of the body. `rows`: the body has so many rows of a batch, each a request (`contracts.groups`); 0: it is one request.
    """

    request_id: str
    tag_no: int
    asker: str
    path: str
    deadline_ms: int
    streamed: bool = False
    content_type: str = "application/json"
    key_id: str = ""
    price_version: str = ""
    traceparent: str = ""
    delivery: str = REPLY
    idempotency_key: str = ""
    ticket: str = ""
    model: str = ""
    team: str = ""
    user: str = ""
    priority: int = 0
    bound: int = 0
    json_bytes: int = 0
    rows: int = 0


HEADERS = {
    "Ib-Request": "request_id",
    "Ib-Tag": "tag_no",
    "Ib-Asker": "asker",
    "Ib-Path": "path",
    "Ib-Deadline-Ms": "deadline_ms",
    "Ib-Stream": "streamed",
    "Ib-Content-Type": "content_type",
    "Ib-Key": "key_id",
    "Ib-Price": "price_version",
    "traceparent": "traceparent",
    "Ib-Delivery": "delivery",
    "Ib-Idempotency-Key": "idempotency_key",
    "Ib-Ticket": "ticket",
    "Ib-Model": "model",
    "Ib-Team": "team",
    "Ib-User": "user",
    "Ib-Priority": "priority",
    "Ib-Bound": "bound",
    "Ib-Json-Bytes": "json_bytes",
    "Ib-Rows": "rows",
}
_DEFAULTS: dict[str, str | int] = {
    "Ib-Stream": False,
    "Ib-Content-Type": "application/json",
    "Ib-Delivery": REPLY,
    "Ib-Priority": 0,
    "Ib-Bound": 0,
    "Ib-Json-Bytes": 0,
    "Ib-Rows": 0,
}
_OWN = ("Ib-Request", "Ib-Tag", "traceparent", "Ib-Ticket", "Ib-Idempotency-Key")
"""What no other request has."""
_COMMON = [(name, field, _DEFAULTS.get(name, "")) for name, field in HEADERS.items() if name not in _OWN]
_common_of = attrgetter(*(field for _, field, _ in _COMMON))


def headers_of(envelope: Envelope) -> dict[str, str]:
    """Write an envelope as NATS headers; defaults are left out."""
    headers = {"Ib-Version": WIRE_VERSION, "Ib-Request": envelope.request_id, "Ib-Tag": str(envelope.tag_no)}
    headers.update(_common_headers(_common_of(envelope)))
    if envelope.traceparent:
        headers["traceparent"] = envelope.traceparent
    if envelope.ticket:
        headers["Ib-Ticket"] = envelope.ticket
    if envelope.idempotency_key:
        headers["Ib-Idempotency-Key"] = envelope.idempotency_key
    return headers


@lru_cache(maxsize=1024)
def _common_headers(values: tuple[str | int, ...]) -> dict[str, str]:
    """Write what one client's requests have in common: mostly as it was the last time."""
    return {
        name: value if type(value) is str else str(int(value))
        for (name, _, default), value in zip(_COMMON, values, strict=True)
        if value not in (default, "")
    }


def envelope_from(headers: Mapping[str, str] | None) -> Envelope:
    """Read an envelope from NATS headers.

    Raises:
        InvalidRequest: a header is missing or unreadable (permanent: dead letter).
        UnknownVersion: a later wire version (transient).
    """
    if not headers:
        raise InvalidRequest("work message without headers")
    version = headers.get("Ib-Version", "")
    if version != WIRE_VERSION:
        if version.isdigit():
            raise UnknownVersion(f"wire version {version}, this process speaks {WIRE_VERSION}")
        raise InvalidRequest(f"unreadable Ib-Version {version!r}")
    try:
        return Envelope(
            request_id=headers["Ib-Request"],
            tag_no=int(headers["Ib-Tag"]),
            asker=headers["Ib-Asker"],
            path=headers["Ib-Path"],
            deadline_ms=int(headers["Ib-Deadline-Ms"]),
            streamed=headers.get("Ib-Stream") == "1",
            content_type=headers.get("Ib-Content-Type", "application/json"),
            key_id=headers.get("Ib-Key", ""),
            price_version=headers.get("Ib-Price", ""),
            traceparent=headers.get("traceparent", ""),
            delivery=headers.get("Ib-Delivery", REPLY),
            idempotency_key=headers.get("Ib-Idempotency-Key", ""),
            ticket=headers.get("Ib-Ticket", ""),
            model=headers.get("Ib-Model", ""),
            team=headers.get("Ib-Team", ""),
            user=headers.get("Ib-User", ""),
            priority=int(headers.get("Ib-Priority", "0")),
            bound=int(headers.get("Ib-Bound", "0")),
            json_bytes=int(headers.get("Ib-Json-Bytes", "0")),
            rows=int(headers.get("Ib-Rows", "0")),
        )
    except KeyError as exc:
        raise InvalidRequest(f"work message without header {exc.args[0]}") from exc
    except ValueError as exc:
        raise InvalidRequest(f"unreadable header: {exc}") from exc

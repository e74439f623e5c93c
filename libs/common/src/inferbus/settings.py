"""Settings: one frozen Struct per service, read once from `INFERBUS_<SECTION>_<FIELD>`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar, get_origin

import msgspec

from inferbus.codec import field_of

S = TypeVar("S", bound=msgspec.Struct)
INCARNATION = "INFERBUS_RUNTIME_INCARNATION"
"""How a supervisor names the very start of a process it makes, so that it can tell of its death. No section: nobody sets it."""


class SettingsError(Exception):
    """A variable is unknown or has an unusable value; the message names it."""


class BusSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the bus is, and who this process is there (section BUS). Times in seconds.

    With an NKey (`nkey_seed`, or a file that has it) `user` only names the private inbox, and `password` is not used.
    `tls_ca` is a file of certificates to trust: the server must then offer TLS, as with a `tls://` url. `tls_cert` and `tls_key` are this process's
    own, where the server asks for one.
    """

    url: str = "nats://127.0.0.1:4222"
    user: str = ""
    password: str = ""
    region: str = "local"
    connect_timeout_s: float = 10.0
    nkey_seed: str = ""
    nkey_seed_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a worker or the topology process serves health and metrics (section HEALTH).

    Port 0: any free one, told by presence; a fixed one where Prometheus or a kubelet must find it from outside.
    """

    host: str = "127.0.0.1"
    port: int = 0


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logs and traces (section TELEMETRY). `sample_ratio` is decided before a span is made."""

    log_level: str = "info"
    sample_ratio: float = 0.0
    otlp_endpoint: str = ""
    trace_file: str = ""


def from_env(cls: type[S], section: str, env: Mapping[str, str] | None = None) -> S:
    """Read `INFERBUS_<SECTION>_<FIELD>` variables into `cls`; lists are comma separated.

    Raises:
        SettingsError: a variable of the section names no field, or its value does not fit the field's type.
    """
    source = os.environ if env is None else env
    prefix = f"INFERBUS_{section.upper()}_"
    fields = {field.encode_name: field for field in msgspec.structs.fields(cls)}
    values: dict[str, object] = {}
    for name, raw in source.items():
        if not name.startswith(prefix):
            continue
        field = name.removeprefix(prefix).lower()
        if field not in fields:
            known = ", ".join(sorted(prefix + other.upper() for other in fields))
            raise SettingsError(f"{name} is not a setting; known: {known}")
        values[field] = _items(raw) if get_origin(fields[field].type) in (list, tuple) else raw
    try:
        return msgspec.convert(values, type=cls, strict=False)
    except msgspec.ValidationError as exc:  # its text has types and no values: safe for passwords
        raise SettingsError(f"{prefix}{(field_of(exc) or '*').upper()}: {exc}") from exc


def _items(raw: str) -> list[str]:
    return [item.strip() for item in raw.split(",") if item.strip()]

"""Features: what is asked of the store and what it answers, events that are pushed into it, and the catalogue of what is there.

All of it is JSON. Kinds of values are called as in the catalogue: int32, int64, float32, float64, string, bool, bytes (base64),
timestamp (Unix seconds), and lists of these (`list<int64>`). Ages are seconds, times Unix seconds.
"""

from __future__ import annotations

from typing import Any

import msgspec

PRESENT, MISSING, STALE, DEFAULT = "present", "missing", "stale", "default"
"""What a value is: as it was written; not there (null); older than its view's `ttl_s`, and given all the same; not there, or
refused for its age, and replaced by the feature's default."""
STATUSES = (PRESENT, MISSING, STALE, DEFAULT)

REQUEST_ID, DEADLINE_MS, TRACEPARENT = "Ib-Request", "Ib-Deadline-Ms", "traceparent"
KEY, TEAM, USER = "Ib-Key", "Ib-Team", "Ib-User"
"""Headers of a request, none of them required: whose it is within its tenant (for the ledger), and how long its asker waits."""


class GetRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="features.get.v1"):
    """Asks a feature service for rows. `entities`: of each join key a list of values, one to a row, all of one length; or
    one value that holds for every row (one user and many items).

    `features`: only these of the service, in this order (none: all). `context`: values known at request time only, which
    on-demand transformations take; lists or single values, as entities. `max_age_s`: a value older than this is refused
    (`features_stale`), unless its feature has a default. `ages`: tell the age of every value, not only of stale ones.
    """

    entities: dict[str, Any]
    features: list[str] = []
    context: dict[str, Any] = {}
    max_age_s: float | None = None
    ages: bool = False


class FeatureColumn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One feature of all rows, in the request's order. `status` and `age_s` have one entry to a row, or none: then every
    value is `present`, and nobody asked how old. An age is null where it is not known, or need not be told."""

    name: str
    kind: str
    values: list[Any]
    status: list[str] = []
    age_s: list[float | None] = []


class FeatureFault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request, or one row of a push, was refused: a code of the error table, and the field it is about."""

    code: str
    message: str
    param: str = ""
    retry_after_s: float = 0.0


class GetAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="features.answer.v1"):
    """The columns asked for, or an `error` and no columns. `revision` is of the catalogue it was read with."""

    service: str
    rows: int = 0
    columns: list[FeatureColumn] = []
    revision: str = ""
    error: FeatureFault | None = None


# --- what is pushed -----------------------------------------------------------------------------------------------------


class PushMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="features.push.v1"):
    """Rows for a push source, each with its join keys, its event time in the source's timestamp field (Unix seconds or ISO
    8601), and values by name. `id` names the message for the server, which stores one of a name within two minutes."""

    rows: list[dict[str, Any]]
    id: str = ""


class RowFault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row that was not written: its place in the message, and why."""

    row: int
    fault: FeatureFault


# --- the catalogue ------------------------------------------------------------------------------------------------------

BATCH_VIEW, PUSH_VIEW, STREAM_VIEW, ON_DEMAND_VIEW = "batch", "push", "stream", "on_demand"


class EntityRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What features are of: `join_key` is the name requests and rows give its values under."""

    name: str
    join_key: str
    kind: str
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


class FeatureRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One feature of a view. `default` is given where there is no value; null: none is."""

    name: str
    kind: str
    default: Any = None
    description: str = ""
    tags: dict[str, str] = {}


class ViewRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A feature view: features of the same entities, from one source. `ttl_s` 0: nothing in it grows stale. `source` is the
    name of its push or batch source; an on-demand view has the `inputs` it is computed from instead (views, or request
    fields as `name:kind`). `aggregation` is what a windowed view is declared as, in its own form."""

    name: str
    entities: list[str] = []
    features: list[FeatureRecord] = []
    type: str = BATCH_VIEW
    ttl_s: float = 0.0
    online: bool = True
    source: str = ""
    inputs: list[str] = []
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}
    aggregation: dict[str, Any] = {}


class SourceRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where values come from: rows pushed under this name (`push`), or files (`batch`) at `path`."""

    name: str
    type: str
    timestamp_field: str = ""
    path: str = ""
    batch_source: str = ""
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


class ServiceRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A feature service, which is what is asked for: `features` as `view:feature`, where the view's name may be one of its own
    here (`aliases`: which view that is). A column is called as its feature, or `view__feature` where several views have one
    so called. `tenants` may ask for it (none: all may). `max_age_s` holds for requests that name none."""

    name: str
    features: list[str] = []
    join_keys: dict[str, str] = {}
    context: dict[str, str] = {}
    tenants: list[str] = []
    max_age_s: float | None = None
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}
    aliases: dict[str, str] = {}


class Catalogue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="features.catalogue.v1"):
    """All that is defined, in the bucket `features` under `catalogue`. `revision` is the SHA-256 (hex) of the registry, which
    lies there under `registry` as the store's own bytes."""

    project: str
    revision: str = ""
    applied_at: float = 0.0
    applied_by: str = ""
    entities: list[EntityRecord] = []
    sources: list[SourceRecord] = []
    views: list[ViewRecord] = []
    services: list[ServiceRecord] = []


class Compiled(msgspec.Struct, frozen=True, kw_only=True, tag="features.compiled.v1"):
    """A feature repository as it is stored: the registry's bytes and the catalogue of what is in it."""

    registry: bytes
    catalogue: Catalogue


CATALOGUE_KEY, REGISTRY_KEY = "catalogue", "registry"


# --- operations ---------------------------------------------------------------------------------------------------------


class ManageRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="features.manage.v1"):
    """One operation on `features.manage.<tenant>.<verb>`; `arguments` are the verb's."""

    arguments: dict[str, Any] = {}


class ManageReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="features.reply.v1"):
    """`data` has what was asked for, or `error` says why not."""

    data: Any = None
    error: FeatureFault | None = None


QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"


class FeatureJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="features.job.v1"):
    """Materialisation of a view from Parquet files (or, with `out`, all its windows into Parquet files there), in the bucket `feature_jobs` under `<tenant>.<id>`, changed by
    compare-and-set only.

    It is done in `slices` of its entities, of which `done` are; a slice may be done again. `paths` are files or globs the
    features service can read, `timestamp_column` and `arrived_column` columns of theirs ("": none). `until`: newer rows
    are left out (0: none are). `owner` is the process that works on it, alive as long as `beat` is not old.
    """

    id: str
    tenant: str
    view: str
    paths: list[str]
    timestamp_column: str = "event_timestamp"
    arrived_column: str = ""
    until: float = 0.0
    slices: int = 16
    done: int = 0
    rows: int = 0
    state: str = QUEUED
    error: str = ""
    created: float = 0.0
    ended: float = 0.0
    owner: str = ""
    beat: float = 0.0
    attempts: int = 0
    out: str = ""


class Lease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="features.lease.v1"):
    """Who does what only one process does, in the bucket `feature_jobs`; `beat` as of a job's owner."""

    owner: str = ""
    beat: float = 0.0


class PushAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of pushed rows: so many are stored (at `sequence` of the stream, 0: none) and written a moment later, the
    others are refused. `checked` false: no features process could look at them, and what is wrong with them becomes a dead
    letter."""

    accepted: int
    sequence: int = 0
    refused: list[RowFault] = []
    checked: bool = True

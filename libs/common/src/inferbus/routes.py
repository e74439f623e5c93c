"""Every subject, stream, bucket and durable name of the platform, built and parsed, and nothing else.

No subject is written anywhere else (a contract test looks) but in `route_table`, which says who sends what to whom.
The grammar is DESIGN.md section 2's.
"""

from __future__ import annotations

import re
import zlib

import msgspec

LANES = ("interactive", "batch")
INTERACTIVE, BATCH = LANES

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_TENANT = re.compile(r"[a-z0-9_-]{1,64}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def token_safe(name: str) -> str:
    """Turn any name into one subject token: characters other than letters, digits, `_` and `-` become `_`."""
    return _UNSAFE.sub("_", name)


def is_tenant(name: str) -> bool:
    return _TENANT.fullmatch(name) is not None


def is_request_id(name: str) -> bool:
    return _REQUEST_ID.fullmatch(name) is not None


def bucket_of(key: str, count: int) -> int:
    """Give the bucket of a tenant (or prefix) among `count`: stable across processes and versions."""
    return zlib.crc32(key.encode()) % count if count > 1 else 0


# --- the producers' door -------------------------------------------------------------------------------------------


def request(tenant: str, model: str, lane: str) -> str:
    return f"request.{tenant}.{token_safe(model)}.{lane}"


def request_filter(lane: str) -> str:
    return f"request.*.*.{lane}"


class RequestSubject(msgspec.Struct, frozen=True):
    tenant: str
    model: str
    lane: str


def parse_request(subject: str) -> RequestSubject:
    _, tenant, model, lane = subject.split(".")
    return RequestSubject(tenant, model, lane)


def reply(tenant: str, client: str) -> str:
    return f"reply.{tenant}.{client}"


def reply_prefix(tenant: str) -> str:
    return f"reply.{tenant}."


# --- work -----------------------------------------------------------------------------------------------------------


def infer(*, region: str, runtime: str, pool: str, lane: str, bucket: int, tenant: str) -> str:
    return f"infer.{region}.{runtime}.{pool}.{lane}.{bucket}.{tenant}"


def infer_pool(*, region: str, runtime: str, pool: str, lane: str) -> str:
    """The subjects of one pool and lane: what a work stream lists."""
    return f"infer.{region}.{runtime}.{pool}.{lane}.>"


INFER_ALL = "infer.>"


def infer_bucket(*, region: str, runtime: str, pool: str, lane: str, bucket: int) -> str:
    """The subjects of one bucket: what a worker's consumer filters."""
    return f"infer.{region}.{runtime}.{pool}.{lane}.{bucket}.*"


class InferSubject(msgspec.Struct, frozen=True):
    region: str
    runtime: str
    pool: str
    lane: str
    bucket: int
    tenant: str


def parse_infer(subject: str) -> InferSubject:
    _, region, runtime, pool, lane, bucket, tenant = subject.split(".")
    return InferSubject(region, runtime, pool, lane, int(bucket), tenant)


def direct(*, region: str, runtime: str, pool: str, tenant: str) -> str:
    """Work that is in no stream; answered in its reply."""
    return f"direct.{region}.{runtime}.{pool}.{tenant}"


def direct_pool(*, region: str, runtime: str, pool: str) -> str:
    """What a pool's workers take, as one queue group."""
    return f"direct.{region}.{runtime}.{pool}.*"


QUEUE_DIRECT = "workers"


class DirectSubject(msgspec.Struct, frozen=True):
    region: str
    runtime: str
    pool: str
    tenant: str


def parse_direct(subject: str) -> DirectSubject:
    _, region, runtime, pool, tenant = subject.split(".")
    return DirectSubject(region, runtime, pool, tenant)


# --- between askers and workers --------------------------------------------------------------------------------------


def step_of(asker: str) -> str:
    return f"step.{asker}"


def control_of(worker: str, verb: str) -> str:
    return f"control.{worker}.{verb}"


def control_all(worker: str) -> str:
    return f"control.{worker}.*"


def verb_of(subject: str) -> str:
    return subject.rsplit(".", 1)[1]


def cancel(tenant: str, request_id: str) -> str:
    return f"cancel.{tenant}.{request_id}"


CANCEL_ALL = "cancel.*.*"


def parse_cancel(subject: str) -> tuple[str, str]:
    _, tenant, request_id = subject.split(".")
    return tenant, request_id


def presence(region: str, process: str) -> str:
    return f"presence.{region}.{process}"


def presence_all(region: str) -> str:
    return f"presence.{region}.*"


# --- payloads, dead letters -------------------------------------------------------------------------------------------


def pay(tenant: str, ticket: str, n: int) -> str:
    return f"pay.{tenant}.{ticket}.{n}"


def pay_filter(tenant: str, ticket: str) -> str:
    return f"pay.{tenant}.{ticket}.*"


def dlq(original_subject: str) -> str:
    return f"dlq.{original_subject}"


# --- durable requests -----------------------------------------------------------------------------------------------


def deltas(tenant: str, request_id: str) -> str:
    return f"deltas.{tenant}.{request_id}"


def results(tenant: str, request_id: str) -> str:
    return f"results.{tenant}.{request_id}"


STORED_DELTAS, STORED_RESULTS = "stored.deltas", "stored.results"


def stored_filter(tenant: str, request_id: str) -> str:
    """What the server sends on of one request, once it is stored: its deltas and its outcome."""
    return f"stored.*.{tenant}.{request_id}"


def is_stored_result(subject: str) -> bool:
    return subject.startswith(STORED_RESULTS)


def fetch(tenant: str, request_id: str) -> str:
    return f"fetch.{tenant}.{request_id}"


FETCH_ALL = "fetch.*.*"
QUEUE_FETCH = "gateways"


def parse_fetch(subject: str) -> tuple[str, str]:
    _, tenant, request_id = subject.split(".")
    return tenant, request_id


def tenant_key(tenant: str, name: str) -> str:
    """A key of a tenant's in the buckets `requests` and `idempotency`."""
    return f"{tenant}.{name}"


# --- facts ------------------------------------------------------------------------------------------------------------

FACT_REQUEST_CANCELLED = "request_cancelled"
FACT_BUDGET_THRESHOLD = "budget_threshold"
FACT_PREDICTION = "prediction_logged"


def event(service: str, fact: str) -> str:
    return f"events.{service}.{fact}"


# --- the ledger ---------------------------------------------------------------------------------------------------------


def usage(tenant: str, pool: str) -> str:
    return f"usage.{tenant}.{pool}"


def usage_filter(tenant: str = "*") -> str:
    return f"usage.{tenant}.*"


STREAM_USAGE, SUBJECTS_USAGE = "USAGE", "usage.*.*"
KV_PRICES, KV_TOTALS, KV_LEDGER = "prices", "totals", "ledger"


# --- batch ----------------------------------------------------------------------------------------------------------------

STREAM_BATCH_CHUNKS, STREAM_BATCH_PARTS = "BATCH_CHUNKS", "BATCH_PARTS"
SUBJECTS_BATCH_CHUNKS, SUBJECTS_BATCH_PARTS = "batch.chunk.*.*.*", "batch.part.*.*.*"
KV_JOBS = "jobs"


def batch_chunk(tenant: str, job: str, plan: str) -> str:
    """Chunks of a job, as one run of planning has made them."""
    return f"batch.chunk.{tenant}.{job}.{plan}"


def batch_chunks_of(tenant: str, job: str) -> str:
    return f"batch.chunk.{tenant}.{job}.*"


def durable_chunks(job: str) -> str:
    """The consumer of a job's chunks."""
    return job


def batch_part(tenant: str, job: str, n: int) -> str:
    return f"batch.part.{tenant}.{job}.{n}"


def batch_parts_of(tenant: str, job: str) -> str:
    return f"batch.part.{tenant}.{job}.*"


def line_request(job: str, line: int, attempt: int = 1) -> str:
    """The request id of a line: of the first time it is asked, or of another that a stored failure made necessary."""
    return f"{job}-{line}" if attempt == 1 else f"{job}-{line}-r{attempt}"


# --- features -------------------------------------------------------------------------------------------------------------

STREAM_FEATURES, SUBJECTS_FEATURES = "FEATURES", "features.push.*.*"
KV_FEATURES, KV_FEATURE_JOBS = "features", "feature_jobs"
DURABLE_FEATURES = "features_writer"
FEATURES_GET_ALL, FEATURES_MANAGE_ALL = "features.get.*.*", "features.manage.*.*"
QUEUE_FEATURES = "features"
FEATURES_POOL = "features"
ADMITTED_INBOXES = ("_INBOX_gateway.", "_INBOX_worker.")
"""Where answers go to those who have asked on behalf of somebody they have admitted: the bus lets nobody else listen there."""


def features_model(service: str) -> str:
    """What a feature service is called where models are: in entitlements, limits, prices and the ledger."""
    return f"features:{service}"


def features_get(tenant: str, service: str) -> str:
    """Rows of a feature service."""
    return f"features.get.{tenant}.{token_safe(service)}"


def features_push(tenant: str, source: str) -> str:
    """Rows for a push source."""
    return f"features.push.{tenant}.{token_safe(source)}"


def push_name(tenant: str, source: str, name: str) -> str:
    """The message id of a push that has a name."""
    return f"{tenant}:{source}:{name}"


def features_pushes(tenant: str) -> str:
    """A tenant's pushes to whatever source."""
    return f"features.push.{tenant}.*"


def features_manage(tenant: str, verb: str) -> str:
    return f"features.manage.{tenant}.{verb}"


class FeaturesSubject(msgspec.Struct, frozen=True):
    """`name` is a service's, a push source's or a verb's."""

    tenant: str
    name: str


def parse_features(subject: str) -> FeaturesSubject:
    _, _, tenant, name = subject.split(".")
    return FeaturesSubject(tenant, name)


# --- vectors --------------------------------------------------------------------------------------------------------------

STREAM_VECTORS = "VECTORS"
SUBJECTS_VECTORS = "vectors.index.*.*"
VECTORS_SEARCH_ALL, VECTORS_MANAGE_ALL = "vectors.search.*.*", "vectors.manage.*.*"
DURABLE_VECTORS = "indexer"
QUEUE_VECTORS = "vectors"
POOL_VECTORS = "vectors"
"""Stands where a pool would in what vector operations used."""
KV_COLLECTIONS = "collections"
FACT_DOCUMENTS_FAILED = "documents_failed"
KV_VECTOR_STORES = "vector_stores"
KV_WATCHLISTS, KV_WATCH_HITS = "watchlists", "watch_hits"
VECTORS_WATCH_ALL = "vectors.watch.*.*"
FACT_WATCH_HIT = "watch_hit"


def vectors_watch(tenant: str, verb: str) -> str:
    """Something about a tenant's watchlists, or dead letters."""
    return f"vectors.watch.{tenant}.{verb}"


def watch_hit_key(tenant: str, watchlist: str, hit: str) -> str:
    return f"{tenant}.{watchlist}.{hit}"


def vectors_index(tenant: str, collection: str) -> str:
    """Documents for a collection, or an alias of one."""
    return f"vectors.index.{tenant}.{collection}"


def vectors_search(tenant: str, collection: str) -> str:
    return f"vectors.search.{tenant}.{collection}"


def vectors_manage(tenant: str, verb: str) -> str:
    return f"vectors.manage.{tenant}.{verb}"


class VectorsSubject(msgspec.Struct, frozen=True):
    """`name` is a collection's or an alias's, or a verb."""

    tenant: str
    name: str


def parse_vectors(subject: str) -> VectorsSubject:
    _, _, tenant, name = subject.split(".")
    return VectorsSubject(tenant, name)


# --- what operators change ---------------------------------------------------------------------------------------------

PLATFORM, ADMIN = "PLATFORM", "ADMIN"
"""Stand where a tenant would: in what belongs to none, and in what the admin API keeps. No tenant's name has capitals."""


def audit(tenant: str, fact: str) -> str:
    return f"audit.{tenant or PLATFORM}.{fact}"


STREAM_AUDIT, SUBJECTS_AUDIT = "AUDIT", "audit.*.*"


# --- quota ------------------------------------------------------------------------------------------------------------

STREAM_QUOTA, STREAM_QUOTA_LONG = "QUOTA", "QUOTA_LONG"
SUBJECTS_QUOTA, SUBJECTS_QUOTA_LONG = ("quota.minute.*.*.*",), ("quota.day.*.*.*", "quota.month.*.*.*")


def quota(span: str, tenant: str, what: str, window: int) -> str:
    """A counter of one window; `span` is minute, day or month, and leads to the stream that keeps it long enough."""
    return f"quota.{span}.{tenant}.{token_safe(what)}.{window}"


def spent_of(counter: str) -> str:
    """The counter of what was settled, beside the one of what was granted."""
    head, window = counter.rsplit(".", 1)
    return f"{head}-spent.{window}"


class QuotaSubject(msgspec.Struct, frozen=True):
    span: str
    tenant: str
    what: str
    window: int


def parse_quota(subject: str) -> QuotaSubject:
    _, span, tenant, what, window = subject.split(".")
    return QuotaSubject(span, tenant, what, int(window))


def slots_key(tenant: str, what: str) -> str:
    """A key of the bucket `slots`."""
    return f"{tenant}.{token_safe(what)}"


def turn_key(server: str, model: str) -> str:
    """A key of the bucket `turns`; a model's name may have any characters."""
    return f"{server}.{token_safe(model)}-{zlib.crc32(model.encode()):08x}"


# --- streams, durables, buckets ----------------------------------------------------------------------------------------

STREAM_REQUEST, STREAM_PAY, STREAM_DLQ, STREAM_EVENTS = "REQUEST", "PAY", "DLQ", "EVENTS"
STREAM_DELTAS, STREAM_RESULTS = "DELTAS", "RESULTS"
SUBJECTS_DELTAS, SUBJECTS_RESULTS = "deltas.*.*", "results.*.*"
SUBJECTS_PAY, SUBJECTS_DLQ, SUBJECTS_EVENTS = "pay.*.*.*", "dlq.>", "events.*.*"
KV_KEYS, KV_MODELS = "keys", "models"
KV_REQUESTS, KV_IDEMPOTENCY = "requests", "idempotency"
KV_DIRECTORY, KV_LIMITS, KV_SLOTS, KV_OUTSTANDING = "directory", "limits", "slots", "outstanding"
KV_TURNS = "turns"
KV_FILES = "files"
KV_BUCKETS = (
    KV_KEYS, KV_MODELS, KV_REQUESTS, KV_IDEMPOTENCY, KV_DIRECTORY, KV_LIMITS, KV_SLOTS,
    KV_PRICES, KV_TOTALS, KV_LEDGER, KV_OUTSTANDING,
    KV_JOBS,
    KV_FILES,
    KV_TURNS,
    KV_FEATURES, KV_FEATURE_JOBS,
    KV_COLLECTIONS,
    KV_VECTOR_STORES,
    KV_WATCHLISTS, KV_WATCH_HITS,
)  # fmt: skip
KV_EXPIRING = (KV_REQUESTS, KV_IDEMPOTENCY)
"""Buckets whose keys go by themselves, as long after their last change as outcomes are kept."""


def stream_infer(region: str, runtime: str, lane: str) -> str:
    return f"INFER_{region}_{runtime}_{lane}"


def durable_worker(pool: str, bucket: int) -> str:
    return f"{pool}_{bucket}"


def durable_door(lane: str) -> str:
    return f"gateway_{lane}"


def kv_stream(bucket: str) -> str:
    return f"KV_{bucket}"


def kv_subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"

"""What every stream, consumer and bucket is to be. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from inferbus import routes
from inferbus.contracts.models import ModelEntry
from inferbus.topology.stream_memory import Create

ACK_WAIT_S = 8.0
"""The lease of work. `IntakeSettings.ack_wait_s` is the same (docs/adr/0010-leases.md)."""
USAGE_WINDOW_S = 600.0
"""For how long the ledger's stream knows a request's name again."""
_MAX_ACK_PENDING = 20_000


class TopologySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section TOPOLOGY. `replicas` 1 on one server, 3 on a cluster over zones. `deltas_storage` is file, or memory: then a
    restart of the server empties the stream, and workers write again what they have. `create` says which missing streams
    are made: auto (those that were not there before), always, never; `known_streams` is the file that remembers them."""

    process: str = "topology-0"
    replicas: int = 1
    pay_max_bytes: int = 4 * 1024 * 1024 * 1024
    dlq_max_age_s: float = 30 * 86_400
    events_max_bytes: int = 256 * 1024 * 1024
    events_max_age_s: float = 7 * 86_400
    deltas_storage: str = "file"
    deltas_max_bytes: int = 512 * 1024 * 1024
    deltas_max_age_s: float = 3600.0
    results_max_bytes: int = 1024 * 1024 * 1024
    results_max_age_s: float = 86_400.0
    requests_max_bytes: int = 256 * 1024 * 1024
    usage_max_bytes: int = -1
    usage_max_age_s: float = 400 * 86_400
    create: Create = "auto"
    known_streams: str = ""
    audit_max_bytes: int = 1024 * 1024 * 1024
    audit_max_age_s: float = 400 * 86_400
    quota_max_age_s: float = 600.0
    quota_long_max_age_s: float = 40 * 86_400.0
    batch_max_bytes: int = 1024 * 1024 * 1024
    batch_parts_max_age_s: float = 40 * 86_400.0
    features_max_bytes: int = 2 * 1024 * 1024 * 1024
    features_max_age_s: float = 7 * 86_400.0
    vectors_max_bytes: int = 4 * 1024 * 1024 * 1024
    watch_hits_max_age_s: float = 90 * 86_400.0
    watch_hits_max_bytes: int = 256 * 1024 * 1024


def stream_configs(settings: TopologySettings, region: str, models: list[ModelEntry]) -> list[dict[str, Any]]:
    """Give the configuration of every stream, `models` included. Pure."""
    common: dict[str, Any] = {
        "num_replicas": settings.replicas,
        "storage": "file",
        "allow_direct": True,
        "allow_msg_ttl": True,
        "max_consumers": -1,
        "duplicate_window": int(120e9),
    }
    work = common | {"retention": "workqueue", "discard": "new"}
    configs = [
        work | {"name": routes.STREAM_REQUEST, "subjects": [routes.request_filter(lane) for lane in routes.LANES]},
        common
        | {
            "name": routes.STREAM_PAY,
            "subjects": [routes.SUBJECTS_PAY],
            "discard": "new",
            "max_bytes": settings.pay_max_bytes,
        },
        common
        | {"name": routes.STREAM_DLQ, "subjects": [routes.SUBJECTS_DLQ], "max_age": int(settings.dlq_max_age_s * 1e9)},
        common
        | {
            "name": routes.STREAM_EVENTS,
            "subjects": [routes.SUBJECTS_EVENTS],
            "discard": "old",
            "deny_delete": True,
            "max_bytes": settings.events_max_bytes,
            "max_age": int(settings.events_max_age_s * 1e9),
        },
    ]
    configs.append(_audit_config(settings, common))
    configs.extend(_durable_configs(settings, common))
    configs.append(_usage_config(settings, common))
    configs.extend(_batch_configs(settings, common))
    configs.extend(_quota_configs(settings, common))
    configs.append(_features_config(settings, common))
    configs.append(_vectors_config(settings, common))
    kv = common | {"max_msgs_per_subject": 1, "discard": "new", "deny_delete": True, "allow_rollup_hdrs": True}
    expiring = {
        "max_age": int(settings.results_max_age_s * 1e9),
        "max_bytes": settings.requests_max_bytes,
        "discard": "old",
    }
    configs.extend(
        kv
        | {"name": routes.kv_stream(bucket), "subjects": [routes.kv_subject(bucket, ">")]}
        | (expiring if bucket in routes.KV_EXPIRING else {})
        | (_watch_hits_bounds(settings) if bucket == routes.KV_WATCH_HITS else {})
        for bucket in routes.KV_BUCKETS
    )
    for runtime_ in sorted({model.runtime for model in models}):
        pools = sorted({model.pool for model in models if model.runtime == runtime_})
        bound = max(model.limits.max_pending_per_tenant for model in models if model.runtime == runtime_)
        for lane in routes.LANES:
            subjects = [routes.infer_pool(region=region, runtime=runtime_, pool=pool, lane=lane) for pool in pools]
            configs.append(
                work
                | {
                    "name": routes.stream_infer(region, runtime_, lane),
                    "subjects": subjects,
                    "max_msgs_per_subject": bound,
                    "discard_new_per_subject": True,
                }
            )
    return configs


def _audit_config(settings: TopologySettings, common: dict[str, Any]) -> dict[str, Any]:
    """Give the stream of operators' changes: nobody, the operator included, may take anything out of it."""
    return common | {
        "name": routes.STREAM_AUDIT,
        "subjects": [routes.SUBJECTS_AUDIT],
        "discard": "old",
        "deny_delete": True,
        "deny_purge": True,
        "max_bytes": settings.audit_max_bytes,
        "max_age": int(settings.audit_max_age_s * 1e9),
    }


def _quota_configs(settings: TopologySettings, common: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the streams of counters: minutes go soon, days and months stay. They have no bound in bytes (a counter's stream
    cannot refuse, and one that makes room begins limits anew); one subject takes some 350 bytes, of each limit and window."""
    counters = common | {
        "allow_msg_ttl": False,  # the server refuses a TTL on a counter
        "allow_msg_counter": True,
        "max_msgs_per_subject": 1,
        "discard": "old",
        "deny_delete": True,
    }
    return [
        counters | {"name": name, "subjects": list(subjects), "max_age": int(age_s * 1e9)}
        for name, subjects, age_s in (
            (routes.STREAM_QUOTA, routes.SUBJECTS_QUOTA, settings.quota_max_age_s),
            (routes.STREAM_QUOTA_LONG, routes.SUBJECTS_QUOTA_LONG, settings.quota_long_max_age_s),
        )
    ]


def _durable_configs(settings: TopologySettings, common: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the streams of durable requests. What they store the server sends on to readers: in order, only what was
    stored, and without a consumer each (docs/adr/0008-durable-answers.md)."""

    def kept(name: str, subjects: str, prefix: str, max_bytes: int, max_age_s: float) -> dict[str, Any]:
        return common | {
            "name": name,
            "subjects": [subjects],
            "discard": "old",
            "max_bytes": max_bytes,
            "max_age": int(max_age_s * 1e9),
            "republish": {"src": subjects, "dest": f"{prefix}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}"},
        }

    deltas = kept(
        routes.STREAM_DELTAS,
        routes.SUBJECTS_DELTAS,
        routes.STORED_DELTAS,
        settings.deltas_max_bytes,
        settings.deltas_max_age_s,
    )
    results = kept(
        routes.STREAM_RESULTS,
        routes.SUBJECTS_RESULTS,
        routes.STORED_RESULTS,
        settings.results_max_bytes,
        settings.results_max_age_s,
    )
    return [deltas | {"storage": settings.deltas_storage}, results | {"max_msgs_per_subject": 1}]


def _batch_configs(settings: TopologySettings, common: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the queue of chunks, whose consumers come and go with their jobs, and the stream of committed parts: one
    message to a part, for ever the first (docs/adr/0016-batch.md). Where they are full, planning and committing wait."""
    bounded = common | {"discard": "new", "max_bytes": settings.batch_max_bytes}
    return [
        bounded
        | {
            "name": routes.STREAM_BATCH_CHUNKS,
            "subjects": [routes.SUBJECTS_BATCH_CHUNKS],
            "retention": "workqueue",
        },
        bounded
        | {
            "name": routes.STREAM_BATCH_PARTS,
            "subjects": [routes.SUBJECTS_BATCH_PARTS],
            "max_age": int(settings.batch_parts_max_age_s * 1e9),
        },
    ]


def _features_config(settings: TopologySettings, common: dict[str, Any]) -> dict[str, Any]:
    """Give the stream of pushed rows. It is no work queue: whoever writes the online store acknowledges, and windows read the
    same messages by their sequence. Where it is full, producers are refused, and nothing that was accepted is lost."""
    return common | {
        "name": routes.STREAM_FEATURES,
        "subjects": [routes.SUBJECTS_FEATURES],
        "discard": "new",
        "max_bytes": settings.features_max_bytes,
        "max_age": int(settings.features_max_age_s * 1e9),
    }


def _vectors_config(settings: TopologySettings, common: dict[str, Any]) -> dict[str, Any]:
    """Give the queue of documents to be indexed. Where it is full, producers are refused and told when to come again."""
    return common | {
        "name": routes.STREAM_VECTORS,
        "subjects": [routes.SUBJECTS_VECTORS],
        "retention": "workqueue",
        "discard": "new",
        "max_bytes": settings.vectors_max_bytes,
    }


def _watch_hits_bounds(settings: TopologySettings) -> dict[str, Any]:
    """Say how long hits of watchlists stay: evidence that somebody is to look at."""
    return {
        "max_age": int(settings.watch_hits_max_age_s * 1e9), "max_bytes": settings.watch_hits_max_bytes, "discard": "old",
    }  # fmt: skip


def _usage_config(settings: TopologySettings, common: dict[str, Any]) -> dict[str, Any]:
    """Give the ledger's stream. Nothing is taken out of it before its time: where it is full, writers are refused and
    say so (docs/adr/0013-ledger.md)."""
    return common | {
        "name": routes.STREAM_USAGE,
        "subjects": [routes.SUBJECTS_USAGE],
        "discard": "new",
        "deny_delete": True,
        "max_bytes": settings.usage_max_bytes,
        "max_age": int(settings.usage_max_age_s * 1e9),
        "duplicate_window": int(USAGE_WINDOW_S * 1e9),
    }


def consumer_configs(region: str, models: list[ModelEntry]) -> list[tuple[str, dict[str, Any]]]:
    """Give (stream, configuration) of every durable consumer. Pure."""
    common: dict[str, Any] = {
        "ack_policy": "explicit",
        "ack_wait": int(ACK_WAIT_S * 1e9),
        "max_deliver": -1,
        "max_ack_pending": _MAX_ACK_PENDING,
        "max_waiting": 2048,
        "deliver_policy": "all",
        "replay_policy": "instant",
    }
    consumers = [
        (
            routes.STREAM_REQUEST,
            common | {"durable_name": routes.durable_door(lane), "filter_subject": routes.request_filter(lane)},
        )
        for lane in routes.LANES
    ]
    consumers.append(
        (
            routes.STREAM_FEATURES,
            common | {"durable_name": routes.DURABLE_FEATURES, "filter_subject": routes.SUBJECTS_FEATURES},
        )
    )
    consumers.append(
        (
            routes.STREAM_VECTORS,
            common | {"durable_name": routes.DURABLE_VECTORS, "filter_subject": routes.SUBJECTS_VECTORS},
        )
    )
    pools = {(model.runtime, model.pool): model.buckets.count for model in models}
    for (runtime_, pool), count in sorted(pools.items()):
        for lane in routes.LANES:
            for bucket in range(count):
                filter_ = routes.infer_bucket(region=region, runtime=runtime_, pool=pool, lane=lane, bucket=bucket)
                consumers.append(
                    (
                        routes.stream_infer(region, runtime_, lane),
                        common | {"durable_name": routes.durable_worker(pool, bucket), "filter_subject": filter_},
                    )
                )
    return consumers

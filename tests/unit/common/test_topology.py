"""Topology's configurations, as functions of the models."""

from __future__ import annotations

from typing import Any

from inferbus import routes
from inferbus.contracts.models import Buckets, Limits, ModelEntry
from inferbus.topology.configs import ACK_WAIT_S, TopologySettings, consumer_configs, stream_configs

CHAT = ModelEntry(name="chat", pool="chat_1")
OTHER = ModelEntry(name="other", pool="other_1", buckets=Buckets(count=3), limits=Limits(max_pending_per_tenant=2000))
EMBED = ModelEntry(name="mini", pool="mini_1", runtime="embed", tasks=("embeddings",))


def streams(*models: ModelEntry, region: str = "eu") -> dict[str, dict[str, Any]]:
    return {config["name"]: config for config in stream_configs(TopologySettings(), region, list(models))}


def consumers(*models: ModelEntry) -> dict[tuple[str, str], dict[str, Any]]:
    return {(stream, config["durable_name"]): config for stream, config in consumer_configs("eu", list(models))}


def test_without_models_there_are_the_fixed_streams_only() -> None:
    assert set(streams()) == {
        "REQUEST",
        "PAY",
        "DLQ",
        "EVENTS",
        "AUDIT",
        "USAGE",
        "DELTAS",
        "RESULTS",
        "QUOTA",
        "QUOTA_LONG",
        "BATCH_CHUNKS",
        "BATCH_PARTS",
        "FEATURES",
        "VECTORS",
    } | {
        f"KV_{bucket}"
        for bucket in (
            "keys",
            "models",
            "requests",
            "idempotency",
            "directory",
            "limits",
            "slots",
            "outstanding",
            "prices",
            "totals",
            "ledger",
            "jobs",
            "files",
            "turns",
            "features",
            "feature_jobs",
            "collections",
            "vector_stores",
            "watchlists",
            "watch_hits",
        )
    }
    assert set(consumers()) == {
        ("REQUEST", "gateway_interactive"),
        ("REQUEST", "gateway_batch"),
        ("FEATURES", "features_writer"),
        ("VECTORS", "indexer"),
    }


def test_a_stream_per_runtime_and_lane_lists_its_pools() -> None:
    found = streams(OTHER, EMBED, CHAT)
    assert found["INFER_eu_llm_batch"]["subjects"] == ["infer.eu.llm.chat_1.batch.>", "infer.eu.llm.other_1.batch.>"]
    assert found["INFER_eu_embed_interactive"]["subjects"] == ["infer.eu.embed.mini_1.interactive.>"]
    assert len(found) == len(streams()) + 2 * 2


def test_two_models_of_one_pool_are_one_subject() -> None:
    twin = ModelEntry(name="chat-again", pool="chat_1")
    assert len(streams(CHAT, twin)["INFER_eu_llm_batch"]["subjects"]) == 1
    assert set(consumers(CHAT, twin)) == set(consumers(CHAT))


def test_work_streams_are_bounded_queues_that_refuse() -> None:
    config = streams(CHAT, OTHER)["INFER_eu_llm_interactive"]
    assert (config["retention"], config["discard"]) == ("workqueue", "new")
    assert (config["max_msgs_per_subject"], config["discard_new_per_subject"]) == (2000, True), (
        "the largest of its pools'"
    )


def test_every_stream_has_what_the_code_relies_on() -> None:
    for config in streams(CHAT).values():
        assert config["max_consumers"] == -1, "2.15 stops at 1,000 otherwise"
        assert config["allow_msg_ttl"] != config.get("allow_msg_counter", False), "a counter takes no TTL"
        assert config["allow_direct"]
        assert config["storage"] == "file"
    assert streams()["KV_keys"]["max_msgs_per_subject"] == 1


def test_a_consumer_per_bucket_and_lane() -> None:
    found = consumers(OTHER)
    durables = {durable for stream, durable in found if stream == "INFER_eu_llm_batch"}
    assert durables == {"other_1_0", "other_1_1", "other_1_2"}
    assert found["INFER_eu_llm_batch", "other_1_2"]["filter_subject"] == "infer.eu.llm.other_1.batch.2.*"
    for config in found.values():
        assert config["max_deliver"] == -1
        assert config["ack_policy"] == "explicit"
        assert config["ack_wait"] == ACK_WAIT_S * 1e9


def test_every_work_subject_is_in_one_stream_and_one_consumer() -> None:
    models = [CHAT, OTHER, EMBED]
    for model in models:
        for lane in routes.LANES:
            for bucket in range(model.buckets.count):
                subject = routes.infer(
                    region="eu", runtime=model.runtime, pool=model.pool, lane=lane, bucket=bucket, tenant="dev"
                )
                takers = [name for name, config in streams(*models).items() if _matches(config["subjects"], subject)]
                assert takers == [routes.stream_infer("eu", model.runtime, lane)]
                filters = [
                    key for key, config in consumers(*models).items() if _matches([config["filter_subject"]], subject)
                ]
                assert filters == [(takers[0], routes.durable_worker(model.pool, bucket))]


def _matches(patterns: list[str], subject: str) -> bool:
    tokens = subject.split(".")
    for pattern in patterns:
        wanted = pattern.split(".")
        if wanted[-1] == ">":
            if len(tokens) >= len(wanted) and all(w in ("*", t) for w, t in zip(wanted[:-1], tokens, strict=False)):
                return True
        elif len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True)):
            return True
    return False


def test_the_ledger_s_stream_forgets_and_deletes_nothing() -> None:
    config = streams()["USAGE"]
    assert (config["discard"], config["deny_delete"]) == ("new", True)
    assert config["max_age"] == 400 * 86_400 * 10**9
    assert config["duplicate_window"] == 600 * 10**9

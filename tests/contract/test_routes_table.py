"""Every subject is a row of the table, is built and parsed to its row's shape, and is in the stream its row says."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from inferbus import routes
from inferbus.contracts.control import VERBS
from inferbus.contracts.models import ModelEntry
from inferbus.route_table import ROUTES, Route
from inferbus.topology.configs import TopologySettings, consumer_configs, stream_configs

MODEL = ModelEntry(name="m", pool="p")
BUILT = {
    "request": routes.request("dev", "m", "batch"),
    "reply": routes.reply("dev", "client"),
    "infer": routes.infer(region="local", runtime="llm", pool="p", lane="batch", bucket=0, tenant="dev"),
    "direct": routes.direct(region="local", runtime="triton", pool="m", tenant="dev"),
    "step": routes.step_of("a1"),
    "control": routes.control_of("w-0", VERBS[0]),
    "cancel": routes.cancel("dev", "r1"),
    "presence": routes.presence("local", "w-0"),
    "pay": routes.pay("dev", "t1", 0),
    "deltas": routes.deltas("dev", "r1"),
    "results": routes.results("dev", "r1"),
    "stored": f"{routes.STORED_DELTAS}.dev.r1",
    "fetch": routes.fetch("dev", "r1"),
    "dlq": routes.dlq("anything"),
    "events": routes.event("gateway", routes.FACT_REQUEST_CANCELLED),
    "usage": routes.usage("dev", "p"),
    "batch.chunk": routes.batch_chunk("dev", "batch_1", "p1"),
    "batch.part": routes.batch_part("dev", "batch_1", 0),
    "vectors.index": routes.vectors_index("dev", "docs"),
    "vectors.search": routes.vectors_search("dev", "docs"),
    "vectors.manage": routes.vectors_manage("dev", "create"),
    "vectors.watch": routes.vectors_watch("dev", "match"),
    "audit": routes.audit("dev", "key_created"),
    "quota": routes.quota("minute", "dev", "org-tpm", 29_000_000),
    "quota.wanted": routes.quota_wanted("dev"),
    "quota.freed": routes.quota_freed("a1"),
    "features.get": routes.features_get("dev", "ranking"),
    "features.push": routes.features_push("dev", "clicks"),
    "features.manage": routes.features_manage("dev", "freshness"),
}
FILTERS = {
    "request": [routes.request_filter("batch"), routes.request_filter("interactive")],
    "infer": [
        routes.infer_pool(region="local", runtime="llm", pool="p", lane="batch"),
        routes.infer_bucket(region="local", runtime="llm", pool="p", lane="batch", bucket=0),
    ],
    "control": [routes.control_all("w-0")],
    "cancel": [routes.CANCEL_ALL],
    "presence": [routes.presence_all("local")],
    "pay": [routes.SUBJECTS_PAY, routes.pay_filter("dev", "t1")],
    "deltas": [routes.SUBJECTS_DELTAS],
    "results": [routes.SUBJECTS_RESULTS],
    "stored": [routes.stored_filter("dev", "r1")],
    "fetch": [routes.FETCH_ALL],
    "dlq": [routes.SUBJECTS_DLQ],
    "events": [routes.SUBJECTS_EVENTS],
    "usage": [routes.SUBJECTS_USAGE, routes.usage_filter("dev")],
    "batch.chunk": [routes.SUBJECTS_BATCH_CHUNKS, routes.batch_chunks_of("dev", "batch_1")],
    "batch.part": [routes.SUBJECTS_BATCH_PARTS, routes.batch_parts_of("dev", "batch_1")],
    "features.get": [routes.FEATURES_GET_ALL],
    "features.push": [routes.SUBJECTS_FEATURES],
    "features.manage": [routes.FEATURES_MANAGE_ALL],
    "vectors.index": [routes.SUBJECTS_VECTORS],
    "vectors.search": [routes.VECTORS_SEARCH_ALL],
    "vectors.manage": [routes.VECTORS_MANAGE_ALL],
    "vectors.watch": [routes.VECTORS_WATCH_ALL],
    "audit": [routes.SUBJECTS_AUDIT],
    "quota": [routes.SUBJECTS_QUOTA[0]],
}


def matches(pattern: str, subject: str) -> bool:
    regex = re.escape(pattern).replace(r"\*", r"[^.]+")
    return re.fullmatch(regex.removesuffix(">") + ".+" if pattern.endswith(">") else regex, subject) is not None


def takers(subject: str, patterns: Iterable[tuple[str, list[str]]]) -> list[str]:
    return [name for name, subjects in patterns if any(matches(pattern, subject) for pattern in subjects)]


def test_every_row_has_a_builder_here_and_a_name_of_its_own() -> None:
    assert [route.name for route in ROUTES] == list(BUILT)
    assert len({route.subject for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_what_is_built_has_the_row_s_shape(route: Route) -> None:
    template = re.sub(r"\\\{\w+\\\}", "[^.]+", re.escape(route.subject))
    assert re.fullmatch(template, BUILT[route.name]), route.subject
    assert route.subject.startswith(f"{route.name}."), "the first tokens name the row"


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_filters_take_their_row_and_no_other(name: str) -> None:
    for pattern in FILTERS[name]:
        if name == "request" and "batch" not in pattern:
            continue
        assert [row for row, subject in BUILT.items() if matches(pattern, subject)] == [name], pattern


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_jetstream_rows_are_in_one_stream_and_core_rows_in_none(route: Route) -> None:
    streams = [(config["name"], config["subjects"]) for config in stream_configs(TopologySettings(), "local", [MODEL])]
    found = takers(BUILT[route.name], streams)
    assert len(found) == (route.transport == "jetstream"), found


def test_streams_do_not_overlap() -> None:
    subjects = [
        subject for config in stream_configs(TopologySettings(), "local", [MODEL]) for subject in config["subjects"]
    ]
    for subject in subjects:
        example = subject.replace("*", "x").replace(">", "x.y")
        assert [other for other in subjects if matches(other, example)] == [subject]


def test_every_consumer_filters_what_its_stream_has() -> None:
    streams = {config["name"]: config["subjects"] for config in stream_configs(TopologySettings(), "local", [MODEL])}
    for stream, config in consumer_configs("local", [MODEL]):
        example = config["filter_subject"].replace("*", "x")
        assert any(matches(subject, example) for subject in streams[stream])


def test_rows_say_who_and_what() -> None:
    for route in ROUTES:
        assert route.transport in ("core", "jetstream")
        assert route.sender
        assert route.receiver
        assert route.summary.endswith(".")


def test_names_of_streams_and_durables_are_one_token() -> None:
    names = [config["name"] for config in stream_configs(TopologySettings(), "local", [MODEL])]
    names += [config["durable_name"] for _, config in consumer_configs("local", [MODEL])]
    assert all(routes.token_safe(name) == name for name in names)

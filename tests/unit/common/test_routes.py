"""Routes: what is built parses back, and no name becomes more than one token."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus import routes

TOKEN = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
TENANT = st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True)
LANE = st.sampled_from(routes.LANES)


@given(st.text(max_size=80))
def test_token_safe_makes_one_token_and_changes_it_no_more(name: str) -> None:
    safe = routes.token_safe(name)
    assert re.fullmatch(r"[A-Za-z0-9_-]*", safe)
    assert len(safe) == len(name)
    assert routes.token_safe(safe) == safe


@pytest.mark.parametrize(("name", "safe"), [("Qwen/Qwen3-0.6B", "Qwen_Qwen3-0_6B"), ("a b*>.", "a_b___"), ("", "")])
def test_token_safe(name: str, safe: str) -> None:
    assert routes.token_safe(name) == safe


@given(tenant=TENANT, model=TOKEN, lane=LANE)
def test_request_subjects(tenant: str, model: str, lane: str) -> None:
    subject = routes.request(tenant, model, lane)
    assert routes.parse_request(subject) == routes.RequestSubject(tenant, model, lane)


@given(region=TOKEN, runtime=TOKEN, pool=TOKEN, lane=LANE, bucket=st.integers(0, 63), tenant=TENANT)
def test_infer_subjects(region: str, runtime: str, pool: str, lane: str, bucket: int, tenant: str) -> None:
    subject = routes.infer(region=region, runtime=runtime, pool=pool, lane=lane, bucket=bucket, tenant=tenant)
    assert routes.parse_infer(subject) == routes.InferSubject(region, runtime, pool, lane, bucket, tenant)
    of_pool = routes.infer_pool(region=region, runtime=runtime, pool=pool, lane=lane)
    of_bucket = routes.infer_bucket(region=region, runtime=runtime, pool=pool, lane=lane, bucket=bucket)
    assert subject.startswith(of_pool.removesuffix(">"))
    assert subject.startswith(of_bucket.removesuffix("*"))


@given(tenant=TENANT, request_id=TOKEN)
def test_cancel_subjects(tenant: str, request_id: str) -> None:
    assert routes.parse_cancel(routes.cancel(tenant, request_id)) == (tenant, request_id)


@given(worker=TOKEN, verb=TOKEN)
def test_control_verbs(worker: str, verb: str) -> None:
    assert routes.verb_of(routes.control_of(worker, verb)) == verb


@pytest.mark.parametrize("subject", ["request.dev.m", "request.dev.m.interactive.more", ""])
def test_other_shapes_are_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="unpack"):
        routes.parse_request(subject)


@given(st.text(max_size=70))
def test_tenants_and_request_ids_are_tokens(name: str) -> None:
    if routes.is_tenant(name):
        assert re.fullmatch(r"[a-z0-9_-]{1,64}", name)
    if routes.is_request_id(name):
        assert routes.token_safe(name) == name


@pytest.mark.parametrize("name", ["dev\n", "a.b", "a b", "*", ">", "", "x" * 129])
def test_dangerous_names_are_neither(name: str) -> None:
    assert not routes.is_tenant(name)
    assert not routes.is_request_id(name)


@given(key=st.text(max_size=30), count=st.integers(1, 64))
def test_a_bucket_is_one_of_them_and_always_the_same(key: str, count: int) -> None:
    bucket = routes.bucket_of(key, count)
    assert 0 <= bucket < count
    assert bucket == routes.bucket_of(key, count)


def test_buckets_are_the_same_in_every_process_and_version() -> None:
    assert [routes.bucket_of(name, 16) for name in ("dev", "acme", "globex")] == [5, 14, 10]

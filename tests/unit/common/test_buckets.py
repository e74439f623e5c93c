"""Which bucket is a tenant's, what a bucket weighs, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.contracts.models import Buckets
from inferbus.errors import InvalidRequest
from inferbus.queue.buckets import bucket_for, check_buckets, weights_of
from inferbus.routes import bucket_of

TENANT = st.from_regex(r"[a-z0-9_-]{1,16}", fullmatch=True)


@given(tenant=TENANT, count=st.integers(1, 64))
def test_without_pins_the_hash_decides(tenant: str, count: int) -> None:
    assert bucket_for(Buckets(count=count), tenant) == bucket_of(tenant, count)


@given(tenant=TENANT, count=st.integers(2, 64), pins=st.dictionaries(TENANT, st.integers(0, 63), max_size=8))
def test_a_pinned_bucket_takes_only_those_pinned_to_it(tenant: str, count: int, pins: dict[str, int]) -> None:
    pins = {name: bucket % count for name, bucket in pins.items()}
    bucket = bucket_for(Buckets(count=count, pinned=pins), tenant)
    assert 0 <= bucket < count
    if tenant in pins:
        assert bucket == pins[tenant]
    elif len(set(pins.values())) < count:
        assert bucket not in pins.values()
        if bucket_of(tenant, count) not in pins.values():
            assert bucket == bucket_of(tenant, count), "a pin moves only those whose bucket it takes"


def test_with_every_bucket_pinned_the_others_are_hashed_to_all() -> None:
    assert bucket_for(Buckets(count=2, pinned={"a": 0, "b": 1}), "globex") == bucket_of("globex", 2)


def test_a_bucket_weighs_what_its_heaviest_tenant_does() -> None:
    buckets = Buckets(count=4, pinned={"acme": 1, "globex": 1, "dev": 2}, weights={"acme": 3, "globex": 5})
    assert weights_of(buckets, {}) == [1, 5, 1, 1]
    assert weights_of(buckets, {"globex": 50, "dev": 7}) == [1, 5, 7, 1], "the pool's own setting goes first"
    assert weights_of(buckets, {"dev": 4000}) == [1, 5, 100, 1]
    assert weights_of(Buckets(), {"dev": 2}) == [2]


@pytest.mark.parametrize(
    ("buckets", "param"),
    [
        (Buckets(count=0), "buckets"),
        (Buckets(count=65), "buckets"),
        (Buckets(count=4, pinned={"acme": 4}), "buckets.pinned"),
        (Buckets(count=4, pinned={"acme": -1}), "buckets.pinned"),
        (Buckets(count=4, pinned={"A b": 1}), "buckets.pinned"),
        (Buckets(count=4, by="prefix", pinned={"acme": 1}), "buckets.pinned"),
        (Buckets(count=4, weights={"acme": 0}), "buckets.weights"),
        (Buckets(count=4, weights={"acme": 101}), "buckets.weights"),
        (Buckets(count=4, weights={"": 1}), "buckets.weights"),
    ],
)
def test_what_could_never_work_is_refused_by_field(buckets: Buckets, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_buckets(buckets)
    assert caught.value.param == param


def test_the_bounds_themselves_are_taken() -> None:
    check_buckets(Buckets(count=64, pinned={"acme": 63}, weights={"acme": 100, "dev": 1}))

"""Buckets: which of a pool's buckets is a tenant's, and what weight each has. Pure.

A bucket that tenants are pinned to takes only those: the others share the rest by a hash of their names. A pin moves
nobody but the pinned and those whose bucket it takes.
"""

from __future__ import annotations

from collections.abc import Mapping

from inferbus import routes
from inferbus.contracts.models import Buckets
from inferbus.errors import InvalidRequest
from inferbus.queue.fair_share import MAX_WEIGHT

MAX_COUNT = 64


def bucket_for(buckets: Buckets, tenant: str) -> int:
    """Give the bucket a tenant's requests go to."""
    if not buckets.pinned:
        return routes.bucket_of(tenant, buckets.count)
    pinned = buckets.pinned.get(tenant)
    if pinned is not None:
        return pinned
    bucket = routes.bucket_of(tenant, buckets.count)
    taken = set(buckets.pinned.values())
    if bucket not in taken:
        return bucket
    free = [number for number in range(buckets.count) if number not in taken]
    return free[routes.bucket_of(tenant, len(free))] if free else bucket


def weights_of(buckets: Buckets, tenants: Mapping[str, int]) -> list[int]:
    """Give every bucket's weight: the greatest of its tenants', 1 where none has one.

    The greatest and not the sum: a sum would hand the shares of tenants that ask for nothing to the one that floods. A
    tenant that must have its whole share whoever else is there is pinned to a bucket of its own. `tenants` are weights from
    elsewhere, such as the organisations' entitlements; the pool's own setting goes before them.
    """
    weights = [1] * buckets.count
    for tenant, weight in {**tenants, **buckets.weights}.items():
        bucket = bucket_for(buckets, tenant)
        weights[bucket] = max(weights[bucket], min(weight, MAX_WEIGHT))
    return weights


def check_buckets(buckets: Buckets) -> None:
    """Refuse buckets that could never work.

    Raises:
        InvalidRequest: the message and `param` name the field.
    """
    if not 1 <= buckets.count <= MAX_COUNT or buckets.by not in ("tenant", "prefix"):
        raise InvalidRequest(f"buckets: count is 1..{MAX_COUNT}, by is tenant or prefix", param="buckets")
    for field, values in (("pinned", buckets.pinned), ("weights", buckets.weights)):
        param = f"buckets.{field}"
        if values and buckets.by != "tenant":
            raise InvalidRequest(f"{param} is of tenants, and buckets.by is {buckets.by}", param=param)
        for tenant in values:
            if not routes.is_tenant(tenant):
                raise InvalidRequest(f"{param}: {tenant!r} is not a tenant's name", param=param)
    for tenant, bucket in buckets.pinned.items():
        if not 0 <= bucket < buckets.count:
            message = f"buckets.pinned: {tenant} is pinned to {bucket}, the buckets are 0..{buckets.count - 1}"
            raise InvalidRequest(message, param="buckets.pinned")
    for tenant, weight in buckets.weights.items():
        if not 1 <= weight <= MAX_WEIGHT:
            message = f"buckets.weights: {tenant} has {weight}, a weight is 1..{MAX_WEIGHT}"
            raise InvalidRequest(message, param="buckets.weights")

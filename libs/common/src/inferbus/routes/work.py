"""Work: the producers' door, the queues of pools, and what is delivered directly."""

from __future__ import annotations

import msgspec

from inferbus.routes.names import token_safe

__all__ = [
    "INFER_ALL", "QUEUE_DIRECT", "DirectSubject", "InferSubject", "RequestSubject", "direct", "direct_pool", "infer",
    "infer_bucket", "infer_pool", "parse_direct", "parse_infer", "parse_request", "reply", "reply_prefix", "request",
    "request_filter",
]  # fmt: skip


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

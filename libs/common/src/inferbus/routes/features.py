"""Features: reads, pushes, management."""

from __future__ import annotations

import msgspec

from inferbus.routes.names import token_safe

__all__ = [
    "ADMITTED_INBOXES", "DURABLE_FEATURES", "FEATURES_GET_ALL", "FEATURES_MANAGE_ALL", "FEATURES_POOL", "KV_FEATURES",
    "KV_FEATURE_JOBS", "QUEUE_FEATURES", "STREAM_FEATURES", "SUBJECTS_FEATURES", "FeaturesSubject", "features_get",
    "features_manage", "features_model", "features_push", "features_pushes", "parse_features", "push_name",
]  # fmt: skip

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

"""Between askers and workers: steps, control, presence, payloads, dead letters, and requests whose outcome is kept."""

from __future__ import annotations

__all__ = [
    "CANCEL_ALL", "FETCH_ALL", "QUEUE_FETCH", "STORED_DELTAS", "STORED_RESULTS", "cancel", "control_all",
    "control_of", "deltas", "dlq", "fetch", "is_stored_result", "parse_cancel", "parse_fetch", "pay", "pay_filter",
    "presence", "presence_all", "results", "step_of", "stored_filter", "tenant_key", "verb_of",
]  # fmt: skip


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


def pay(tenant: str, ticket: str, n: int) -> str:
    return f"pay.{tenant}.{ticket}.{n}"


def pay_filter(tenant: str, ticket: str) -> str:
    return f"pay.{tenant}.{ticket}.*"


def dlq(original_subject: str) -> str:
    return f"dlq.{original_subject}"


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

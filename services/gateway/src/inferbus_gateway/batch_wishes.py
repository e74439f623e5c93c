"""What somebody wants a batch to do, checked before any work: who may ask for it, and whether it can be done at all."""

from __future__ import annotations

import hashlib
import re
import time

from inferbus.admission.entitlements import check_model
from inferbus.admission.identity import Identity
from inferbus.batch.job_book import new_job_id
from inferbus.contracts.batch import ENDPOINTS, JobRecord
from inferbus.contracts.files import BATCH_INPUT, FileRecord
from inferbus.errors import Forbidden, InvalidRequest, NotFound, Unsupported
from inferbus.routes import BATCH
from inferbus_gateway.http.batch_shapes import NewBatch
from inferbus_gateway.http.files import checked_expiry
from inferbus_gateway.ports import ModelLister

_WINDOW = re.compile(r"(\d{1,5})([mhd])", re.ASCII)
_UNIT_S = {"m": 60, "h": 3600, "d": 86_400}
_MAX_WINDOW_S = 30 * 86_400
_QUIET = re.compile(
    r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d(,([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)*"
)
_MAX_METADATA, _MAX_KEY, _MAX_VALUE = 16, 64, 512
_PRIORITY = 100


def check_may_batch(identity: Identity, endpoint: str) -> None:
    """Refuse a batch somebody may not ask for.

    Raises:
        InvalidRequest: there is no such endpoint. Forbidden: the lane or the endpoint is not open to this key.
    """
    if endpoint not in ENDPOINTS:
        raise InvalidRequest(
            f"endpoint is {endpoint[:80]!r}; it must be one of {', '.join(ENDPOINTS)}", param="endpoint"
        )
    if BATCH not in identity.lanes:
        raise Forbidden("the batch lane is not open to this key", param="lane")
    if identity.endpoints and ENDPOINTS[endpoint] not in identity.endpoints:
        raise Forbidden(f"the endpoint {ENDPOINTS[endpoint]} is not open to this key", param="endpoint")


def check_batch_model(identity: Identity, models: ModelLister, model: str, endpoint: str) -> None:
    """Refuse a model for all lines that none of them could use.

    Raises:
        NotFound, Forbidden, Unsupported: there is none, it is not open to this key, it cannot do this.
    """
    entry = models.resolve(model)
    if entry is None:
        raise NotFound(f"The model `{model[:80]}` does not exist or you do not have access to it.", param="model")
    check_model(identity, entry)
    if ENDPOINTS[endpoint] not in entry.tasks:
        raise Unsupported(f"The model `{entry.name}` does not support {ENDPOINTS[endpoint]}.", param="model")


def check_input(file: FileRecord) -> None:
    """Raises InvalidRequest where a file cannot be a batch's input."""
    if file.purpose != BATCH_INPUT:
        raise InvalidRequest(f"{file.id} has the purpose {file.purpose}, not {BATCH_INPUT}", param="input_file_id")
    if not file.bytes:
        raise InvalidRequest(f"the file {file.id} is empty", param="input_file_id")


def job_of(identity: Identity, new: NewBatch, *, idempotency_key: str = "", traceparent: str = "") -> JobRecord:
    """Make the record of a new job. With an idempotency key its id follows from that, so that it is made once.

    Raises:
        InvalidRequest: a field is impossible; `param` names it.
    """
    now = time.time()
    expires_s = 0
    if new.output_expires_after is not None:
        wanted = new.output_expires_after
        expires_s = checked_expiry(wanted.anchor, wanted.seconds, "output_expires_after")
    if not -_PRIORITY <= new.priority <= _PRIORITY:
        raise InvalidRequest(f"priority is from {-_PRIORITY} to {_PRIORITY}", param="priority")
    if new.quiet_hours and _QUIET.fullmatch(new.quiet_hours) is None:
        raise InvalidRequest("quiet_hours are like 08:00-18:00, several with commas between", param="quiet_hours")
    return JobRecord(
        id=job_id_for(identity.tenant, idempotency_key) if idempotency_key else new_job_id(),
        tenant=identity.tenant, endpoint=new.endpoint, input_file_id=new.input_file_id, created=now,
        expires_at=now + window_s(new.completion_window), completion_window=new.completion_window,
        key_id=identity.key_id, metadata=_checked_metadata(new.metadata or {}), model=new.model, priority=new.priority,
        quiet_hours=new.quiet_hours, traceparent=traceparent, output_expires_s=expires_s,
    )  # fmt: skip


def is_same_wish(one: JobRecord, other: JobRecord) -> bool:
    """Whether two records of one id ask for the same."""
    names = (
        "tenant", "endpoint", "completion_window", "metadata", "model", "priority", "quiet_hours", "retry_of",
        "output_expires_s",
    )  # fmt: skip
    given = one.input_file_id == other.input_file_id or bool(one.retry_of)  # that one's file is made later
    return given and all(getattr(one, name) == getattr(other, name) for name in names)


def job_id_for(tenant: str, idempotency_key: str) -> str:
    """Name a job after an idempotency key."""
    digest = hashlib.sha256(f"{tenant}/{idempotency_key}".encode()).hexdigest()
    return f"batch_{digest[:24]}"


def window_s(text: str) -> int:
    """Read a completion window, in seconds.

    Raises:
        InvalidRequest: it is none.
    """
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _UNIT_S[match[2]] if match is not None else 0
    if not 0 < seconds <= _MAX_WINDOW_S:
        raise InvalidRequest(
            f"completion_window is {text[:20]!r}; it must be 24h, or another number of m, h or d up to 30d",
            param="completion_window",
        )
    return seconds


def _checked_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > _MAX_METADATA:
        raise InvalidRequest(f"metadata has {len(metadata)} pairs, the limit is {_MAX_METADATA}", param="metadata")
    for key, value in metadata.items():
        if len(key) > _MAX_KEY or len(value) > _MAX_VALUE:
            raise InvalidRequest(
                f"keys have up to {_MAX_KEY} characters, values up to {_MAX_VALUE}", param=f"metadata.{key[:_MAX_KEY]}"
            )
    return metadata

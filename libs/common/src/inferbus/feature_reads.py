"""Asking for features over the bus: what gateways, Triton workers and the SDK share. Knows no store."""

from __future__ import annotations

from typing import Any

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.waiting import NoResponders
from inferbus.codec import to_json
from inferbus.contracts import features as wire
from inferbus.contracts.features import FeatureFault, GetAnswer, GetRequest
from inferbus.errors import DependencyDown, InferbusError, Transient, error_from

_SLACK_S = 0.25
"""The service answers at the deadline that a request could not be read; whoever asks should not be first."""
DEADLINE_S = 5.0
_answers = msgspec.json.Decoder(GetAnswer)


class _Ended(msgspec.Struct):
    """Of an answer, whether it is one, and how many rows it has."""

    rows: int = 0
    error: FeatureFault | None = None


_endings = msgspec.json.Decoder(_Ended)


class ReadAsker(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, within a tenant, and how long that one waits (seconds)."""

    tenant: str
    key_id: str = ""
    team: str = ""
    user: str = ""
    request_id: str = ""
    traceparent: str = ""
    deadline_s: float = DEADLINE_S

    def headers(self) -> dict[str, str]:
        given = {
            wire.KEY: self.key_id, wire.TEAM: self.team, wire.USER: self.user, wire.REQUEST_ID: self.request_id,
            wire.TRACEPARENT: self.traceparent,
        }  # fmt: skip
        deadline = {wire.DEADLINE_MS: str(max(1, int(self.deadline_s * 1000)))}
        return deadline | {name: value for name, value in given.items() if value}


async def read_features(bus: Bus, asker: ReadAsker, service: str, request: GetRequest) -> GetAnswer:
    """Read rows of a feature service.

    Raises:
        InferbusError: what the service refused it for (`param` names the field), or why it could not be asked.
    """
    data = await _ask(bus, asker, service, to_json(request))
    answer = _decoded(_answers, data)
    if answer.error is not None:
        raise error_of(answer.error)
    found: GetAnswer = answer
    return found


async def pass_on(bus: Bus, asker: ReadAsker, service: str, body: bytes) -> tuple[bytes, int]:
    """Ask with a body as it came; gives the answer's bytes as they came, and how many rows are in it. Raises as
    `read_features`."""
    data = await _ask(bus, asker, service, body)
    ended = _decoded(_endings, data)
    if ended.error is not None:
        raise error_of(ended.error)
    return data, ended.rows


def error_of(fault: FeatureFault) -> InferbusError:
    """Rebuild an error that crossed the bus."""
    error = error_from(fault.code, fault.message)
    error.param = fault.param or None
    if isinstance(error, Transient) and fault.retry_after_s:
        error.retry_after_s = fault.retry_after_s
    return error


async def _ask(bus: Bus, asker: ReadAsker, service: str, body: bytes) -> bytes:
    subject = routes.features_get(asker.tenant, service)
    try:
        message = await bus.request(subject, body, asker.headers(), timeout_s=asker.deadline_s + _SLACK_S)
    except NoResponders:
        raise DependencyDown("no features service is there to ask") from None
    return message.data


def _decoded(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise InferbusError(f"an answer of the features service cannot be read: {exc}") from exc

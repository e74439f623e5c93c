"""PubAck: the error code decides; nats-py's class for a status does not."""

from __future__ import annotations

import pytest

from inferbus.bus.pub_ack import WrongSequence, sequence_of
from inferbus.errors import DependencyDown, InferbusError, NotFound, Overloaded, TenantOverloaded, TooLarge


@pytest.mark.parametrize("data", [b'{"stream":"S","seq":7}', b'{"stream":"S","seq":7,"duplicate":true,"domain":"hub"}'])
def test_stored(data: bytes) -> None:
    assert sequence_of(data) == 7


@pytest.mark.parametrize(
    ("code", "err_code", "description", "cls"),
    [
        (503, 10077, "maximum messages per subject exceeded", TenantOverloaded),
        (503, 10077, "maximum messages exceeded", Overloaded),
        (503, 10077, "maximum bytes exceeded", Overloaded),
        (503, 10023, "insufficient resources", Overloaded),
        (500, 10047, "insufficient storage resources available", Overloaded),
        (400, 10054, "message size exceeds maximum allowed", TooLarge),
        (404, 10059, "stream not found", NotFound),
        (503, 10008, "system temporarily unavailable", DependencyDown),
        (400, 10071, "wrong last sequence: 1", WrongSequence),
    ],
)
def test_refused(code: int, err_code: int, description: str, cls: type[InferbusError]) -> None:
    answer = b'{"error":{"code":%d,"err_code":%d,"description":"%s"},"stream":"S","seq":0}'
    with pytest.raises(cls) as caught:
        sequence_of(answer % (code, err_code, description.encode()))
    assert type(caught.value) is cls


@pytest.mark.parametrize("data", [b"", b"+OK", b"[]"])
def test_an_unreadable_answer_is_none(data: bytes) -> None:
    with pytest.raises(DependencyDown):
        sequence_of(data)

"""PubAck: JetStream's answer to a publish, as a sequence or as one of our errors."""

from __future__ import annotations

import msgspec

from inferbus.errors import DependencyDown, InferbusError, NotFound, Overloaded, TenantOverloaded, TooLarge

_QUEUE_FULL, _MESSAGE_TOO_BIG = 10077, 10054
_WRONG_SEQUENCE = (10071, 10164)
_NO_SPACE = (10002, 10023, 10028, 10047)
"""The account's or the server's limit of memory or disk is reached."""
_NO_SPACE_RETRY_S = 5.0

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
"""Header: store this only if the newest message of the subject has this sequence (0: there is none)."""


class WrongSequence(InferbusError):
    """The subject's newest message is not the expected one: somebody else wrote, or the stream was emptied."""


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    """Where a message was stored. `duplicate`: it is not, one of the same name was there, under `seq`."""

    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


_decode = msgspec.json.Decoder(PubAck).decode


def sequence_of(data: bytes) -> int:
    """Give the sequence in the stream under which a message was stored.

    Raises: as `ack_of`.
    """
    return ack_of(data).seq


def ack_of(data: bytes) -> PubAck:
    """Read a publish's answer.

    Raises:
        TenantOverloaded, Overloaded, TooLarge, NotFound, DependencyDown: it was not. WrongSequence: it was not, because
            of `EXPECTED`.
    """
    try:
        ack = _decode(data)
    except msgspec.DecodeError as exc:
        raise DependencyDown(f"unreadable publish acknowledgement: {exc}") from exc
    if ack.error is None:
        return ack
    if ack.error.err_code in _WRONG_SEQUENCE:
        raise WrongSequence(ack.error.description)
    if ack.error.err_code == _QUEUE_FULL:
        if "per subject" in ack.error.description:
            raise TenantOverloaded("too many requests of this tenant wait or run for this model")
        raise Overloaded("the queue is full")
    if ack.error.err_code in _NO_SPACE:
        raise Overloaded("the bus has no space left to store requests", retry_after_s=_NO_SPACE_RETRY_S)
    if ack.error.err_code == _MESSAGE_TOO_BIG:
        raise TooLarge(ack.error.description)
    if ack.error.code == 404:
        raise NotFound(ack.error.description)
    raise DependencyDown(f"the bus refused the message: {ack.error.description} ({ack.error.err_code})")

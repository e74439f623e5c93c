"""Deliveries and their settlement: what is told to the server, and what a dead letter looks like."""

from __future__ import annotations

import pytest
from tests.unit.common.fakes import message

from inferbus.bus import Bus
from inferbus.contracts import dead_letter
from inferbus.errors import (
    Cancelled,
    DependencyDown,
    InferbusError,
    InvalidRequest,
    Overloaded,
    TooLarge,
)
from inferbus.queue.delivery import Delivery
from inferbus.queue.settlement import settle

SUBJECT = "request.dev.m.interactive"
ACK = "$JS.ACK.REQUEST.gateway_interactive.{attempt}.42.1.1763750000123456789.3"


class Desk:
    """The two things a delivery needs of a bus. `refusals` are raised by the next accepts, in turn."""

    def __init__(self, *refusals: InferbusError) -> None:
        self.verbs: list[bytes] = []
        self.letters: list[tuple[str, bytes, dict[str, str], str | None]] = []
        self.refusals = list(refusals)
        self.down = False

    def send(self, subject: str, data: bytes) -> None:
        if self.down:
            raise DependencyDown("away")
        assert subject.startswith("$JS.ACK.")
        self.verbs.append(data)

    send_soon = send

    async def accept(self, subject: str, data: bytes, headers: dict[str, str], *, msg_id: str | None = None) -> int:
        if self.refusals:
            raise self.refusals.pop(0)
        self.letters.append((subject, data, headers, msg_id))
        return 1

    def delivery(
        self, *, attempt: int = 1, headers: dict[str, str] | None = None, subject: str = SUBJECT, reply: str = ACK
    ) -> Delivery:
        bus: Bus = self  # type: ignore[assignment]  # a port in memory
        return Delivery(bus, message(subject, b"body", reply=reply.format(attempt=attempt), headers=headers))


@pytest.mark.parametrize(
    "reply",
    [ACK, "$JS.ACK.hub.Ahash.REQUEST.gateway_interactive.{attempt}.42.1.1763750000123456789.3.rnd"],
    ids=["form 1", "form 2"],
)
def test_both_forms_of_the_ack_subject(reply: str) -> None:
    delivery = Desk().delivery(attempt=3, reply=reply)
    assert (delivery.stream, delivery.attempt, delivery.seq, delivery.pending) == ("REQUEST", 3, 42, 3)
    assert delivery.stored_s == pytest.approx(1763750000.123456789)


async def test_verbs() -> None:
    desk = Desk()
    delivery = desk.delivery()
    delivery.progress()
    delivery.nak()
    delivery.nak(1.5)
    delivery.terminate()
    delivery.ack()
    assert desk.verbs == [b"+WPI", b"-NAK", b'-NAK {"delay": 1500000000}', b"+TERM", b"+ACK"]


async def test_a_verdict_that_cannot_be_sent_is_no_error() -> None:
    desk = Desk()
    desk.down = True
    desk.delivery().ack()


class TestDeadLetters:
    async def test_the_copy_has_body_headers_and_reason(self) -> None:
        desk = Desk()
        await desk.delivery(attempt=5, headers={"Ib-Request": "r"}).bury("internal", "it\nbroke  twice")
        ((subject, data, headers, msg_id),) = desk.letters
        assert (subject, data) == ("dlq." + SUBJECT, b"body")
        assert headers == {
            "Ib-Request": "r",
            dead_letter.REASON: "it broke twice",
            dead_letter.CODE: "internal",
            dead_letter.DELIVERIES: "5",
            dead_letter.SOURCE_SUBJECT: SUBJECT,
            dead_letter.SOURCE_SEQUENCE: "42",
        }
        assert msg_id == "dlq:REQUEST:42", "the same whoever buries it, however often"
        assert desk.verbs == [b"+TERM"]

    async def test_headers_the_server_obeys_and_those_nobody_may_send_are_not_copied(self) -> None:
        """`Nats-Expected-Stream: REQUEST` of a producer would have every copy refused, and the message come for ever."""
        desk = Desk()
        bad = {"Nats-Expected-Stream": "REQUEST", "nats-ttl": "1", "Nats-Rollup": "all", "no(token)": "x"}
        await desk.delivery(headers=bad | {"Ib-Request": "r"}).bury("internal", "x")
        names = set(desk.letters[0][2])
        assert "Ib-Request" in names
        assert not names & set(bad)

    async def test_what_is_too_large_with_our_headers_is_kept_without_body(self) -> None:
        desk = Desk(TooLarge("8 MB"))
        await desk.delivery(headers={"Ib-Request": "r"}).bury("internal", "x")
        ((_, data, headers, _),) = desk.letters
        assert data == b""
        assert headers[dead_letter.TRUNCATED] == "4"
        assert headers[dead_letter.CODE] == "internal"
        assert "Ib-Request" not in headers
        assert desk.verbs == [b"+TERM"]

    async def test_a_very_long_subject_is_cut(self) -> None:
        desk = Desk()
        subject = "request.dev." + "ä" * 2000 + ".interactive"
        await desk.delivery(subject=subject).bury("internal", "x")
        letter, _, headers, _ = desk.letters[0]
        assert len(letter.encode()) < 1000
        assert not letter.endswith(".")
        assert headers[dead_letter.SOURCE_SUBJECT] == subject

    @pytest.mark.parametrize(
        "refusals", [[DependencyDown("away")], [Overloaded("full")], [TooLarge("x"), DependencyDown("away")]]
    )
    async def test_a_letter_that_cannot_be_stored_ends_nothing(self, refusals: list[InferbusError]) -> None:
        desk = Desk(*refusals)
        await desk.delivery().bury("internal", "x")
        assert desk.letters == []
        assert desk.verbs == [b'-NAK {"delay": 2000000000}']


@pytest.mark.parametrize(
    ("error", "attempt", "verbs"),
    [
        (InvalidRequest("x"), 1, [b"+TERM"]),
        (Cancelled("x"), 1, [b"+ACK"]),
        (Overloaded("x", retry_after_s=3), 1, [b'-NAK {"delay": 3000000000}']),
        (Overloaded("x", retry_after_s=3), 49, [b'-NAK {"delay": 3000000000}']),
        (Overloaded("x"), 50, [b"+TERM"]),
        (ValueError("x"), 1, [b'-NAK {"delay": 400000000}']),
        (ValueError("x"), 4, [b'-NAK {"delay": 3200000000}']),
        (ValueError("x"), 5, [b"+TERM"]),
        (InferbusError("x"), 5, [b"+TERM"]),
    ],
    ids=repr,
)
async def test_settlement(error: BaseException, attempt: int, verbs: list[bytes]) -> None:
    desk = Desk()
    await settle(desk.delivery(attempt=attempt), error, max_attempts=5, max_retries=50)
    assert desk.verbs == verbs
    assert len(desk.letters) == (verbs == [b"+TERM"])
    if desk.letters:
        code = error.code if isinstance(error, InferbusError) else "internal"
        assert desk.letters[0][2][dead_letter.CODE] == code

"""HandBack: a message is handed back until somebody asks about it."""

from __future__ import annotations

from inferbus.queue.hand_back import HandBack
from inferbus.testing import eventually

ACK = "$JS.ACK.S.C.1.7.1.1.0"


class Sent:
    """What was published."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []

    def __call__(self, subject: str, data: bytes) -> None:
        self.messages.append((subject, data))


async def test_it_is_handed_back_again_until_somebody_asks() -> None:
    sent = Sent()
    hand_back = HandBack(sent)
    hand_back.begin(1, ACK)
    assert sent.messages == [(ACK, b"-NAK")]
    await eventually(lambda: len(sent.messages) == 3)
    hand_back.heard(1)
    hand_back.begin(2, "other")
    await eventually(lambda: sent.messages.count(("other", b"-NAK")) == 3)
    assert sent.messages.count((ACK, b"-NAK")) == 3
    hand_back.stop()
    assert not hand_back._timers


async def test_what_was_never_handed_back_may_be_heard_of() -> None:
    HandBack(Sent()).heard(7)

"""What the simulator says: words that tell the conversation and their place in the answer.

` 3f9a1c-17` is word 17 of the answer to the messages whose hash is `3f9a1c`, so a test that reads a stream sees lost,
doubled and mixed-up tokens. The same in every process.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

_ID_SPACE = 1 << 30


class SimulatedWords:
    """The endless answer to some messages. `prefix` is what every word begins with, `first` the first token's id; the
    others count on from it."""

    __slots__ = ("first", "prefix")

    def __init__(self, messages: Any) -> None:
        seed = zlib.crc32(msgspec.json.encode(messages))
        self.first = seed % _ID_SPACE
        self.prefix = f" {seed & 0xFFFFFF:06x}-"

    def tokens(self, count: int) -> list[int]:
        return list(range(self.first, self.first + count))

    def text(self, count: int) -> str:
        """Give the first `count` words."""
        return self.prefix + self.prefix.join(map(str, range(count))) if count else ""


def simulated_answer(messages: Any, tokens: int) -> str:
    """Give the whole text the simulator makes of `messages` with `max_tokens` as said."""
    return SimulatedWords(messages).text(tokens)

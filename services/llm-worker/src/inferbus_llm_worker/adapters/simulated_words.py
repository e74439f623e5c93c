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
    """The endless answer to some messages. `prefix` is what every word begins with."""

    __slots__ = ("_first", "prefix")

    def __init__(self, messages: Any) -> None:
        seed = zlib.crc32(msgspec.json.encode(messages))
        self._first = seed % _ID_SPACE
        self.prefix = f" {seed & 0xFFFFFF:06x}-"

    def token(self, position: int) -> int:
        """Give the id of the token at `position`."""
        return self._first + position

    def tokens(self, count: int) -> list[int]:
        return list(range(self._first, self._first + count))

    def text(self, count: int) -> str:
        """Give the first `count` words."""
        return "".join([f"{self.prefix}{position}" for position in range(count)])


def simulated_answer(messages: Any, tokens: int) -> str:
    """Give the whole text the simulator makes of `messages` with `max_tokens` as said."""
    return SimulatedWords(messages).text(tokens)

"""Words and pairs of words as numbers. Training and serving use this very file."""

from __future__ import annotations

import itertools
import re
import zlib

BUCKETS, LENGTH = 4096, 64
_WORD = re.compile(r"[a-z]+")


def token_ids(text: str) -> list[int]:
    """Give `LENGTH` numbers: 1..BUCKETS-1, and 0 where the text is shorter. What is longer is cut."""
    words = _WORD.findall(text.lower())
    pairs = [f"{first} {second}" for first, second in itertools.pairwise(words)]
    mixed = [one for two in zip(words, [*pairs, ""], strict=False) for one in two if one]
    ids = [1 + zlib.crc32(one.encode()) % (BUCKETS - 1) for one in mixed[:LENGTH]]
    return ids + [0] * (LENGTH - len(ids))

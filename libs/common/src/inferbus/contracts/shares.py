"""Shares of a limit that other holders have a use for: asked for when the counter has nothing left, and given back to it."""

from __future__ import annotations

import msgspec


class ShareWanted(msgspec.Struct, frozen=True, kw_only=True, tag="quota.wanted.v1"):
    """`holder` is short of `amount` of a counter that is used up: whoever has something free of it gives it back. `call` numbers
    its calls, from 1."""

    counter: str
    amount: int
    holder: str
    call: int = 0


class ShareFreed(msgspec.Struct, frozen=True, kw_only=True, tag="quota.freed.v1"):
    """`holder` has given back `amount` to a counter: it is there now, and 0 says that nothing was free. `call` is the one it
    answers; 0: none, what has become free is on its way."""

    counter: str
    amount: int
    holder: str
    call: int = 0

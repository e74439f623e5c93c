"""Caller: what a lease needs of the other holders of its counter (`Calling`), and what stands in where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from inferbus.admission.quota.lease import Lease


class Caller(Protocol):
    """Calls in what other holders have free."""

    def know(self, lease: Lease) -> None: ...

    async def call(self, subject: str, amount: int) -> int: ...

    def hand_over(self, lease: Lease) -> None: ...


class Nobody:
    """There is no other holder."""

    def know(self, lease: Lease) -> None: ...

    async def call(self, subject: str, amount: int) -> int:
        del subject, amount
        return 0

    def hand_over(self, lease: Lease) -> None: ...


NOBODY = Nobody()

"""Places: how many searches run at once, of all tenants and of each. Who finds none is refused at once, not queued."""

from __future__ import annotations

from collections import Counter

from inferbus.errors import Overloaded, TenantOverloaded


class Places:
    """`most` searches at once, `most_per_tenant` of one tenant. `taken` is how many run."""

    def __init__(self, most: int, most_per_tenant: int) -> None:
        self._most = most
        self._most_per_tenant = most_per_tenant
        self._of: Counter[str] = Counter()
        self.taken = 0

    def take(self, tenant: str) -> None:
        """Take a place; `give` it back.

        Raises:
            Overloaded: all are taken. TenantOverloaded: this tenant's share is.
        """
        if self.taken >= self._most:
            raise Overloaded(f"{self._most} searches are running, which is the most at once")
        if self._of[tenant] >= self._most_per_tenant:
            raise TenantOverloaded(f"{self._most_per_tenant} searches of this tenant run, which is the most at once")
        self.taken += 1
        self._of[tenant] += 1

    def give(self, tenant: str) -> None:
        self.taken -= 1
        self._of[tenant] -= 1
        if not self._of[tenant]:
            del self._of[tenant]

"""Refusals: what the bus did not let this process do, as a log line, a metric, and an error for who waits for it.

The server tells a refused publish or subscription to the connection and to nobody else: without this, whoever asked sees
a timeout. nats-py gives the text in lower case, so subjects are compared that way.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import structlog
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

PUBLISH, SUBSCRIBE = "publish", "subscribe"
_VIOLATION = re.compile(
    r'permissions violation for (publish|subscription)(?: with reply of| to)? "(.+?)"', re.IGNORECASE
)
_TOKENS = {"$js": 4, "$kv": 2}
_MAX_PREFIXES = 64
_QUIET_S = 1.0
_OTHER = "other"
log = structlog.get_logger()


class Refusals:
    """Counts per action and beginning of the subject; a flood of one kind is one log line per second."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._logged: dict[tuple[str, str], float] = {}
        self.counts: dict[tuple[str, str], int] = {}

    def note(self, error: Exception) -> tuple[str, str] | None:
        """Record a violation; gives the action and the subject (in lower case), None where `error` is something else."""
        found = _VIOLATION.search(str(error))
        if found is None:
            return None
        action = PUBLISH if found[1].lower() == PUBLISH else SUBSCRIBE
        subject = found[2].lower()
        kind = (action, prefix_of(subject))
        if kind not in self.counts and len(self.counts) >= _MAX_PREFIXES:
            kind = (action, _OTHER)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if time.monotonic() - self._logged.get(kind, -_QUIET_S) >= _QUIET_S:
            self._logged[kind] = time.monotonic()
            log.error(
                "bus_permission_refused", bus=self._name, action=action, subject=subject[:200], times=self.counts[kind]
            )
        return action, subject


def prefix_of(subject: str) -> str:
    """Give the tokens of a subject that name what it is for, and no tenant, request or process."""
    tokens = subject.lower().split(".")
    if tokens[0].startswith("_inbox"):
        return "_inbox"
    return ".".join(tokens[: _TOKENS.get(tokens[0], 1)])


class RefusalCollector(Collector):
    """`inferbus_bus_refusals_total{action,prefix}` of all connections of a process."""

    def __init__(self, *refusals: Refusals) -> None:
        self._refusals = refusals

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(
            "inferbus_bus_refusals", "Publishes and subscriptions the bus did not allow", labels=["action", "prefix"]
        )
        sums: dict[tuple[str, str], int] = {}
        for refusals in self._refusals:
            for kind, count in refusals.counts.items():
                sums[kind] = sums.get(kind, 0) + count
        for kind, count in sorted(sums.items()):
            family.add_metric(list(kind), count)
        return [family]

"""What limits do at this gateway, for Prometheus: read at scrape time, never per request."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from inferbus.admission.quota.quota import Quota


class QuotaCollector(Collector):
    """Refusals by what was used up, and round trips to counters. Not by tenant or key: those are in the log."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota

    def collect(self) -> Iterable[CounterMetricFamily]:
        refused = CounterMetricFamily(
            "inferbus_gateway_rate_limited", "Requests refused by a limit.", labels=["scope", "limit"]
        )
        for (scope, limit), count in self._quota.refused.items():
            refused.add_metric([scope, limit], count)
        calls = CounterMetricFamily("inferbus_gateway_quota_calls", "Round trips to counters of limits.")
        calls.add_metric([], self._quota.counters.calls)
        return (refused, calls)

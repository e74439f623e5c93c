"""What this gateway knows about pools, for Prometheus: read from the open requests at scrape time, never per request."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from inferbus.answers.asker import Asker
from inferbus.models import ModelRegistry
from inferbus.process.presence import PresenceTable


class PoolCollector(Collector):
    """Queue figures per pool, as this gateway's own open requests and the workers' beats show them."""

    def __init__(self, asker: Asker, presence: PresenceTable, models: ModelRegistry) -> None:
        self._asker = asker
        self._presence = presence
        self._models = models

    def collect(self) -> Iterable[GaugeMetricFamily]:
        now = time.monotonic()
        families = {
            name: GaugeMetricFamily(f"inferbus_gateway_pool_{name}", text, labels=["pool"])
            for name, text in (
                ("open_requests", "Requests of this gateway that are queued or running"),
                ("oldest_pending_seconds", "Age of this gateway's oldest request that no worker has started"),
                ("queued_tokens", "Prompt tokens of requests not started, estimated at 4 bytes of body per token"),
                ("workers", "Ready workers"),
                ("queue_messages", "Messages in the pool's queue, as workers last saw it"),
            )
        }
        exchanges = self._asker.exchanges
        for pool in {entry.pool for entry in self._models.all()}:
            mine = [exchange for exchange in exchanges if exchange.pool == pool]
            waiting = [exchange for exchange in mine if exchange.fence is None]
            workers = self._presence.workers(pool)
            for name, value in (
                ("open_requests", len(mine)),
                ("oldest_pending_seconds", max((now - exchange.opened for exchange in waiting), default=0.0)),
                ("queued_tokens", sum(exchange.estimated_tokens for exchange in waiting)),
                ("workers", len(workers)),
                ("queue_messages", max((worker.pending for worker in workers), default=0)),
            ):
                families[name].add_metric([pool], value)
        return families.values()

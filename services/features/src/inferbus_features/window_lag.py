"""WindowLag: how far behind the windows are that are followed here, by view, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from inferbus_features.child_orders import WindowsTold


class WindowLag(Collector):
    """Both figures are worked out when they are asked for, so that they grow while nobody follows."""

    def __init__(self, registry: CollectorRegistry, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._followed: dict[str, float] = {}
        self._newest: dict[str, float] = {}
        registry.register(self)

    def note(self, told: WindowsTold) -> None:
        """Take in what the windows' process says of a view."""
        if told.followed:
            self._followed[told.view] = told.followed
        if told.newest_event:
            self._newest[told.view] = max(told.newest_event, self._newest.get(told.view, 0.0))

    def forget(self) -> None:
        """Nothing is followed here any more, or other views are."""
        self._followed.clear()
        self._newest.clear()

    def collect(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "inferbus_features_window_lag_seconds",
            "How long ago everything had arrived that a view's windows are made of by now",
            labels=["view"],
        )
        age = GaugeMetricFamily(
            "inferbus_features_window_event_age_seconds",
            "Now less the time of the newest event in a view's windows",
            labels=["view"],
        )
        for family, times in ((lag, self._followed), (age, self._newest)):
            for view, at in sorted(times.items()):
                family.add_metric([view], max(0.0, self._now() - at))
            yield family

"""How far behind windows are, as Prometheus is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from inferbus_features.child_orders import WindowsTold
from inferbus_features.window_lag import WindowLag

LAG, AGE = "inferbus_features_window_lag_seconds", "inferbus_features_window_event_age_seconds"


def test_lag_grows_until_something_is_told_and_ends_with_following() -> None:
    registry, now = CollectorRegistry(), [1000.0]
    lag = WindowLag(registry, lambda: now[0])
    lag.note(WindowsTold(view="v", rows=3, event_time=1.0, followed=999.5, newest_event=990.0))
    lag.note(WindowsTold(view="w", rows=1, event_time=1.0))
    now[0] = 1010.0
    assert registry.get_sample_value(LAG, {"view": "v"}) == 10.5
    assert registry.get_sample_value(AGE, {"view": "v"}) == 20.0
    assert registry.get_sample_value(LAG, {"view": "w"}) is None
    lag.note(WindowsTold(view="v", rows=0, event_time=0.0, followed=1011.0, newest_event=980.0))
    assert registry.get_sample_value(LAG, {"view": "v"}) == 0.0
    assert registry.get_sample_value(AGE, {"view": "v"}) == 20.0
    lag.forget()
    assert registry.get_sample_value(LAG, {"view": "v"}) is None

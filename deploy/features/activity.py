"""What a user does now: events added up over windows, declared once, computed over the stream and over history alike."""

from __future__ import annotations

from datetime import timedelta

from feast import FeatureService
from ranking import OWNER, item_profile, user, user_profile

from inferbus_features.adapters.feast.windowed import windowed
from inferbus_features.domain.definitions import Aggregate, EventSource, WindowedView, sliding

user_events = EventSource(
    name="user_events",
    keys={"user_id": "int64"},
    fields={"item_id": "int64", "kind": "string", "price": "float64"},
    description="clicks, carts and purchases, as they happen",
    owner=OWNER,
)

user_pulse = windowed(
    WindowedView(
        name="user_pulse",
        source=user_events,
        entity="user",
        window=sliding("10m", "10s"),
        aggregates=(
            Aggregate(name="now_purchases", kind="count", where={"kind": "purchase"}),
            Aggregate(name="now_clicks", kind="count", where={"kind": "click"}),
        ),
        allowed_lateness="10m",
        description="how busy a user was in the last ten minutes",
        owner=OWNER,
        tags={"team": "ranking"},
    ),
    [user],
    ttl=timedelta(hours=1),
)

user_now = windowed(
    WindowedView(
        name="user_now",
        source=user_events,
        entity="user",
        window=sliding("10m", "10s"),
        aggregates=(
            Aggregate(name="now_spent", kind="sum", column="price", where={"kind": "purchase"}),
            Aggregate(name="now_price_mean", kind="mean", column="price"),
            Aggregate(name="now_price_least", kind="min", column="price"),
            Aggregate(name="now_price_most", kind="max", column="price"),
            Aggregate(name="now_price_last", kind="last", column="price"),
            Aggregate(name="now_items", kind="approx_distinct", column="item_id"),
        ),
        allowed_lateness="10m",
        description="what a user looked at and bought in the last ten minutes",
        owner=OWNER,
        tags={"team": "ranking"},
    ),
    [user],
    ttl=timedelta(hours=1),
)

ranking_now = FeatureService(
    name="ranking_now",
    features=[user_pulse, item_profile, user_profile, user_now],
    description="the ranker's input, in its order, with what the user does now",
    owner=OWNER,
    tags={"model": "ranker"},
)

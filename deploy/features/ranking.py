"""What the example ranker (services/triton-worker/models) scores candidates by: 32 features of a user, an item and both.

`inferbus features apply deploy/features` applies this folder. A feature repository is Feast's own Python; tags that mean
something here: a field's `default` (JSON, given where there is no value), a service's `tenants` and `max_age_s`.
"""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Float32

OWNER = "ranking@example.com"

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64, description="who asks", owner=OWNER)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64, description="what is ranked", owner=OWNER)


def floats(prefix: str, count: int, default: str = "0.0") -> list[Field]:
    """Make numbered features, with a default each: a new user or item is scored too."""
    return [Field(name=f"{prefix}_{n:02d}", dtype=Float32, tags={"default": default}) for n in range(count)]


user_profile = FeatureView(
    name="user_profile",
    entities=[user],
    ttl=timedelta(days=30),
    schema=floats("user", 12),
    source=PushSource(
        name="user_profiles",
        batch_source=FileSource(
            name="user_profile_files", path="data/user_profile.parquet", timestamp_field="event_timestamp"
        ),
    ),
    description="long-term taste, from yesterday's history",
    owner=OWNER,
    tags={"team": "ranking"},
)

item_profile = FeatureView(
    name="item_profile",
    entities=[item],
    ttl=timedelta(days=30),
    schema=floats("item", 12),
    source=PushSource(
        name="item_profiles",
        batch_source=FileSource(
            name="item_profile_files", path="data/item_profile.parquet", timestamp_field="event_timestamp"
        ),
    ),
    description="what an item is, and how it does",
    owner=OWNER,
    tags={"team": "catalogue"},
)

user_recent = FeatureView(
    name="user_recent",
    entities=[user],
    ttl=timedelta(hours=1),
    schema=floats("recent", 8),
    source=PushSource(
        name="user_activity",
        batch_source=FileSource(
            name="user_activity_files", path="data/user_recent.parquet", timestamp_field="event_timestamp"
        ),
    ),
    description="what a user did in the last hour",
    owner=OWNER,
    tags={"team": "ranking"},
)

ranking = FeatureService(
    name="ranking",
    features=[user_profile, item_profile, user_recent],
    description="the ranker's input, in its order",
    owner=OWNER,
    tags={"model": "ranker"},
)

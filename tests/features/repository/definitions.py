"""A repository with something of everything: several entities, a renamed view, kinds, defaults, a transformation."""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float32, Float64, Int64, String, UnixTimestamp

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64, owner="ann@example.com")
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
user_files = FileSource(name="user_files", path="none.parquet", timestamp_field="ts")
item_files = FileSource(name="item_files", path="none.parquet", timestamp_field="ts")
pair_files = FileSource(name="pair_files", path="none.parquet", timestamp_field="ts")

user_stats = FeatureView(
    name="user_stats",
    entities=[user],
    ttl=timedelta(hours=1),
    source=PushSource(name="user_events", batch_source=user_files),
    schema=[
        Field(name="clicks", dtype=Int64, tags={"default": "0"}, description="in all"),
        Field(name="ratio", dtype=Float32),
        Field(name="city", dtype=String),
        Field(name="tags", dtype=Array(String)),
        Field(name="active", dtype=Bool),
        Field(name="seen", dtype=UnixTimestamp),
    ],
    owner="ann@example.com",
    tags={"team": "growth"},
)
user_more = FeatureView(
    name="user_more",
    entities=[user],
    ttl=timedelta(0),
    source=PushSource(
        name="more_events", batch_source=FileSource(name="more_files", path="none.parquet", timestamp_field="ts")
    ),
    schema=[Field(name="clicks", dtype=Int64), Field(name="depth", dtype=Float64)],
)
item_stats = FeatureView(
    name="item_stats",
    entities=[item],
    ttl=timedelta(hours=1),
    source=PushSource(name="item_events", batch_source=item_files),
    schema=[Field(name="price", dtype=Float64), Field(name="embedding", dtype=Array(Float32))],
)
pair_stats = FeatureView(
    name="pair_stats",
    entities=[user, item],
    ttl=timedelta(hours=1),
    source=PushSource(name="pair_events", batch_source=pair_files),
    schema=[Field(name="views", dtype=Int64)],
)
asked = RequestSource(name="asked", schema=[Field(name="amount", dtype=Float64)])


@on_demand_feature_view(sources=[user_stats, asked], schema=[Field(name="share", dtype=Float64)], mode="python")
def spent(inputs: dict[str, list[float]]) -> dict[str, list[float]]:
    return {"share": [a / (1 + (c or 0)) for a, c in zip(inputs["amount"], inputs["clicks"], strict=True)]}


plain = FeatureService(name="plain", features=[user_stats], owner="ann@example.com", tags={"tier": "1"})
ranking = FeatureService(name="ranking", features=[user_stats[["clicks", "ratio"]], item_stats, pair_stats])
both = FeatureService(name="both", features=[user_stats, user_more])
friends = FeatureService(
    name="friends",
    features=[
        user_stats[["clicks"]].with_name("me"),
        user_stats[["clicks"]].with_name("friend").with_join_key_map({"user_id": "friend_id"}),
    ],
)
computed = FeatureService(name="computed", features=[user_stats[["clicks"]], spent])
private = FeatureService(
    name="private", features=[user_stats[["clicks"]]], tags={"tenants": "acme, other", "max_age_s": "60"}
)

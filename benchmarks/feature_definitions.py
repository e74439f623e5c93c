"""What `features.py` reads: a few features as most services have them, and as many as a large company's."""

from __future__ import annotations

NARROW = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32, Int64
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
source = FileSource(name="files", path="none.parquet", timestamp_field="ts")
fields = lambda prefix, count: [Field(name=f"{prefix}{n}", dtype=Float32 if n % 4 else Int64) for n in range(count)]
view = lambda name, entity, prefix, count: FeatureView(
    name=name, entities=[entity], ttl=timedelta(days=3650), schema=fields(prefix, count), source=source)
stats = view("stats", user, "f", 20)
of_user, of_item = view("of_user", user, "u", 12), view("of_item", item, "i", 8)
svc = FeatureService(name="svc", features=[stats])
candidates = FeatureService(name="candidates", features=[of_user, of_item])
"""
WIDE = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
source = FileSource(name="files", path="none.parquet", timestamp_field="ts")
views = [FeatureView(name=f"wide{v}", entities=[user], ttl=timedelta(days=3650), source=source,
    schema=[Field(name=f"w{v}_{n}", dtype=Float32) for n in range(45)]) for v in range(20)]
services = [FeatureService(name=f"svc{n}", features=views) for n in range(100)]
class _All:
    def definitions(self):
        return [*views, *services]
everything = _All()
"""

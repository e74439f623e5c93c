"""FeastStore against Feast itself: the same values, whatever way they were read; and the guard of event times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from inferbus.contracts.features import ON_DEMAND_VIEW, PUSH_VIEW, Catalogue
from inferbus.errors import InvalidRequest
from inferbus_features.adapters.feast.repository import FeastRepositories
from inferbus_features.adapters.feast.store import FeastStore, online_config
from inferbus_features.ports import StoreDown, WriteRow

NOW = 1_795_000_000.0
USER = {"clicks": 5, "ratio": 0.5, "city": "Ulm", "tags": ["a", "b"], "active": True, "seen": 1_700_000_000}


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, tmp_path: Path, compiled: tuple[bytes, Catalogue]) -> Iterator[FeastStore]:
    address = request.getfixturevalue("redis").address if request.param == "redis" else ""
    found = FeastStore(online_config(request.param, redis=address, redis_timeout_s=2.0, state=tmp_path), tmp_path)
    found.load(compiled[0])
    yield found
    found.close()


def fill(store: FeastStore) -> None:
    users = [WriteRow({"user_id": n}, USER | {"clicks": n}, NOW + n) for n in range(4)]
    store.write("user_stats", [*users, WriteRow({"user_id": 9}, {"clicks": None, "ratio": 1.5}, NOW)])
    store.write("user_more", [WriteRow({"user_id": 1}, {"clicks": 100, "depth": 2.5}, NOW)])
    items = [WriteRow({"item_id": name}, {"price": 1.5, "embedding": [1.0, 0.25]}, NOW) for name in ("a", "ü")]
    store.write("item_stats", items)
    store.write("pair_stats", [WriteRow({"user_id": 1, "item_id": "a"}, {"views": 7}, NOW)])


CASES: list[tuple[str, dict[str, list[Any]], dict[str, list[Any]]]] = [
    ("plain", {"user_id": [0, 3, 9, 77]}, {}),
    ("ranking", {"user_id": [1, 1, 2, 1], "item_id": ["a", "ü", "a", "a"]}, {}),
    ("both", {"user_id": [1, 2]}, {}),
    ("friends", {"user_id": [1, 2], "friend_id": [2, 77]}, {}),
    ("computed", {"user_id": [1, 3]}, {"amount": [4.0, 8.0]}),
]


@pytest.mark.parametrize(("service", "entities", "context"), CASES, ids=[case[0] for case in CASES])
def test_values_are_those_of_feasts_own_front_door(
    store: FeastStore, service: str, entities: dict[str, list[Any]], context: dict[str, list[Any]]
) -> None:
    fill(store)
    feast = store._feast
    assert feast is not None
    full = service in {"both", "friends"}
    asked = feast.get_online_features(
        features=feast.get_feature_service(service), entity_rows=entities | context, full_feature_names=full
    ).to_dict()
    for column in store.read(service, entities, context):
        name = (
            column.name
            if column.name in asked
            else f"{'user_more' if column.name == 'depth' else 'user_stats'}__{column.name}"
        )
        expected = [one.timestamp() if hasattr(one, "timestamp") else one for one in asked[name]]
        assert column.values == expected, column.name


def test_columns_come_in_the_order_asked_for_and_with_their_times(store: FeastStore) -> None:
    fill(store)
    columns = store.read("plain", {"user_id": [2, 77]}, {}, ("city", "clicks"))
    assert [(one.name, one.values) for one in columns] == [("city", ["Ulm", None]), ("clicks", [2, None])]
    assert [one.times for one in columns] == [[NOW + 2, 0.0]] * 2


def test_what_is_not_newer_changes_nothing(store: FeastStore) -> None:
    fill(store)
    key = {"user_id": 1}
    store.write("user_stats", [WriteRow(key, {"clicks": 50}, NOW - 10)])
    assert store.read("plain", {"user_id": [1]}, {}, ("clicks",))[0].values == [1]
    newest = [WriteRow(key, {"clicks": n}, NOW + n) for n in (60, 80, 70)]
    store.write("user_stats", newest)
    store.write("user_stats", newest)
    columns = store.read("plain", {"user_id": [1]}, {}, ("clicks", "city"))
    assert [one.values for one in columns] == [[80], ["Ulm"]], "a feature that is not named stays"
    assert store.newest("user_stats", [key, {"user_id": 1000}]) == [NOW + 80, 0.0]


def test_the_catalogue_says_what_there_is(store: FeastStore, compiled: tuple[bytes, Catalogue]) -> None:
    catalogue = store.catalogue
    assert catalogue == compiled[1], "whoever loads the registry sees what was compiled"
    views = {one.name: one for one in catalogue.views}
    assert views["user_stats"].type == PUSH_VIEW
    assert (views["user_stats"].ttl_s, views["user_more"].ttl_s) == (3600.0, 0.0)
    assert (views["spent"].type, views["spent"].inputs) == (ON_DEMAND_VIEW, ["user_stats", "amount:float64"])
    assert views["user_stats"].features[0].default == 0
    services = {one.name: one for one in catalogue.services}
    assert services["ranking"].join_keys == {"user_id": "int64", "item_id": "string"}
    assert services["friends"].aliases == {"me": "user_stats", "friend": "user_stats"}
    assert (services["private"].tenants, services["private"].max_age_s) == (["acme", "other"], 60.0)


@pytest.mark.redis
def test_a_store_that_is_away_says_so_in_time_and_comes_back(
    redis: Any, tmp_path: Path, compiled: tuple[bytes, Catalogue]
) -> None:
    online = online_config("redis", redis=redis.address, redis_timeout_s=0.5, state=tmp_path)
    with closing(FeastStore(online, tmp_path)) as store:
        store.load(compiled[0])
        redis.kill()
        begun = time.monotonic()
        with pytest.raises(StoreDown):
            store.read("plain", {"user_id": [1]}, {})
        assert time.monotonic() - begun < 5
        redis.start()
        assert store.read("plain", {"user_id": [1]}, {})[0].values == [None]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("x = 1", "no feature view"),
        ("from feast import FeatureService\ns = FeatureService(name='a b', features=[])", "no feature view"),
    ],
)
def test_a_repository_that_cannot_be_says_why(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "wrong_definitions.py").write_text(source)
    with pytest.raises(InvalidRequest, match=said):
        FeastRepositories().compile_repository(str(tmp_path))

"""The store the settings name. Feast is imported here and not before: it takes seconds."""

from __future__ import annotations

from pathlib import Path

from inferbus.settings import SettingsError
from inferbus_features.ports import FeatureStore
from inferbus_features.settings import FeaturesSettings

STORES = ("sqlite", "redis")


def open_store(settings: FeaturesSettings, state: Path) -> FeatureStore:
    """Make the store; nothing is asked of it yet.

    Raises:
        SettingsError: there is no such store.
    """
    if settings.store not in STORES:
        raise SettingsError(f"INFERBUS_FEATURES_STORE is {settings.store!r}; it must be one of {', '.join(STORES)}")
    from inferbus_features.adapters.feast.store import FeastStore, online_config  # noqa: PLC0415 - takes seconds

    online = online_config(settings.store, redis=settings.redis, redis_timeout_s=settings.redis_timeout_s, state=state)
    return FeastStore(online, state, name=settings.process)

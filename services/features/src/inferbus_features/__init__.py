"""Features: the feature store behind the bus. The only part of the platform that knows Feast (`adapters/feast_store.py`)."""

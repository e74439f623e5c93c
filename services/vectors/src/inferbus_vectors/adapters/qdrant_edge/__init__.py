"""Qdrant Edge: the engine of the Qdrant server in a process of its own, which owns a folder of shards."""

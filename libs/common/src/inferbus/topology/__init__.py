"""Topology: the one process with operator rights makes streams, consumers and buckets be what `models` says."""

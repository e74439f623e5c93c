"""Quota: limits that hold over any number of replicas, by leased shares of counters on the bus (docs/adr/0011)."""

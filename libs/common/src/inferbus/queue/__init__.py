"""Taking work: one consumer's pull, its slots and leases, fair turns between buckets, and how a message ends."""

"""The ledger: totals of what was used, made of the events on `usage.*` and nothing else."""

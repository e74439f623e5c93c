"""Batch, as doors, command line and the batch service share it: states, jobs, lines, dead letters."""

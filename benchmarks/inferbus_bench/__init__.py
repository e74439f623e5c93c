"""Measuring the platform beside its peers: targets, load, CPU of process trees, rounds, tables."""

"""Decisions of the vector service. No bus, no index, no clock."""

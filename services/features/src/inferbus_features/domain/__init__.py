"""Decisions: no bus, no store, no clock."""

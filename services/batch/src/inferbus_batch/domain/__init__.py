"""Decisions: how an input is cut, which job goes next, what becomes of a row. No bus, no storage, no clock."""

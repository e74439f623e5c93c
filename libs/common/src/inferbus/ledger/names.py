"""Names of events of usage: whose request one is of, whoever writes it. Pure."""

from __future__ import annotations

_PREFIX = "usage"


def usage_name(asker: str, tag: int) -> str:
    """Name a request's event for the stream: its asker and its tag there are in its message for ever."""
    return f"{_PREFIX}:{asker}:{tag}"


def request_of(name: str) -> tuple[str, int] | None:
    """Give asker and tag of an event by its name, or of an amendment by its (`<name>:<n>`); None where it is neither."""
    parts = name.split(":")
    if len(parts) not in (3, 4) or parts[0] != _PREFIX or not parts[2].isdecimal():
        return None
    return parts[1], int(parts[2])

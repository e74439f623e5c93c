"""Names of events of usage: whose request one is of, whoever writes it. Pure."""

from __future__ import annotations

_PREFIX = "usage"
OF = "Ib-Usage-Of"
"""The header that names the request (`usage_name`) where the message's own name does not."""


def usage_name(asker: str, tag: int) -> str:
    """Name a request's event for the stream: its asker and its tag there are in its message for ever."""
    return f"{_PREFIX}:{asker}:{tag}"


def group_name(group_id: str) -> str:
    """Name the events of a group's rows for the stream. By its own id, since two askers may have asked it: what is said of it
    is said once. Whose it is, is in a header of its own (`OF`)."""
    return f"{_PREFIX}:group:{group_id}"


def request_of(name: str) -> tuple[str, int] | None:
    """Give asker and tag of an event by its name, or of an amendment by its (`<name>:<n>`); None where it is neither."""
    parts = name.split(":")
    if len(parts) not in (3, 4) or parts[0] != _PREFIX or not parts[2].isdecimal():
        return None
    return parts[1], int(parts[2])

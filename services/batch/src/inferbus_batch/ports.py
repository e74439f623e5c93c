"""What the domain needs of the outside."""

from __future__ import annotations

from typing import Protocol


class SeenIds(Protocol):
    """A set of any size in little memory."""

    def add(self, custom_id: str) -> bool:
        """Put one in; False if it was there."""
        ...

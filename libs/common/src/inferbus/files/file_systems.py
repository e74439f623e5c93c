"""File systems: whatever fsspec knows, by url. Nothing of them is kept or cached: others write there too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec

_FRESH = {"skip_instance_cache": True, "use_listings_cache": False}


def open_fs(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Give a url's file system and its path there; a path without `://` is of this machine.

    Raises:
        ValueError, ImportError, TypeError: there is no such file system, or not with these options.
    """
    fs, path = fsspec.core.url_to_fs(url if "://" in url else str(Path(url).absolute()), **(_FRESH | options))
    return fs, str(path)

"""What file systems say of a file, each in fields of its own."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from inferbus.files.ports import BodyStat


def stat_of(name: str, info: dict[str, Any]) -> BodyStat:
    """Read fsspec's answer about one file."""
    modified = _seconds(info.get("mtime") or info.get("LastModified") or info.get("created"))
    mark = info.get("ETag") or f"{info.get('ino', '')}-{modified}-{info['size']}"
    return BodyStat(name, int(info["size"]), str(mark), modified)


def _seconds(moment: Any) -> float:
    if isinstance(moment, datetime):
        return moment.timestamp()
    return float(moment) if isinstance(moment, int | float) else 0.0

"""Export: the ledger's events as a Parquet file, a page at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from inferbus.bus import Bus
from inferbus.contracts.usage import UsageEvent
from inferbus.errors import Unsupported
from inferbus.ledger.reading import read_events

_TYPES = {"str": "string", "int": "int64", "float": "float64"}


async def write_parquet(bus: Bus, path: Path, tenant: str = "") -> int:
    """Write every event (or one tenant's) with its sequence; returns how many. The file is there whole, or not at all.

    Raises:
        Unsupported: pyarrow is not installed. DependencyDown: the bus does not answer. OSError: it cannot be written.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - half a second, for one command
        from pyarrow import parquet  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise Unsupported("Parquet needs the package pyarrow") from exc
    names = [field.name for field in msgspec.structs.fields(UsageEvent)]
    columns = [(field.name, _arrow(pa, field.type)) for field in msgspec.structs.fields(UsageEvent)]
    schema = pa.schema([("seq", pa.int64()), *columns])
    part, count = path.with_name(f".{path.name}.part"), 0
    try:
        with parquet.ParquetWriter(part, schema) as writer:
            async for page in read_events(bus, tenant):
                rows = [{"seq": seq} | {name: getattr(event, name) for name in names} for seq, event in page]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                count += len(rows)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _arrow(pa: Any, type_: Any) -> Any:
    """Give the column type of a field; `at` stays Unix seconds, as in the event."""
    return getattr(pa, _TYPES[type_.__name__])()

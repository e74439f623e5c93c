"""What of pushed messages a windowed view adds up: the events of each entity, as they arrived."""

from __future__ import annotations

from typing import Any

import msgspec

from inferbus.contracts.features import PushMessage
from inferbus_features.domain.aggregates import Event
from inferbus_features.domain.definitions import WindowedView
from inferbus_features.domain.rows import BadRow, RowLimits, SourceShape, check_row

_decode = msgspec.json.Decoder(PushMessage).decode


class EventReader:
    """Reads messages for one view. What is refused or does not count is left out; the service's writer tells who pushed it."""

    def __init__(self, view: WindowedView, limits: RowLimits) -> None:
        source = view.source
        self._view = view
        self._limits = limits
        self._keys = view.join_keys
        self._shape = SourceShape(
            name=source.name, keys=source.keys, fields=source.fields, timestamp_field=source.timestamp_field
        )

    def events_of(self, body: bytes, arrived_us: int) -> list[tuple[str, Event]]:
        """Give entity (its key's values as JSON) and event of each row that counts."""
        try:
            rows = _decode(body).rows
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return []
        found = []
        for row in rows:
            try:
                checked = check_row(self._shape, row, arrived_us / 1e6, self._limits)
            except BadRow:
                continue
            time_us = round(checked.time_s * 1e6)
            if self._view.is_in_time(time_us, arrived_us):
                key = entity_key([checked.keys[name] for name in self._keys])
                found.append((key, Event(time_us, checked.fields | checked.keys)))
        return found


def entity_key(values: list[Any]) -> str:
    """Name an entity by the values of its join keys."""
    return msgspec.json.encode(values).decode()


def key_values(key: str) -> list[Any]:
    """Give the values an entity was named by."""
    values: list[Any] = msgspec.json.decode(key)
    return values

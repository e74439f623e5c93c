"""What a pushed message comes to: rows for the views its source feeds, and faults of the rows that are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from inferbus.contracts.features import FeatureFault, RowFault
from inferbus_features.domain.rows import BadRow, RowLimits, SourceShape, check_row
from inferbus_features.ports import WriteRow


class Pushed(msgspec.Struct, frozen=True):
    """Rows to be written, by view; `rows` counts them."""

    views: dict[str, list[WriteRow]]
    rows: int


def split_rows(
    shape: SourceShape, rows: Sequence[Mapping[str, Any]], arrived_s: float, limits: RowLimits
) -> tuple[Pushed, list[RowFault]]:
    """Check rows that arrived at a time (Unix seconds). A row that names none of a view's features is not written there."""
    views: dict[str, list[WriteRow]] = {}
    faults: list[RowFault] = []
    for n, row in enumerate(rows):
        try:
            checked = check_row(shape, row, arrived_s, limits)
        except BadRow as exc:
            faults.append(RowFault(row=n, fault=exc.fault))
            continue
        for view, names in shape.views.items():
            values = {name: checked.fields[name] for name in names if name in checked.fields}
            if values:
                views.setdefault(view, []).append(WriteRow(checked.keys, values, checked.time_s))
    if not rows:
        faults.append(RowFault(row=0, fault=FeatureFault(code="invalid_request", message="no rows", param="rows")))
    return Pushed(views, sum(map(len, views.values()))), faults

"""What DuckDB makes of events, for the demo: run in the environment of features, which has the definitions' language."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from inferbus.contracts.features import STREAM_VIEW
from inferbus_features.adapters.duckdb_history import DuckDbHistory, HistoryFiles
from inferbus_features.adapters.feast.repository import FeastRepositories
from inferbus_features.domain.definitions import Scalar, from_record


class Order(msgspec.Struct):
    repository: str
    events: str
    until: float


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    _, catalogue = FeastRepositories().compile_repository(order.repository)
    files = HistoryFiles(paths=(str(Path(order.events)),), arrived_column="arrived")
    found: dict[str, dict[str, Scalar]] = {}
    for view in (from_record(one.aggregation) for one in catalogue.views if one.type == STREAM_VIEW):
        now, names = view.window.pane_of(int(order.until * 1e6)), [one.name for one in view.aggregates]
        with DuckDbHistory() as history:
            for key, windows in history.windows(view, files):
                begun = [values for values in windows if values.last_pane <= now]
                if begun:
                    found.setdefault(str(key[0]), {}).update(zip(names, begun[-1].values, strict=True))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()

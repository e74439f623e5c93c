"""What this service needs of a feature store. Feast's is `adapters.feast_store`.

All of it is synchronous: a store's client burns CPU in Python, so that threads and its asynchronous calls only make it
dearer. Who calls it from an event loop keeps batches small (reads), or does it in a process of its own (writes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from inferbus.contracts.features import Catalogue
from inferbus_features.domain.definitions import WindowedView


class StoreDown(Exception):
    """The store cannot be reached now; the message is its own."""


class Column(msgspec.Struct, frozen=True):
    """One feature of the rows asked for. `times` has the Unix time each value is of, 0.0 where there is none; a value that is
    not there is None."""

    name: str
    view: str
    values: list[Any]
    times: list[float]


class WriteRow(msgspec.Struct, frozen=True):
    """One row of a view: `keys` by join key, `values` by feature (None: null; a feature that is not named stays as it is),
    `event_time` in Unix seconds."""

    keys: dict[str, Any]
    values: dict[str, Any]
    event_time: float


class FeatureStore(Protocol):
    """One store with one registry. What it raises besides `StoreDown` is a bug."""

    @property
    def catalogue(self) -> Catalogue:
        """What is defined, as of the last `load`."""
        ...

    def load(self, registry: bytes) -> None:
        """Take a registry's bytes (`compile_repository` made them), make what the store needs for it, and warm up.

        Raises:
            StoreDown: the store cannot be reached. ValueError: the bytes are no registry.
        """
        ...

    def read(
        self, service: str, entities: dict[str, list[Any]], context: dict[str, list[Any]], features: Sequence[str] = ()
    ) -> list[Column]:
        """Read rows of a service: every list has one entry to a row, of the type the catalogue says. `features`: only these.

        Raises:
            StoreDown. KeyError: there is no such service.
        """
        ...

    def write(self, view: str, rows: Sequence[WriteRow]) -> None:
        """Write rows of a view. A row that is not newer than what is stored of its keys changes nothing, so that the same
        rows may be written again; the newest of several of the same keys counts.

        Raises:
            StoreDown. KeyError: there is no such view.
        """
        ...

    def newest(self, view: str, keys: Sequence[dict[str, Any]]) -> list[float]:
        """Say when what is stored of each of these keys happened (Unix seconds); 0.0: nothing is.

        Raises:
            StoreDown. KeyError: there is no such view.
        """
        ...

    def close(self) -> None: ...


class Repositories(Protocol):
    """Feature repositories: folders of Python files."""

    def compile_repository(self, folder: str) -> tuple[bytes, Catalogue]:
        """Run a repository's files; gives the registry's bytes, and what is in it.

        Raises:
            InvalidRequest: it cannot be, and which definition is why.
        """
        ...


class StoredEvents(msgspec.Struct, frozen=True):
    """Messages of one source as the bus stored them: sequence, arrival in microseconds, body. `caught_up_us`: everything
    that had arrived by then has been given; 0 where there is more."""

    messages: list[tuple[int, int, bytes]]
    caught_up_us: int


class EventLog(Protocol):
    """Everything that was pushed to a source and is still kept, in the order it arrived. For one thread."""

    def born(self) -> str:
        """Say which log this is: one that was made anew has other sequences.

        Raises:
            DependencyDown: the bus is away.
        """
        ...

    def read(self, source: str, after: int, tenants: Sequence[str] = ()) -> StoredEvents:
        """Give what these tenants (none: all) have pushed after a sequence, a page at a time; at once, and empty while the bus
        is away."""
        ...

    def close(self) -> None: ...


class AggregationEngine(Protocol):
    """A stream processor: has `views` follow their sources and writes what comes out of their windows."""

    def run(self, views: Sequence[WindowedView], stopping: Callable[[], bool]) -> None:
        """Go on from where the last run got to, whatever ended it; return soon after `stopping`."""
        ...

"""What child processes are told and tell. Theirs are modules of their own, so that a parent need not import what they do."""

from __future__ import annotations

import msgspec

from inferbus.contracts.features import FeatureJob

WINDOWS_MODULE, MATERIALIZE_MODULE = "inferbus_features.windows_process", "inferbus_features.materialize_process"


class WindowsOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Follow all windowed views of the registry in a file; the engine's state is in `folder`, the store's in `state`."""

    registry: str
    state: str
    folder: str


class WindowsTold(msgspec.Struct, frozen=True, kw_only=True):
    """What has been written since the last time: rows of a view, and the time of the newest (Unix seconds).

    `followed`: all that had arrived by then is in the view's windows; `newest_event`: the time of the newest event in them.
    0: nothing new to say.
    """

    view: str
    rows: int
    event_time: float
    followed: float = 0.0
    newest_event: float = 0.0


class MaterializeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Do a job with the registry in a file; go on after the slices that are done."""

    registry: str
    state: str
    job: FeatureJob


class MaterializeTold(msgspec.Struct, frozen=True, kw_only=True):
    """How many slices are done, and rows written since the start; or why it cannot be done."""

    done: int
    rows: int
    error: str = ""

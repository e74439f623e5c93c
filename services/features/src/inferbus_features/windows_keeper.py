"""WindowsKeeper: has one process of the platform follow the windowed views, and begins again when it dies or they change."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from inferbus.contracts.features import STREAM_VIEW, Catalogue
from inferbus.errors import InferbusError
from inferbus_features.child import Child, start_child
from inferbus_features.child_orders import WINDOWS_MODULE, WindowsOrder, WindowsTold
from inferbus_features.domain.definitions import fingerprint, from_record
from inferbus_features.job_book import FeatureJobBook
from inferbus_features.window_lag import WindowLag

LEASE_S = 10.0
_RENEW_S = 3.0
_AGAIN_S = (0.2, 1.0, 3.0, 10.0)
_LEASE = "windows"
_GIVE_UP = 6
"""After so many deaths in a row without a word the engine's state is dropped: the stream has what it was made of."""
log = structlog.get_logger()


class WindowsKeeper:
    """`run` it until `stopping`. `catalogue` gives what is defined now, `registry` its bytes; `me` is this process."""

    def __init__(
        self,
        book: FeatureJobBook,
        folder: Path,
        catalogue: Callable[[], Catalogue],
        registry: Callable[[], Awaitable[bytes | None]],
        wrote: Callable[[str, int, float], None],
        *,
        me: str,
        metrics: CollectorRegistry,
    ) -> None:
        """`folder` is the store's; `wrote` is told view, rows and the newest row's time."""
        self._book = book
        self._folder = folder
        self._catalogue = catalogue
        self._registry = registry
        self._wrote = wrote
        self._me = me
        self._child: Child | None = None
        self._watching: asyncio.Task[None] | None = None
        self._following = ""
        self._deaths = 0
        self._again_at = 0.0
        self._rows = Counter("inferbus_features_window_rows_total", "Window values written", registry=metrics)
        self._lag = WindowLag(metrics)
        self._runs = Gauge("inferbus_features_windows_here", "Whether this process follows windows", registry=metrics)

    @property
    def pid(self) -> int | None:
        """The process that follows the windows, if it is ours."""
        return None if self._child is None else self._child.pid

    async def run(self, stopping: asyncio.Event) -> None:
        try:
            while not stopping.is_set():
                try:
                    await self._look()
                except InferbusError as exc:
                    log.info("windows_wait", error=exc.message)
                except Exception:  # whatever it is of, the next look may do better
                    log.exception("windows_look_failed")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RENEW_S if self._again_at <= time.monotonic() else 0.2):
                        await stopping.wait()
        finally:
            await self._end()
            with contextlib.suppress(InferbusError):
                await self._book.release(_LEASE, self._me)

    async def _look(self) -> None:
        """Hold the lease where there is something to follow, and see to it that it is followed."""
        wanted = windows_of(self._catalogue())
        try:
            ours = bool(wanted) and await self._book.hold(_LEASE, self._me, time.time(), LEASE_S)
        except InferbusError as exc:  # what we follow is harmless if another follows it too
            log.info("windows_lease_unknown", error=exc.message)
            return
        if not ours or wanted != self._following:
            await self._end()
        if ours and self._child is None and time.monotonic() >= self._again_at:
            await self._begin(wanted)
        self._runs.set(self._child is not None)

    async def _begin(self, wanted: str) -> None:
        data = await self._registry()
        if data is None:
            return
        if self._deaths == _GIVE_UP:
            log.error("windows_state_dropped", deaths=self._deaths)
            shutil.rmtree(self._folder / "windows", ignore_errors=True)
        registry = self._folder / f"windows-{self._me}.db"
        registry.write_bytes(data)
        order = WindowsOrder(registry=str(registry), state=str(self._folder), folder=str(self._folder / "windows"))
        self._child = await start_child(WINDOWS_MODULE, msgspec.json.encode(order))
        self._following = wanted
        self._watching = asyncio.create_task(self._watch(self._child), name="windows")
        log.info("windows_started", pid=self._child.pid)

    async def _watch(self, child: Child) -> None:
        async for line in child.lines():
            told = msgspec.json.decode(line, type=WindowsTold)
            self._lag.note(told)
            if told.rows:
                self._rows.inc(told.rows)
                self._wrote(told.view, told.rows, told.event_time)
                self._deaths = 0
        status = await child.wait()
        if self._child is child:  # it was not asked to
            pause_s = _AGAIN_S[min(self._deaths, len(_AGAIN_S) - 1)]
            self._deaths += 1
            self._child, self._again_at = None, time.monotonic() + pause_s
            log.warning("windows_died", status=status, again_in_s=pause_s)

    async def _end(self) -> None:
        child, self._child = self._child, None
        self._lag.forget()
        if child is not None:
            await child.stop()
        if self._watching is not None:
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None


def windows_of(catalogue: Catalogue) -> str:
    """Name the windowed views that are defined: another name for other views, none for none."""
    return ",".join(
        sorted(
            f"{view.name}-{fingerprint(from_record(view.aggregation))}"
            for view in catalogue.views
            if view.type == STREAM_VIEW
        )
    )

"""Reading a batch: the requests of one service and the same features are one columnar read, cut to requests again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from inferbus.admission.identity import Identity
from inferbus.admission.quota.reservation import UNLIMITED, Reservation
from inferbus.contracts.features import GetAnswer
from inferbus.errors import DependencyDown, InferbusError
from inferbus_features.domain.checking import Checked
from inferbus_features.domain.services import ServiceSpec
from inferbus_features.domain.statuses import Judged, cut, judge
from inferbus_features.metrics import ReadMetrics
from inferbus_features.ports import FeatureStore, StoreDown
from inferbus_features.usage import Asker

log = structlog.get_logger()


class Waiting(msgspec.Struct, frozen=True):
    """A request that waits for its rows: `came` and `until` by the monotonic clock. `payer`: whose limits
    must count it first, `reservation`: what it has taken of them."""

    reply: str
    asker: Asker
    service: ServiceSpec
    asked: Checked
    ages: bool
    came: float
    until: float
    payer: Identity | None = None
    reservation: Reservation = UNLIMITED


Answer = Callable[[Waiting, GetAnswer | InferbusError], None]


class Batcher:
    """Reads from one store."""

    def __init__(self, store: FeatureStore, metrics: ReadMetrics) -> None:
        self._store = store
        self._metrics = metrics

    def read(self, batch: Sequence[Waiting], answer: Answer, on_down: Callable[[str], None]) -> None:
        """Answer every request of a batch, once each."""
        groups: dict[tuple[str, ...], list[Waiting]] = {}
        for one in batch:
            alone = () if one.asked.entities or one.asked.context else (one.reply,)  # nothing says how many rows it has
            groups.setdefault((one.service.name, *one.asked.names, *alone), []).append(one)
        down = ""
        for group in groups.values():
            if down:  # each would wait for the store's time limit
                self._fail(group, answer, DependencyDown(f"the feature store does not answer: {down}"))
                continue
            try:
                columns = self._columns(group)
            except StoreDown as exc:
                down = str(exc)
                on_down(down)
                self._fail(group, answer, DependencyDown(f"the feature store does not answer: {down}"))
            except Exception as exc:
                log.exception("features_read_error", service=group[0].service.name)
                self._fail(group, answer, InferbusError(f"reading features failed: {type(exc).__name__}"))
            else:
                self._cut(group, columns, answer)

    def _columns(self, group: Sequence[Waiting]) -> list[Judged]:
        """Read what a group asks for, and judge it."""
        first = group[0]
        name, names = first.service.name, first.asked.names
        entities = _joined([one.asked.entities for one in group])
        context = _joined([one.asked.context for one in group])
        begun = time.perf_counter()
        columns = self._store.read(name, entities, context, names)
        self._metrics.read_seconds.observe(time.perf_counter() - begun)
        now, specs = time.time(), first.service.columns
        judged = [judge(column, specs[column.name], now) for column in columns]
        for column in judged:
            if column.status is not None:
                self._metrics.judged(name, column.spec.view, column.status)
        return judged

    def _cut(self, group: Sequence[Waiting], columns: list[Judged], answer: Answer) -> None:
        now, revision, start = time.time(), self._store.catalogue.revision, 0
        for one in group:
            asked = one.asked
            end = start + asked.rows
            try:
                parts = [
                    cut(column, start, end, now=now, max_age_s=asked.max_age_s, ages=one.ages) for column in columns
                ]
            except InferbusError as exc:
                answer(one, exc)
            else:
                answer(one, GetAnswer(service=one.service.name, rows=asked.rows, columns=parts, revision=revision))
            start = end

    def _fail(self, group: Sequence[Waiting], answer: Answer, error: InferbusError) -> None:
        for one in group:
            answer(one, error)


def _joined(parts: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Put columns of several requests behind each other."""
    if len(parts) == 1:
        return parts[0]
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}

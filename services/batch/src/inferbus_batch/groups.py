"""Groups: rows of a chunk asked as one message, so that the bus carries one request where there were many.

A group's one outcome says of each row how it ended. What did not come to an ordinary end in it is asked by itself
(`asking`), the way every row can be. So this knows nothing of retries, deaths and limits (docs/adr/0021-row-groups.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import structlog

from inferbus import routes
from inferbus.admission.admit import Admission
from inferbus.admission.admit_rows import RowGroup, admit_rows
from inferbus.answers.exchange import Exchange, Stored
from inferbus.batch.lines import Row
from inferbus.bus import Bus
from inferbus.contracts.durable import Outcome
from inferbus.contracts.groups import ANSWERED, FENCED, NOT_BEGUN, ROWS_TYPE, RowAnswer, answers_from
from inferbus.contracts.models import VECTORS
from inferbus.errors import InferbusError, RateLimited, Transient
from inferbus_batch.asking import Asking, Given, ask_of
from inferbus_batch.domain.row_end import backoff_s
from inferbus_batch.gate import LEASE_LOST

MOST_ROW_BYTES, MOST_BYTES = 64 * 1024, 512 * 1024
"""A longer row is asked by itself; a group of rows of that length together is full."""
_LONGEST_WAIT_S = 5.0
_PAGE = 16
log = structlog.get_logger()


class Ends(msgspec.Struct, frozen=True):
    """What a group came to. `outcomes` of rows by line, `not_begun` those nothing was done for. The others are to be asked
    by themselves, but where `is_open`: nothing is known of them, since nobody waits any more."""

    outcomes: Mapping[int, Outcome] = {}
    not_begun: frozenset[int] = frozenset()
    is_open: bool = False


class Left(msgspec.Struct, frozen=True):
    """What earlier deliveries of a chunk left of their groups: outcomes of rows by line, and groups that are still in the
    queue, with their lines."""

    outcomes: Mapping[int, Outcome] = {}
    queued: Mapping[str, frozenset[int]] = {}

    @property
    def lines(self) -> frozenset[int]:
        return frozenset(self.outcomes).union(*self.queued.values())


def grouped(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Cut rows into groups of one model and path, in order; what cannot be in one is alone."""
    group: list[Row] = []
    held = 0
    for row in rows:
        if row.task == VECTORS or len(row.body) > MOST_ROW_BYTES:
            yield [row]
            continue
        fits = group and (row.model, row.path) == (group[0].model, group[0].path) and held + len(row.body) <= MOST_BYTES
        if group and (not fits or len(group) >= size):
            yield group
            group, held = [], 0
        group.append(row)
        held += len(row.body)
    if group:
        yield group


class Groups:
    """Asks groups; one for all chunks of a process."""

    def __init__(self, bus: Bus, admission: Admission, asking: Asking, *, slots_of: Callable[[str], int]) -> None:
        """`slots_of` gives the slots of the smallest worker of a pool, 0 where there is none."""
        self._bus = bus
        self._admission = admission
        self._asking = asking
        self._slots_of = slots_of

    def size(self, pools: Iterable[str], most: int, *, is_shared: bool) -> int:
        """Give the rows that a group may have: at most what a worker runs at once; half of it where others have batches too
        (`is_shared`), so that their rows run beside these and not after them."""
        slots = [slots for pool in pools if (slots := self._slots_of(pool))]
        return max(1, min([most, *(one // 2 if is_shared else one for one in slots)]))

    async def ends_of(self, given: Given, rows: Sequence[Row], group_id: str) -> Ends:
        """Ask rows as one message and wait for what they come to.

        Raises:
            Forbidden, Unauthenticated: the submitter may ask nothing any more.
        """
        begun = await self._begin(given, rows, group_id)
        if begun is None:
            return Ends(is_open=given.gate.is_shut)
        exchange, group = begun
        outcome = None
        try:
            outcome = await self._asking.wait(given, exchange, group_id)
        finally:
            answers = answers_of(outcome)
            group.settle(answers or [])
        if any(answer.how == FENCED for answer in answers or ()):
            given.gate.hold(FENCED)
            return Ends(is_open=True)
        if answers is not None and not group.request_ids <= {answer.request_id for answer in answers}:
            # A server that was killed forgot the chunk's delivery, and gave it to another process under the same number: this
            # is its group. The next delivery takes up what is there.
            given.gate.hold("has_it_twice")
            return Ends(is_open=True)
        lines = {routes.line_request(given.job.id, row.line): row.line for row in rows}
        return ends_from(outcome, answers, lines)

    async def _begin(self, given: Given, rows: Sequence[Row], group_id: str) -> tuple[Exchange, RowGroup] | None:
        """Have rows accepted; None where they are to be asked by themselves, or nothing is begun any more."""
        asks = [ask_of(given, row, routes.line_request(given.job.id, row.line)) for row in rows]
        waits = 0
        while not given.gate.is_shut:
            if not given.gate.is_ours:
                given.gate.hold(LEASE_LOST)
                return None
            try:
                return await admit_rows(self._admission, given.identity(), group_id, asks)
            except RateLimited:
                return None
            except Transient as error:
                waits += 1
                await given.gate.sleep(max(min(_LONGEST_WAIT_S, error.retry_after_s), backoff_s(min(waits, 4))))
        return None

    # --- what earlier deliveries left ---------------------------------------------------------------------------------

    async def left_by(
        self, given: Given, chunk: int, attempt: int, queued: Mapping[str, frozenset[str]], lines: Iterable[int]
    ) -> Left:
        """Find what deliveries of a chunk before this one left: `queued` are the groups that were in the queue before."""
        names = {routes.line_request(given.job.id, line): line for line in lines}
        outcomes: dict[int, Outcome] = {}
        ours = {group: rows for group, rows in queued.items() if rows & names.keys()}
        for earlier in range(1, attempt):
            async for group_id, outcome in self._outcomes(given, chunk, earlier, ours.keys()):
                ours.pop(group_id, None)
                answers = answers_of(outcome)
                if (
                    answers is not None
                ):  # one that failed as a whole does not say whose rows it had: they are asked again
                    outcomes |= ends_from(outcome, answers, names).outcomes
        return Left(
            outcomes, {group: frozenset(names[row] for row in rows & names.keys()) for group, rows in ours.items()}
        )

    async def taken_up(self, given: Given, group_id: str, lines: Iterable[int]) -> Ends:
        """Wait for what a queued group of an earlier delivery comes to."""
        outcome = await self._asking.found(given, group_id)
        if outcome is None and given.gate.is_shut:
            return Ends(is_open=True)
        return ends_from(
            outcome, answers_of(outcome), {routes.line_request(given.job.id, line): line for line in lines}
        )

    async def stop(self, given: Given, group_id: str, stored: Stored) -> None:
        """Stop a queued group of an earlier delivery: nothing more is asked."""
        await self._bus.publish(routes.cancel(given.job.tenant, group_id), b"")
        await self._bus.remove(stored.stream, stored.sequence)

    async def _outcomes(
        self, given: Given, chunk: int, attempt: int, queued: Iterable[str]
    ) -> AsyncIterator[tuple[str, Outcome]]:
        """Give the outcomes of the groups of one delivery. They are numbered, and one that was never accepted is a gap: a page
        of nothing but gaps is the end."""
        known, n = frozenset(queued), 0
        while True:
            ids = [routes.group_request(given.job.id, chunk, attempt, n + k) for k in range(_PAGE)]
            found = await asyncio.gather(*(self._asking.outcome(given, group_id) for group_id in ids))
            for group_id, outcome in zip(ids, found, strict=True):
                if outcome is not None:
                    yield group_id, outcome
            if not any(found) and known.isdisjoint(ids):
                return
            n += _PAGE


def answers_of(outcome: Outcome | None) -> list[RowAnswer] | None:
    """Read what a group's outcome says of its rows; None where it does not speak of them."""
    if outcome is None or outcome.content_type != ROWS_TYPE:
        return None
    try:
        return answers_from(outcome.body)
    except InferbusError as error:  # then they are asked by themselves
        log.error("group_unreadable", error=error.message)
        return None


def ends_from(outcome: Outcome | None, answers: Sequence[RowAnswer] | None, lines: Mapping[str, int]) -> Ends:
    """Say of each row what a group's outcome means for it; `lines` are those of the rows, by their request ids."""
    if outcome is None:
        return Ends(is_open=True)
    if answers is None:  # it failed as a whole; or a worker that knows no groups refused it
        failed = outcome if outcome.failure is not None else None
        return Ends(dict.fromkeys(lines.values(), failed) if failed is not None else {})
    known = [(lines[answer.request_id], answer) for answer in answers if answer.request_id in lines]
    return Ends(
        {line: _outcome(answer) for line, answer in known if answer.how == ANSWERED},
        frozenset(line for line, answer in known if answer.how == NOT_BEGUN),
    )


def _outcome(answer: RowAnswer) -> Outcome:
    return Outcome(
        status=answer.status, usage=answer.usage, content_type=answer.content_type, body=answer.body
    )  # fmt: skip

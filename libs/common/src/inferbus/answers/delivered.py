"""Delivered: what the client of a streamed answer already has, so that another engine can go on exactly there."""

from __future__ import annotations

from array import array

from inferbus.contracts.step import CONTINUE, FRESH, Answer, Cached, Delta, Done, Resume


class Delivered:
    """Token ids of the accepted deltas, per choice, with the sizes they came in: 4 bytes each.

    `created` and `fingerprint` are the first attempt's, `cached` is the first delta's.
    """

    __slots__ = ("_chunks", "_done", "_ids", "_with_bytes", "cached", "created", "fingerprint", "tokens")

    def __init__(self, created: int, fingerprint: str) -> None:
        self._ids: dict[int, array[int]] = {}
        self._chunks: dict[int, array[int]] = {}
        self._done: list[Done] = []
        self._with_bytes = False
        self.tokens = 0
        self.cached: Cached | None = None
        self.created = created
        self.fingerprint = fingerprint

    def add(self, frame: Delta) -> None:
        """Note a delta that was accepted."""
        for choice, ids in frame.ids:
            known = self._ids.get(choice)
            if known is None:
                known = self._ids[choice] = array("I")
                self._chunks[choice] = array("I")
            known.extend(ids)
            self._chunks[choice].append(len(ids))
            self.tokens += len(ids)
        if frame.done:
            self._done += frame.done
        if frame.cached is not None:
            self.cached = frame.cached
        if frame.data:
            self._with_bytes = True

    @property
    def can_continue(self) -> bool:
        """Whether an engine can be told where to go on: not after bytes that no token stands for."""
        return self.tokens > 0 or not self._with_bytes

    def answer(self, engine_deaths: int, *, solo: bool) -> Answer:
        """Say where to go on, as the answer to `ask`."""
        if not self.tokens:
            return Answer(FRESH, engine_deaths, solo)
        ids = [(choice, known.tolist()) for choice, known in self._ids.items()]
        chunks = [known.tolist() for known in self._chunks.values()]
        return Answer(
            CONTINUE, engine_deaths, solo, ids, chunks, self._done, self.cached, self.created, self.fingerprint
        )


def resume_from(answer: Answer) -> Resume | None:
    """Give what an engine goes on from; None where it begins."""
    if answer.verdict != CONTINUE:
        return None
    return Resume(
        ids=answer.ids,
        chunks=answer.chunks,
        done=answer.done,
        cached=answer.cached,
        created=answer.created,
        fingerprint=answer.fingerprint,
    )

"""What happens on the bus, seen by somebody who takes no part: who works on which request, what ended, what was acked.

It tells for certain whether a victim held an open stream when a fault hit it. It uses the operator's credentials and the
platform's own contracts; it sends nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import msgspec
from nats.aio.msg import Msg
from tests.chaos.streaming import Received

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import unpacker
from inferbus.contracts.envelope import envelope_from
from inferbus.contracts.presence import READY, Presence
from inferbus.contracts.step import Ask, Delta, Failed, Finished, Frame, Started

_MOST_KEPT = 20_000
_ACK_S = 5.0
Key = tuple[str, int, int, int]
"""Asker, tag, attempt, run."""
STARTED, ENDED = "started", "ended"


class Run(msgspec.Struct, kw_only=True, eq=False):
    """One attempt at one request: from its `started` on. `first` (token), `ended` and `acked` are monotonic seconds, 0
    before."""

    request_id: str
    worker: str
    incarnation: str
    attempt: int
    ack_subject: str
    began: float
    first: float = 0.0
    ended: float = 0.0
    acked: float = 0.0


class Observer:
    """Watches a bus. Tags are mapped to request ids by the work messages' own headers."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._decode = unpacker(list[Frame]).decode
        self._decode_beat = msgspec.json.Decoder(Presence).decode
        self._names: dict[tuple[str, int], str] = {}
        self._runs: dict[Key, Run] = {}
        self._by_request: dict[str, dict[Key, Run]] = {}
        self._by_ack: dict[str, Run] = {}
        self._beats: dict[str, tuple[Presence, float]] = {}
        self._over: deque[tuple[float, str]] = deque()
        self._waiting: list[tuple[Callable[[str, Run], bool], asyncio.Future[None]]] = []
        self.dead_letters = 0

    async def start(self) -> None:
        for subject, callback in (
            ("infer.>", self._on_work),
            (routes.step_of("*"), self._on_step),
            ("$JS.ACK.>", self._on_ack),
            (routes.presence_all(self._bus.region), self._on_beat),
            (routes.SUBJECTS_DLQ, self._on_dead_letter),
        ):
            await self._bus.subscribe(subject, callback)

    # --- what can be asked --------------------------------------------------------------------------------------------

    def is_ready(self, process: str, pid: int, since: float) -> bool:
        """Say whether a process of this pid has said after `since` that it is ready."""
        beat, heard = self._beats.get(process, (None, 0.0))
        return beat is not None and beat.pid == pid and beat.state == READY and heard > since

    def restarts(self, process: str) -> int:
        """Give how often a worker's engine was started anew."""
        beat, _ = self._beats[process]
        return beat.engine.restarts if beat.engine is not None else 0

    def held_by(self, process: str, streams: list[Received]) -> list[Received]:
        """Give the streams that a worker works on now: begun there, not ended there, and their clients have a part."""
        return [one for one in streams if one.times and self._holder(one.request_id) == process]

    def taken_over(self, stream: Received, since: float) -> float:
        """Give when the first token came of an attempt that began after `since`; 0 while there is none.

        Deltas of a durable request do not pass here: of those it is the client's first piece.
        """
        runs = [run for run in self._by_request.get(stream.request_id, {}).values() if run.began > since]
        if stream.last_id and runs:
            return next((at for at in stream.times if at >= runs[0].began), 0.0)
        return next((run.first for run in runs if run.first), 0.0)

    def worker_of(self, request_id: str) -> str:
        """Name the worker that has a request now; empty if none has."""
        return self._holder(request_id)

    def last_worker_of(self, request_id: str) -> str:
        """Name the worker that began a request last."""
        runs = list(self._by_request.get(request_id, {}).values())
        return runs[-1].worker if runs else ""

    def gateway_of(self, request_id: str) -> str:
        """Name the gateway that published a request's work; empty if it is not known."""
        asker = next((asker for (asker, _), name in self._names.items() if name == request_id), "")
        return next((name for name, (beat, _) in self._beats.items() if asker and beat.asker == asker), "")

    def attempts(self, request_id: str) -> int:
        return len(self._by_request.get(request_id, ()))

    def acks_in_flight(self) -> int:
        """Count the messages whose last attempt has ended, and whose acknowledgement has not been seen yet."""
        recent = time.monotonic() - _ACK_S
        last = [runs[key] for runs in self._by_request.values() for key in list(runs)[-1:]]
        return sum(run.ended > recent and not run.acked for run in last)

    async def moment(self, what: str, process: str, within_s: float) -> bool:
        """Wait until an attempt of a worker (any, if empty) starts or ends; False if none does in time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (lambda kind, run: kind == what and process in ("", run.worker), future)
        self._waiting.append(entry)
        done, _ = await asyncio.wait([future], timeout=within_s)
        self._waiting.remove(entry)
        return bool(done)

    async def barrier(self) -> None:
        """Wait until what was sent to this observer so far has been dealt with."""
        await self._bus.request("$JS.API.INFO")

    def forget(self, request_id: str) -> None:
        """Let go of a request whose answer has been judged; its acknowledgement may still be on its way."""
        now = time.monotonic()
        self._over.append((now, request_id))
        while self._over[0][0] < now - 2 * _ACK_S:
            for key, run in self._by_request.pop(self._over.popleft()[1], {}).items():
                self._runs.pop(key, None)
                self._by_ack.pop(run.ack_subject, None)
        while len(self._names) > _MOST_KEPT:
            self._names.pop(next(iter(self._names)))

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _holder(self, request_id: str) -> str:
        runs = list(self._by_request.get(request_id, {}).values())
        return runs[-1].worker if runs and not runs[-1].ended else ""

    async def _on_work(self, message: Msg) -> None:
        envelope = envelope_from(message.headers)
        self._names[envelope.asker, envelope.tag_no] = envelope.request_id

    async def _on_step(self, message: Msg) -> None:
        asker = message.subject.split(".")[1]
        for frame in self._decode(message.data):
            if isinstance(frame, Ask):
                continue
            key = (asker, frame.tag, frame.attempt, frame.run)
            if isinstance(frame, Started):
                self._on_started(key, frame)
            elif isinstance(frame, Delta):
                if (run := self._runs.get(key)) is not None and not run.first:
                    run.first = time.monotonic()
            elif isinstance(frame, Finished | Failed) and (run := self._runs.get(key)) is not None and not run.ended:
                run.ended = time.monotonic()
                self._tell(ENDED, run)

    def _on_started(self, key: Key, frame: Started) -> None:
        name = self._names.get((key[0], frame.tag))
        if name is None or key in self._runs:  # not seen when it was asked for, or sent again
            return
        run = self._runs[key] = Run(
            request_id=name, worker=frame.worker, incarnation=frame.incarnation, attempt=frame.attempt,
            ack_subject=frame.ack_subject, began=time.monotonic(),
        )  # fmt: skip
        self._by_request.setdefault(name, {})[key] = run
        self._by_ack[frame.ack_subject] = run
        self._tell(STARTED, run)

    async def _on_ack(self, message: Msg) -> None:
        run = self._by_ack.get(message.subject)
        if run is not None and message.data.startswith(b"+ACK"):
            run.acked = time.monotonic()

    async def _on_beat(self, message: Msg) -> None:
        beat = self._decode_beat(message.data)
        self._beats[beat.process] = (beat, time.monotonic())

    async def _on_dead_letter(self, message: Msg) -> None:
        self.dead_letters += 1

    def _tell(self, what: str, run: Run) -> None:
        for matches, future in self._waiting:
            if not future.done() and matches(what, run):
                future.set_result(None)

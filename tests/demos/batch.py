"""`make demo-batch`: a batch of 10,000 rows while everything that works on it is killed, at least fifty times; then the
same batch undisturbed, and a comparison.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from tests.batch_jobs import Batches, lines, open_batches
from tests.demos.show import Show
from tests.main_path import MainPath, Service

from inferbus import routes
from inferbus.bus.stored import read_stored
from inferbus.codec import from_json
from inferbus.contracts.batch import COMPLETED, JobRecord
from inferbus.contracts.usage import UsageEvent
from inferbus.errors import InferbusError
from inferbus.telemetry import logs
from inferbus_batch.fail_points import PART_WRITTEN

ROWS, TOKENS = 10_000, 4
KILLS, BETWEEN = 50, 10
EVERY_S = 0.5
END_S = 900.0
CHUNKS = {"role": "chunks", "chunk_slots": 2, "in_flight": 64, "chunk_rows": 40, "first_chunk_rows": 40}
QUICK = {"simulator_itl_s": 0.002, "simulator_slots": 64}
SLOW = {"simulator_itl_s": 0.04, "simulator_slots": 8}  # so that there is time for the kills
LOGS = {"accepted": "batch_part_committed", "refused": "second_commit_refused"}


class Result(msgspec.Struct, frozen=True):
    """What a run came to."""

    job: JobRecord
    rows: int
    digest: str
    seconds: float


class Victims:
    """The processes that may be killed, and how each is started again."""

    def __init__(self, path: MainPath) -> None:
        self._path = path
        self._running: dict[str, Service] = {}
        self.kills: collections.Counter[str] = collections.Counter()

    @property
    def total(self) -> int:
        return sum(self.kills.values())

    async def start(self) -> None:
        for name in ("llm-0", "llm-1", "coordinator-0", "coordinator-1", "batch-0", "batch-1", "batch-2"):
            await self._start(name)

    async def kill(self, name: str) -> None:
        """Kill a process (one that has killed itself counts as what it was made for), and start it again."""
        if name == "nats":
            await self._path.nats.restart(signal.SIGKILL)
        else:
            await self._running[name].kill()
            await self._start(name)
        self.kills[name.split("-", maxsplit=1)[0]] += 1

    async def until_it_killed_itself(self) -> None:
        """Have a chunk worker kill itself between writing a part and committing it."""
        name = "batch-2"
        await self._running[name].kill()
        self._running[name] = await self._path.batch(name, **CHUNKS, fail_point=PART_WRITTEN)
        await self._running[name].ended(60.0)
        self.kills["between write and commit"] += 1
        await self._start(name)

    async def _start(self, name: str) -> None:
        if name.startswith("llm"):
            self._running[name] = await self._path.worker(name, **SLOW)
        elif name.startswith("coordinator"):
            self._running[name] = await self._path.batch(name, role="coordinator")
        else:
            self._running[name] = await self._path.batch(name, **CHUNKS)


def whom_next() -> Iterator[str]:
    """Give whom to kill, in turns; an empty name: one that kills itself between write and commit."""
    while True:
        yield from ("batch-0", "", "llm-0", "coordinator-0", "batch-1", "", "nats", "llm-1", "coordinator-1")


async def disturbed(show: Show, victims: Victims, batches: Batches, job: JobRecord) -> None:
    """Kill until there were enough of each kind, or the job is over."""
    for name in whom_next():
        if victims.total >= KILLS and victims.kills["between write and commit"] >= BETWEEN:
            return
        await (victims.kill(name) if name else victims.until_it_killed_itself())
        await asyncio.sleep(EVERY_S)
        try:
            known = await batches.job(job)
        except InferbusError:
            continue
        if not victims.total % 10:
            show.say(f"{victims.total} kills, {known.counts.completed} rows")
        if known.state == COMPLETED:
            return


async def result_of(batches: Batches, job: JobRecord, began: float) -> Result:
    job = await batches.over(job, within_s=END_S)
    seconds = time.monotonic() - began
    answers = await batches.output(job)
    said = [(one["custom_id"], one["response"]["body"]["choices"][0]["message"]["content"]) for one in answers]
    names = {name for name, _ in said}
    digest = hashlib.sha256(msgspec.json.encode(said)).hexdigest()
    return Result(job, len(names) if len(names) == len(said) else -1, digest, seconds)


async def bills_of(path: MainPath, job: JobRecord) -> tuple[int, int, int]:
    """Count the lines that were charged, their tokens, and the tokens that were wasted."""
    bus = await path.nats.connect("ledger")
    try:
        found = await read_stored(bus, routes.STREAM_USAGE, routes.usage_filter("dev"))
    finally:
        await bus.close()
    events = [from_json(one.data, UsageEvent, what="event") for one in found]
    mine = [event for event in events if event.request_id.startswith(f"{job.id}-")]
    return (
        sum(event.requests for event in mine),
        sum(event.completion_tokens for event in mine),
        sum(event.wasted_tokens for event in mine),
    )


async def run(show: Show, rows: int) -> None:
    with tempfile.TemporaryDirectory(prefix="inferbus-demo-") as folder:
        async with MainPath(Path(folder)) as path, open_batches(path, Path(folder)) as batches:
            engine = await path.worker("llm-0", **QUICK)
            quiet = await path.batch("batch-9", chunk_rows=40, first_chunk_rows=40)
            show.section("Undisturbed", f"{rows} rows of {TOKENS} tokens, a simulated engine")
            began = time.monotonic()
            wanted = await result_of(batches, await batches.submit(lines(rows, tokens=TOKENS)), began)
            show.say(f"{wanted.rows} results in {wanted.seconds:.1f} s")
            await asyncio.gather(quiet.kill(), engine.kill())
            await chaos(show, path, batches, wanted, rows)


async def chaos(show: Show, path: MainPath, batches: Batches, wanted: Result, rows: int) -> None:
    show.section("Under SIGKILL", "chunk workers, coordinators, engines and the bus, one after the other")
    victims = Victims(path)
    await victims.start()
    began = time.monotonic()
    job = await batches.submit(lines(rows, tokens=TOKENS))
    async with path.topology():
        await disturbed(show, victims, batches, job)
        got = await result_of(batches, job, began)
    logged = {
        what: sum(path.log(f"batch-{n}").count(event) for n in range(3)) for what, event in LOGS.items()
    }  # fmt: skip
    parts = [part async for _, part in batches.parts.since("dev", job.id, 1)]
    show.table(["killed", "times"], [[name, str(count)] for name, count in sorted(victims.kills.items())])
    show.table(
        ["commits", ""],
        [["accepted", str(len(parts))], ["told of by who committed", str(logged["accepted"])],
         ["refused as a second one", str(logged["refused"])]],
    )  # fmt: skip
    taken = sum(part.taken for part in parts)
    show.say(f"{got.rows} results in {got.seconds:.1f} s; {taken} rows were found asked already and not asked again")
    charged, tokens, wasted = await bills_of(path, job)
    show.say(f"charged: {charged} lines, {tokens} tokens; {wasted} tokens wasted")
    show.claim(f"at least {KILLS} processes were killed", victims.total >= KILLS)
    show.claim(
        f"at least {BETWEEN} of them between write and commit", victims.kills["between write and commit"] >= BETWEEN
    )
    show.claim("the batch completed", got.job.state == COMPLETED)
    show.claim("every line has exactly one result", got.rows == rows == got.job.counts.completed)
    show.claim("the results are those of the undisturbed run, to the letter", got.digest == wanted.digest)
    show.claim("each chunk has one committed part", sorted(part.n for part in parts) == list(range(got.job.chunks)))
    same = got.job.spent.completion_tokens == wanted.job.spent.completion_tokens
    show.claim("the tokens of its results are the same", same)
    show.claim("each line was charged once", charged == rows and tokens == got.job.spent.completion_tokens)
    show.claim("wasted tokens are under five in a hundred", wasted <= tokens * 0.05)


def main() -> int:
    show = Show()
    logs.configure("demo", "error")
    asyncio.run(run(show, int(sys.argv[1]) if len(sys.argv) > 1 else ROWS))
    return show.end()


if __name__ == "__main__":
    sys.exit(main())

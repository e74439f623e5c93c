"""`make demo-batch`: 10,000 lines through the ordinary client; coordinators, chunk workers, engines and the bus are killed all
the time, and every line has one result, the one an undisturbed run gives.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import openai
from openai import AsyncOpenAI
from openai.types import Batch
from tests.demos.batch_strikes import BETWEEN, CHUNK_ROWS, Crew
from tests.demos.show import Show
from tests.main_path import MODEL, MainPath

from inferbus import routes
from inferbus.batch.part_book import PartBook
from inferbus.bus.stored import read_stored
from inferbus.contracts.batch import PartRecord
from inferbus.contracts.usage import Figures, UsageEvent, events_in
from inferbus.ledger.reading import verify
from inferbus.telemetry import logs
from inferbus.testing import eventually

CHAT = "/v1/chat/completions"
ROWS, TOKENS = 10_000, 16
KILLS, BETWEEN_KILLS = 50, 10
OVER_S = 300.0
LEDGER_S = 60.0


class Run(msgspec.Struct, frozen=True):
    """What a batch came to: the client's view, the answers by custom_id, and what the platform's own books say."""

    batch: Batch
    custom_ids: list[str]
    texts: dict[str, str]
    completion_tokens: int
    prompt_tokens: int
    seconds: float


def input_lines(rows: int) -> bytes:
    def line(n: int) -> bytes:
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"row {n}"}], "max_tokens": TOKENS}
        return json.dumps({"custom_id": f"row-{n}", "method": "POST", "url": CHAT, "body": body}).encode() + b"\n"

    return b"".join(map(line, range(1, rows + 1)))


async def begun(client: AsyncOpenAI, data: bytes) -> Batch:
    """Upload and begin, as anybody would."""
    file = await client.files.create(file=("input.jsonl", data), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


async def ended(client: AsyncOpenAI, batch: Batch, began: float) -> Run:
    """Wait for the end and read the output."""

    async def is_over() -> bool:
        return (await client.batches.retrieve(batch.id)).status in ("completed", "failed", "expired", "cancelled")

    await eventually(is_over, within_s=OVER_S)
    batch = await client.batches.retrieve(batch.id)
    seconds = time.monotonic() - began
    content = await client.files.content(batch.output_file_id) if batch.output_file_id else None
    answers: list[dict[str, Any]] = [json.loads(line) for line in content.content.splitlines()] if content else []
    bodies = {answer["custom_id"]: answer["response"]["body"] for answer in answers}
    usage = [answer["response"]["body"]["usage"] for answer in answers]
    return Run(
        batch,
        [answer["custom_id"] for answer in answers],
        {custom_id: body["choices"][0]["message"]["content"] for custom_id, body in bodies.items()},
        sum(one["completion_tokens"] for one in usage),
        sum(one["prompt_tokens"] for one in usage),
        seconds,
    )


async def undisturbed(show: Show, path: MainPath, data: bytes, rows: int) -> Run:
    show.section(
        "An undisturbed run",
        f"{rows} lines, {TOKENS} tokens each; one engine worker, one batch process; openai's client",
    )
    services = [await path.worker("engine-alone"), await path.batch("batch-alone")]
    async with path.client(max_retries=10) as client:
        began = time.monotonic()
        run = await ended(client, await begun(client, data), began)
    for service in services:
        await service.kill()
    show.say(f"{run.batch.status} in {run.seconds:.1f} s: {run.completion_tokens} tokens")
    show.claim(f"{rows} results", len(run.custom_ids) == len(run.texts) == rows)
    return run


async def struck(show: Show, path: MainPath, data: bytes, rows: int, seed: int) -> tuple[Run, Crew]:
    show.section(
        "The same under SIGKILL",
        "two engine workers, two coordinators, two chunk workers, one more that dies between write and commit again and"
        " again, one that is stopped for longer than its lease",
    )
    crew = Crew(path, rows / ROWS)
    await crew.start()
    async with path.client(max_retries=30) as client, path.topology():
        began = time.monotonic()
        batch = await begun(client, data)

        async def progress() -> float:
            try:
                counts = (await client.batches.retrieve(batch.id)).request_counts
            except openai.APIError:  # the bus is being killed
                return 0.0
            return counts.completed / rows if counts else 0.0

        async def say() -> None:
            while True:
                await asyncio.sleep(15)
                show.say(f"{time.monotonic() - began:4.0f} s: {progress_of[0]:.0%}, {sum(crew.killed.values())} killed")

        progress_of = [0.0]

        async def noted() -> float:
            progress_of[0] = max(progress_of[0], await progress())
            return progress_of[0]

        saying = asyncio.create_task(say())
        await crew.strike_all(seed, noted)
        run = await ended(client, batch, began)
        saying.cancel()
        crew.note_tokens()
    show.table(["killed with SIGKILL", "times"], [[kind, str(many)] for kind, many in crew.killed.items()])
    return run, crew


def same_results(show: Show, calm: Run, run: Run, rows: int) -> None:
    show.section("Every line, once", f"the batch took {run.seconds:.0f} s")
    counts = run.batch.request_counts
    assert counts is not None
    show.claim(
        f"status {run.batch.status}; of {counts.total} lines {counts.completed} completed, {counts.failed} failed",
        (run.batch.status, counts.total, counts.completed, counts.failed) == ("completed", rows, rows, 0),
    )
    most = max(Counter(run.custom_ids).values(), default=0)
    show.claim(
        f"{len(run.custom_ids)} results, every custom_id once, in the order of the input",
        most == 1 and run.custom_ids == [f"row-{n}" for n in range(1, rows + 1)],
    )
    show.claim("every text is the one of the undisturbed run", run.texts == calm.texts)
    show.claim(
        f"sums are equal: {run.prompt_tokens} prompt and {run.completion_tokens} completion tokens",
        (run.prompt_tokens, run.completion_tokens) == (calm.prompt_tokens, calm.completion_tokens),
    )


async def commits(show: Show, path: MainPath, run: Run, crew: Crew, rows: int) -> None:
    show.section("Commits", "a part is committed once; whoever comes second is refused")
    bus = await path.nats.connect("batch")
    parts = [part async for _, part in PartBook(bus).since("dev", run.batch.id, 1)]
    await bus.close()
    refused = path.count_in_logs("second_commit_refused", run.batch.id)
    accepted = len(parts)
    show.table(
        ["commits attempted", "refused as duplicates", "accepted", "written, killed before the commit"],
        [[str(accepted + refused), str(refused), str(accepted), str(crew.killed[BETWEEN])]],
    )
    show.claim("each part was accepted once", sorted(part.n for part in parts) == list(range(len(parts))))
    show.claim(f"the parts' rows are {rows}", sum(part.rows for part in parts) == rows)
    total, again = sum(crew.killed.values()), sum(part.attempt > 1 for part in parts)
    show.say(f"{again} of {accepted} parts (of {CHUNK_ROWS} rows) took more than one delivery; {taken(parts)} rows were"
             " found done or on their way by the next worker")  # fmt: skip
    least, least_between = KILLS * rows // ROWS, BETWEEN_KILLS * rows // ROWS
    show.claim(f"{total} processes were killed, at least {least}", total >= least)
    show.claim(f"{crew.killed[BETWEEN]} of them between write and commit, at least {least_between}",
               crew.killed[BETWEEN] >= least_between)  # fmt: skip


def taken(parts: list[PartRecord]) -> int:
    return sum(part.taken for part in parts)


async def ledger(show: Show, path: MainPath, calm: Run, run: Run, crew: Crew) -> None:
    show.section("The ledger", "usage events of both runs, and the totals made of them")
    bus = await path.nats.connect("admin")

    async def is_added_up() -> bool:
        return (await verify(bus)).waiting == 0

    await eventually(is_added_up, within_s=LEDGER_S)
    verdict = await verify(bus)
    found = await read_stored(bus, routes.STREAM_USAGE, routes.usage_filter("dev"))
    await bus.close()
    events = [event for one in found for event in events_in(one.data)]
    sums = {one.batch.id: summed(events, one.batch.id) for one in (calm, run)}
    charged = Counter(
        event.request_id for event in events if event.request_id.startswith(run.batch.id) and event.completion_tokens
    )
    show.claim(
        f"each of {len(charged)} lines is charged once", set(charged.values()) == {1} and len(charged) == len(run.texts)
    )
    show.claim(
        f"what is charged is equal: {sums[run.batch.id].completion_tokens} completion tokens",
        charges(sums[run.batch.id]) == charges(sums[calm.batch.id]) == (run.prompt_tokens, run.completion_tokens),
    )
    show.claim("totals equal events", not verdict.differences and not verdict.waiting)
    wasted = sum(crew.made.values()) - run.completion_tokens
    kills = sum(crew.killed.values())
    show.say(
        f"tokens engines said they had made: {sum(crew.made.values())}; "
        f"wasted: {wasted}, {wasted / run.completion_tokens:.1%}, {wasted / kills:.0f} a kill; "
        f"noted as wasted in the ledger: {sums[run.batch.id].wasted_tokens}"
    )
    show.claim("wasted tokens are few: less than a tenth", wasted < 0.1 * run.completion_tokens)


def summed(events: list[UsageEvent], batch: str) -> Figures:
    return sum((event.figures for event in events if event.request_id.startswith(f"{batch}-")), Figures())


def charges(figures: Figures) -> tuple[int, int]:
    return figures.prompt_tokens, figures.completion_tokens


async def act(show: Show, folder: Path, rows: int, seed: int) -> None:
    data = input_lines(rows)
    async with MainPath(folder) as path:
        path.start_s = 60.0
        await path.gateway()
        await path.ledger()
        calm = await undisturbed(show, path, data, rows)
        run, crew = await struck(show, path, data, rows, seed)
        same_results(show, calm, run, rows)
        await commits(show, path, run, crew, rows)
        await ledger(show, path, calm, run, crew)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="fewer lines, as many fewer kills")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logs.configure("demo", "error")
    show = Show()
    with tempfile.TemporaryDirectory(prefix="inferbus-demo-") as folder:
        asyncio.run(act(show, Path(folder), args.rows, args.seed))
    return show.end()


if __name__ == "__main__":
    sys.exit(main())

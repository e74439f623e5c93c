"""The other side of `batch.py`: Ray Data drives the simulator through `map_batches`. Runs in an environment of its own.

One actor holds the engine, as Ray Data's own LLM stages do; batches are asynchronous, and enough are open to keep every slot
busy. Prints one JSON line: seconds from `ray.init` until it stood, until the first row was out and until the last was
written, and the CPU seconds of everything (driver, raylet, GCS, actors) in the first and in the other part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import ray

from inferbus.worker.ports import Work
from inferbus_bench.cpu import cpu_of
from inferbus_llm_worker.adapters.simulator import SimulatorEngine

CHAT = "/v1/chat/completions"
BATCH_ROWS, OPEN_BATCHES = 128, 4


class _Waiting:
    """A sink that resolves a future."""

    def __init__(self, future: asyncio.Future[bytes]) -> None:
        self._future = future

    def delta(self, *_: object) -> None:
        return

    def finished(self, _status: int, _usage: object, data: bytes, _content_type: str) -> None:
        self._future.set_result(data)

    def failed(self, error: BaseException, *_: object) -> None:
        self._future.set_exception(error)


class Engine:
    """The stage: one simulator, started with the first batch, in the actor's own event loop."""

    def __init__(self, slots: int, itl_s: float) -> None:
        self._engine = SimulatorEngine(slots=slots, itl_s=itl_s)
        self._started: asyncio.Task[None] | None = None
        self._n = 0

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if self._started is None:
            self._started = asyncio.ensure_future(self._engine.start())
        await self._started
        bodies = await asyncio.gather(*(self._ask(plain(body)) for body in batch["body"]))
        texts = [msgspec.json.decode(body)["choices"][0]["message"]["content"] for body in bodies]
        yield {"custom_id": list(batch["custom_id"]), "text": texts, "at": [time.time()] * len(texts)}

    async def _ask(self, body: dict[str, Any]) -> bytes:
        self._n += 1
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        work = Work(
            key=str(self._n), request_id=str(self._n), path=CHAT, body=msgspec.json.encode(body), streamed=False,
            created=int(time.time()),
        )  # fmt: skip
        await self._engine.submit(work, _Waiting(future))
        return await future


def plain(body: dict[str, Any]) -> dict[str, Any]:
    """Give a body as Arrow has read it in JSON types."""
    messages = [dict(message) for message in body["messages"]]
    return {"model": body["model"], "messages": messages, "max_tokens": int(body["max_tokens"])}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in (("input", str), ("output", str), ("slots", int), ("itl", float), ("cpus", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    args = parser.parse_args()
    roots = {"ray": os.getpid()}
    began = time.time()
    ray.init(num_cpus=args.cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    up, started = time.time(), cpu_of(roots)["ray"]
    data = ray.data.read_json(args.input, override_num_blocks=16).map_batches(
        Engine,
        fn_constructor_kwargs={"slots": args.slots, "itl_s": args.itl},
        batch_size=BATCH_ROWS,
        compute=ray.data.ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=2 * OPEN_BATCHES),
        max_concurrency=OPEN_BATCHES,
    )
    data.write_json(args.output)
    over, spent = time.time(), cpu_of(roots)["ray"]
    rows, first = 0, over
    for part in Path(args.output).iterdir():
        for line in part.read_text().splitlines():
            rows, first = rows + 1, min(first, json.loads(line)["at"])
    print(json.dumps({
        "rows": rows, "start_s": up - began, "first_s": first - began, "seconds": over - up, "cpu_start_s": started,
        "cpu_s": spent - started,
    }))  # fmt: skip
    os._exit(0)  # Ray's own end takes seconds and is no part of it


if __name__ == "__main__":
    main()

"""`make demo-chat`: start everything on free ports, show what it does, check every claim, leave nothing running."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.demos import clients, mistakes, trace_tree
from tests.demos.show import Show
from tests.process_tree import Process
from tests.running_platform import RunningPlatform

from inferbus.cli.progress import Progress

PATIENCE_S = 180.0
# Engines that split long prompts, for the one section that needs an engine to die (mistakes.poison).
SPLIT_PROMPTS = {"INFERBUS_LLM_WORKER_ARGS": "--enable-chunked-prefill --max-num-batched-tokens 64"}


async def sections(show: Show, platform: RunningPlatform) -> None:
    async with platform.async_openai(timeout=PATIENCE_S) as client:
        await clients.streaming_chat(show, client)
        await clients.tool_call(show, client)
        await clients.json_answer(show, client)
        await clients.embedding(show, client)
        await clients.producer_by_sdk(show, platform)
        await clients.raw_nats_client(show, platform)
        await clients.two_workers(show, platform, client)
        await trace_tree.trace_of_one_request(show, platform, client)
        await mistakes.by_http(show, platform, client)
        await mistakes.too_many(show, platform, client)
        await mistakes.wrong_address(show, platform)
        await mistakes.unreadable(show, platform, client)
        await mistakes.bus_down(show, platform, client)
        await mistakes.poison(show, platform, client)


def start(show: Show, platform: RunningPlatform) -> list[Process]:
    """Wait until it is ready; returns its processes."""
    show.section("Start", "inferbus up --workers 2 --embed: bus, topology, gateway, three workers with vLLM on the CPU")
    began = time.monotonic()
    platform.start()
    with Progress(show.console) as progress:
        platform.until_ready(progress.show)
    show.say(f"\nready after {time.monotonic() - began:.0f} s at {platform.url}")
    return platform.processes()


def main() -> int:
    show = Show()
    with tempfile.TemporaryDirectory(prefix="inferbus-demo-") as folder:
        platform = RunningPlatform(Path(folder) / "home", "--workers", "2", "--embed", env=SPLIT_PROMPTS)
        try:
            processes = start(show, platform)
            asyncio.run(sections(show, platform))
            processes = [*processes, *platform.processes()]
        finally:
            platform.stop()
        show.section("Stop", "Ctrl-C")
        show.claim("nothing is left running", not [process for process in processes if process.alive()])
    return show.end()


if __name__ == "__main__":
    sys.exit(main())

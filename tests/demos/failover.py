"""`make demo-failover`: kill what serves a stream, in the middle of a tool call and of a JSON answer, and compare."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from tests.chaos.assembled import Assembled, Choice, assemble
from tests.chaos.observer import Observer
from tests.chaos.real_questions import SCHEMA, TOOL, body_of
from tests.chaos.streaming import Received, receive, receive_durably
from tests.demos.show import Show
from tests.process_tree import Process
from tests.running_platform import CHAT, RunningPlatform

from inferbus.cli.progress import Progress
from inferbus.testing import eventually

READY_S = 240.0
MOST_S = 60.0
_WIDTH = 62
_SHOWN = 420


class Case(msgspec.Struct, frozen=True):
    """What is asked, and where in the answer the interesting part is."""

    title: str
    fields: dict[str, Any]
    prompt: str


CASES = (
    Case("a tool call", TOOL, "What is the weather in Tokyo?"),
    Case("an answer by JSON schema", SCHEMA | {"temperature": 1, "seed": 2}, "Explain Thread."),
)


class Stage:
    """The running platform, somebody who watches its bus, and how to ask it."""

    def __init__(self, show: Show, platform: RunningPlatform, observer: Observer) -> None:
        self.show = show
        self.platform = platform
        self.observer = observer
        self._count = 0

    def new(self, case: Case) -> tuple[Received, bytes]:
        self._count += 1
        received = Received(request_id=f"failover-{self._count}", gateway="", began=time.monotonic())
        return received, msgspec.json.encode(body_of(CHAT, case.fields, case.prompt))

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.platform.key}"}

    async def ask(self, case: Case) -> Received:
        """Ask, and let nothing happen."""
        received, body = self.new(case)
        await receive(self.platform.url, body, self.headers | {"X-Request-Id": received.request_id}, received)
        return received

    async def whole_again(self) -> None:
        """Wait until both workers and both gateways are ready."""
        names = ("llm-0", "llm-1", "gateway-0", "gateway-1")
        since = time.monotonic()

        def is_whole() -> bool:
            return all(self.observer.is_ready(name, self.platform.pid(name), since) for name in names)

        await eventually(is_whole, within_s=READY_S)


def text_of(received: Received, upto: int | None = None) -> str:
    """Give the part that grows: the call's arguments, or the answer's text."""
    choice = assemble(received.events[:upto]).choices.get(0, Choice())
    return choice.calls[0][1] if choice.calls else choice.content


async def a_killed_worker(stage: Stage, case: Case, unbroken: Received) -> None:
    show, observer = stage.show, stage.observer
    show.section(
        f"SIGKILL of the worker, inside {case.title}", "the client does nothing: it reads its stream to the end"
    )
    await stage.whole_again()
    received, body = stage.new(case)
    headers = stage.headers | {"X-Request-Id": received.request_id}
    reading = asyncio.create_task(receive(stage.platform.url, body, headers, received))
    await _middle(received, unbroken, reading)
    victim = observer.worker_of(received.request_id)
    pid = stage.platform.pid(victim)
    cut, killed_at = _kill(pid, received)
    await reading
    heir = observer.last_worker_of(received.request_id)
    show.say(f"{victim} (pid {pid}) was killed after {cut} of {len(received.events)} events; {heir} went on")
    _compare(show, case, unbroken, received, cut)
    show.claim("another worker went on", heir not in ("", victim))
    _claim_takeover(show, received, cut, killed_at)


async def a_killed_gateway(stage: Stage, case: Case, unbroken: Received) -> None:
    show, observer, platform = stage.show, stage.observer, stage.platform
    show.section(
        f"SIGKILL of the gateway, inside {case.title}",
        "X-Inferbus-Durable: true; the client comes back with Last-Event-ID, to whichever gateway takes the connection",
    )
    await stage.whole_again()
    received, body = stage.new(case)
    reading = asyncio.create_task(receive_durably(lambda: {"": platform.url}, body, stage.headers, received))
    await _middle(received, unbroken, reading)
    victim = observer.gateway_of(received.request_id)
    worker = observer.worker_of(received.request_id)
    pid = platform.pid(victim)
    cut, killed_at = _kill(pid, received)
    last_id = received.last_id
    returns = await reading
    show.say(f"{victim} (pid {pid}) was killed after {cut} of {len(received.events)} events, the last one {last_id}")
    _compare(show, case, unbroken, received, cut)
    show.claim("the client had to come back", returns > 0)
    show.claim("the worker did not change: the answer was not made twice", observer.attempts(received.request_id) == 1)
    show.claim("it was in the worker's hands all the time", worker != "")
    _claim_takeover(show, received, cut, killed_at)


async def _middle(received: Received, unbroken: Received, reading: asyncio.Task[Any]) -> None:
    """Wait until a third of the answer is there."""
    wanted = len(text_of(unbroken)) // 3

    def is_there() -> bool:
        if reading.done():
            reading.result()
            raise AssertionError("the stream ended before it could be broken")
        return bool(received.times) and len(text_of(received)) > wanted

    await eventually(is_there, within_s=MOST_S)


def _kill(pid: int, received: Received) -> tuple[int, float]:
    os.kill(pid, signal.SIGKILL)
    return len(received.events), time.monotonic()


def _compare(show: Show, case: Case, unbroken: Received, broken: Received, cut: int) -> None:
    """Print both side by side, the cut marked, and check that they are equal."""
    expected, got = assemble(unbroken.events), assemble(broken.events)
    at = len(text_of(broken, cut))
    marked = text_of(broken)[:at] + "‖" + text_of(broken)[at:]
    left, right = text_of(unbroken), marked
    begin = max(0, at - _SHOWN // 2)
    rows = [(left[i : i + _WIDTH], right[i : i + _WIDTH]) for i in range(begin, min(len(left), begin + _SHOWN), _WIDTH)]
    show.table((f"unbroken, from character {begin}", "broken at ‖"), rows)
    show.claim("it was broken in the middle: text before, text after", 0 < at < len(text_of(broken)))
    show.claim(f"{case.title}: equal to the unbroken one, character by character", expected.choices == got.choices)
    show.claim(f"usage counts every token once: {_usage(got)}", expected.tokens == got.tokens and len(got.tokens) == 1)
    show.claim("one answer: one id, one time of making, one end, no error", _is_one(got))
    show.claim("what was put together is JSON", _is_json(text_of(broken)))


def _usage(whole: Assembled) -> str:
    return ", ".join(f"{prompt} + {completion}" for prompt, completion in whole.tokens)


def _is_one(whole: Assembled) -> bool:
    one = len(whole.ids) == len(whole.created) == whole.dones == 1
    return one and not whole.errors and not whole.late


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _claim_takeover(show: Show, received: Received, cut: int, killed_at: float) -> None:
    """Say how long the client waited: the longest gap after the kill, which is where the stream moved."""
    after = [at for at in received.times if at > killed_at]
    gap_s = max((later - earlier for earlier, later in zip([killed_at, *after], after, strict=False)), default=0.0)
    show.claim(f"the stream stood still for {gap_s:.2f} s (under 5 s)", 0 < gap_s < 5)


async def sections(show: Show, platform: RunningPlatform) -> None:
    async with platform.bus("operator") as bus:
        observer = Observer(bus)
        await observer.start()
        stage = Stage(show, platform, observer)
        for case in CASES:
            show.section(f"Unbroken: {case.title}", "greedy, or sampled with a seed: the same answer every time")
            await stage.whole_again()
            unbroken = await stage.ask(case)
            show.say(f"{text_of(unbroken)[:_SHOWN]} ...")
            whole = assemble(unbroken.events)
            show.claim(f"it is complete: {_usage(whole)} tokens", _is_one(whole) and _is_json(text_of(unbroken)))
            show.claim("asked again it is the same", assemble((await stage.ask(case)).events).choices == whole.choices)
            for breaking in (a_killed_worker, a_killed_gateway):
                await breaking(stage, case, unbroken)


def start(show: Show, platform: RunningPlatform) -> list[Process]:
    """Wait until it is ready; returns its processes."""
    show.section("Start", "inferbus up --workers 2 --gateways 2: vLLM on the CPU behind each worker")
    platform.start()
    with Progress(show.console) as progress:
        platform.until_ready(progress.show)
    return platform.processes()


def main() -> int:
    show = Show()
    with tempfile.TemporaryDirectory(prefix="inferbus-demo-") as folder:
        platform = RunningPlatform(Path(folder) / "home", "--workers", "2", "--gateways", "2")
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

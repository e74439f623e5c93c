"""One batch through a running platform: what it took, and what it cost which process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from openai import AsyncOpenAI

from inferbus import routes
from inferbus.bus import Bus
from inferbus.local.identities import settings_of
from inferbus.local.layout import Layout
from inferbus.local.state import read_state
from inferbus.process.presence import PresenceTable
from inferbus_bench.cpu import cpu_of
from inferbus_bench.places import ROOT
from inferbus_bench.targets import Target, home_in, platform

MODEL = "simulator"
CHAT: Final = "/v1/chat/completions"
TOKENS, SLOTS = 16, 32
PATH = ("batch", "nats-server", "worker", "ledger", "gateway")
_LOOK_S = 0.25


class Run(msgspec.Struct, frozen=True):
    """One batch: seconds from its creation to the first committed part, and to its end; CPU seconds by role meanwhile; the
    batch process's memory."""

    rows: int
    seconds: float
    first_s: float
    cpu: dict[str, float]
    memory_mib: float

    @property
    def rate(self) -> float:
        return self.rows / self.seconds

    @property
    def cpu_us(self) -> float:
        return 1e6 * sum(self.cpu.values()) / self.rows


class Place(msgspec.Struct, frozen=True):
    """A running platform, and somebody on its bus."""

    target: Target
    client: AsyncOpenAI
    bus: Bus
    parts: Bus
    presence: PresenceTable


def write_input(path: Path, rows: int, *, model: str = MODEL, tokens: int = TOKENS, words: str = "row") -> None:
    with path.open("w") as file:
        for n in range(1, rows + 1):
            message = {"role": "user", "content": f"{words} {n}"}
            body = {"model": model, "messages": [message], "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
            file.write(json.dumps({"custom_id": f"row-{n}", "method": "POST", "url": CHAT, "body": body}) + "\n")


@asynccontextmanager
async def place(
    folder: Path, itl_s: float = 0.0, *, simulator: bool = True, env: Mapping[str, str] | None = None
) -> AsyncIterator[Place]:
    """Run the platform, with a simulated engine of this pace or with vLLM; `env` is for its processes."""
    env = dict(env or {}) | {
        "INFERBUS_LLM_WORKER_SIMULATOR_SLOTS": str(SLOTS),
        "INFERBUS_LLM_WORKER_SIMULATOR_ITL_S": str(itl_s),
    }
    async with platform(folder, simulator=simulator, env=env) as target:
        layout = Layout(root=ROOT, home=home_in(folder))
        state = read_state(layout)
        assert state is not None
        bus, parts = [
            await Bus.connect(settings_of(layout, role, url=state.bus_url), name="benchmark")
            for role in ("admin", "batch")
        ]
        presence = PresenceTable(bus, bus.region)
        await presence.start()
        async with AsyncOpenAI(base_url=f"{state.url}/v1", api_key=target.key, timeout=120) as client:
            yield Place(target, client, bus, parts, presence)
        await presence.stop()
        await bus.close()
        await parts.close()


class Job:
    """A batch that runs: `create` it, then `over`."""

    def __init__(self, at: Place, rows: int) -> None:
        self._at = at
        self.rows = rows
        self.id = ""
        self.first: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def create(self, path: Path) -> None:
        client = self._at.client
        file = await client.files.create(file=path, purpose="batch")
        await self._at.parts.listen(routes.batch_parts_of("dev", "*"), lambda _: self._on_part())
        self._before = self._cpu()
        self._began = time.monotonic()
        made = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        self.id = made.id

    def _on_part(self) -> None:
        if not self.first.done():
            self.first.set_result(time.monotonic())

    async def over(self) -> Run:
        """Wait for its end.

        Raises:
            RuntimeError: not every line was answered.
        """
        memory = 0.0
        while True:
            memory = max(memory, memory_mib(self._at.target.roots["batch"]))
            batch = await self._at.client.batches.retrieve(self.id)
            if batch.status in ("completed", "failed", "expired", "cancelled"):
                break
            await asyncio.sleep(_LOOK_S)
        ended, after = time.monotonic(), self._cpu()
        counts = batch.request_counts
        if batch.status != "completed" or counts is None or counts.completed != self.rows:
            raise RuntimeError(f"{batch.status}: {counts} {batch.errors}")
        cpu = {role: after[role] - self._before[role] for role in PATH}
        return Run(self.rows, ended - self._began, self.first.result() - self._began, cpu, memory)

    def _cpu(self) -> dict[str, float]:
        return cpu_of({role: self._at.target.roots[role] for role in PATH})


def memory_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024

"""Bus, gateway and simulator workers as processes of their own, so that a test can stop, freeze and kill each."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
from openai import AsyncOpenAI
from prometheus_client import CollectorRegistry
from tests import nursery
from tests.running_platform import metric_at

import inferbus
from inferbus import routes
from inferbus.admission.keys import make_key, store_key
from inferbus.bus import Bus
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.presence import READY, Presence
from inferbus.local.ports import free_port
from inferbus.models import apply_model
from inferbus.process.presence import PresenceTable
from inferbus.testing import NatsServer, eventually, freeze
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import Topology, reconcile
from inferbus_llm_worker.adapters.simulated_words import simulated_answer

CONFIG = Path(__file__).parents[1] / "deploy/nats/nats.conf"
MODEL = "simulator"
HELLO = [{"role": "user", "content": "hello"}]
START_S = 30.0
OPEN = "inferbus_gateway_open_requests"
_PEPPER = "pepper"
_PR_SET_PDEATHSIG = 1


def answer_of(tokens: int) -> str:
    """Give the simulator's answer of so many tokens to what `ask` says."""
    return simulated_answer(HELLO, tokens)


class Service:
    """One process of ours."""

    def __init__(self, process: asyncio.subprocess.Process | nursery.Forked, name: str) -> None:
        self._process = process
        self.name = name
        self.pid = process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def freeze(self) -> None:
        """Stop it where it is, until it gets a SIGCONT."""
        await freeze(self.pid)

    async def ended(self, within_s: float = 40.0) -> int:
        """Wait for its end; returns the exit status, negative for a signal."""
        return await asyncio.wait_for(self._process.wait(), within_s)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class MainPath:
    """Use as an async context manager; then start a gateway and workers. Everything is killed at the end."""

    def __init__(self, folder: Path, entry: ModelEntry | None = None) -> None:
        self._folder = folder
        self.files = folder / "files"
        """Where bodies of files lie."""
        self.entry = entry or ModelEntry(name=MODEL, pool=MODEL)
        self.nats = NatsServer(folder, CONFIG)
        self.key = ""
        self.url = ""
        self.presence: PresenceTable
        self._admin: Bus
        self._services: list[Service] = []
        self._embedders: list[ModelEntry] = []
        self._libc = ctypes.CDLL(None)
        self.start_s = START_S
        self.env: dict[str, str] = {}
        """What every process has in its environment besides."""

    async def __aenter__(self) -> Self:
        await self.nats.start()
        try:
            await self._set_up()
        except BaseException:  # nobody else would stop it
            await self.nats.kill(signal.SIGTERM)
            raise
        return self

    async def _set_up(self) -> None:
        await self.nats.reconcile(self.entry)
        self._admin = await self.nats.connect("admin")
        await apply_model(self._admin, self.entry)
        self.key, stored = make_key("dev", _PEPPER.encode())
        await store_key(self._admin, stored)
        self.presence = PresenceTable(self._admin, self._admin.region)
        await self.presence.start()

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(service.kill() for service in self._services))
        await self.presence.stop()
        await self._admin.close()
        await self.nats.kill(signal.SIGTERM)

    # --- processes ------------------------------------------------------------------------------------------------

    async def gateway(self, name: str = "gateway-0", **settings: object) -> Service:
        """Start a gateway. `url` is that of `gateway-0`, which comes back on the port of the one before."""
        port = int(self.url.rsplit(":", 1)[1]) if self.url and name == "gateway-0" else free_port("127.0.0.1")
        if name == "gateway-0":
            self.url = f"http://127.0.0.1:{port}"
        settings = {"port": port, "key_pepper": _PEPPER} | settings
        return await self._start(name, "inferbus_gateway", "gateway", "GATEWAY", settings)

    async def other_gateway(self, name: str = "gateway-1", **settings: object) -> str:
        """Start one more gateway; returns its address."""
        port = free_port("127.0.0.1")
        await self.gateway(name, port=port, **settings)
        return f"http://127.0.0.1:{port}"

    async def worker(self, name: str = "llm-0", **settings: object) -> Service:
        """Start a worker; `settings` are its own (`simulator_itl_s`, `drain_grace_s`, ...)."""
        fixed = {"pool": self.entry.pool, "served_name": self.entry.name, "engine": "simulator"}
        return await self._start(name, "inferbus_llm_worker", "worker", "LLM_WORKER", fixed | settings)

    async def ledger(self, name: str = "ledger-0", **settings: object) -> Service:
        """Start a ledger process."""
        return await self._start(name, "inferbus.ledger", "ledger", "LEDGER", {"every_s": 0.2} | settings)

    async def batch(self, name: str = "batch-0", **settings: object) -> Service:
        """Start a batch process: coordinator and chunk workers."""
        return await self._start(name, "inferbus_batch", "batch", "BATCH", settings)

    async def vectors(self, name: str = "vectors-0", **settings: object) -> Service:
        """Start a vector service; its index lies in the folder of this test."""
        return await self._start(
            name, "inferbus_vectors", "vectors", "VECTORS", {"folder": self._folder / "vectors"} | settings
        )

    async def embedder(self, *models: str, name: str = "embed-0", **settings: object) -> Service:
        """Apply models that the simulator embeds by, in a pool of their own, and start its worker."""
        entries = [ModelEntry(name=one, pool=models[0], runtime="embed", tasks=("embeddings",)) for one in models]
        self._embedders += entries
        await self.nats.reconcile(self.entry, *self._embedders)
        for entry in entries:
            await apply_model(self._admin, entry)
        fixed = {
            "pool": models[0],
            "served_name": models[0],
            "runtime": "embed",
            "embed": "true",
            "engine": "simulator",
        }
        return await self._start(name, "inferbus_llm_worker", "worker", "LLM_WORKER", fixed | settings)

    async def _start(self, name: str, module: str, role: str, section: str, settings: dict[str, object]) -> Service:
        env = {key: value for key, value in os.environ.items() if not key.startswith("INFERBUS_")}
        env |= {
            "INFERBUS_BUS_URL": self.bus_url_of(name),
            "INFERBUS_BUS_USER": role,
            "INFERBUS_BUS_PASSWORD": self.nats.passwords[role],
            "INFERBUS_FILES_URL": str(self.files),
        }
        env |= {
            f"INFERBUS_{section}_{key.upper()}": str(value) for key, value in ({"process": name} | settings).items()
        }
        env |= self.env
        service = Service(await self._run(module, env, self._folder / f"{name}.log"), name)
        self._services.append(service)
        await eventually(lambda: self._is_ready(service), within_s=self.start_s)
        return service

    async def _run(self, module: str, env: dict[str, str], log: Path) -> asyncio.subprocess.Process | nursery.Forked:
        if (python := self.python_of(module)) == sys.executable:
            return await nursery.fork(module, env, log)
        with log.open("ab") as file:
            return await asyncio.create_subprocess_exec(
                *(python, "-m", module), env=env, stdout=file, stderr=file, preexec_fn=self._die_with_the_test
            )

    def bus_url_of(self, process: str) -> str:
        """Say where a process finds the bus."""
        return self.nats.url

    def python_of(self, module: str) -> str:
        """Give the interpreter that runs a module."""
        return sys.executable

    def _die_with_the_test(self) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def _is_ready(self, service: Service) -> bool:
        beat = self.presence.alive().get(service.name)
        return beat is not None and beat.pid == service.pid and beat.state == READY

    # --- what can be seen -------------------------------------------------------------------------------------------

    def beat(self, process: str) -> Presence:
        """Give a process's last beat, at most half a second old."""
        return self.presence.alive()[process]

    def log(self, process: str) -> str:
        """Give what a process has written so far."""
        return (self._folder / f"{process}.log").read_text()

    def count_in_logs(self, event: str, about: str = "") -> int:
        """Count the lines that all processes wrote about an event, killed ones too."""
        said = (line for log in self._folder.glob("*.log") for line in log.read_text(errors="replace").splitlines())
        return sum(event in line and about in line for line in said)

    def figure(self, process: str, name: str) -> float:
        """Read one of a process's metrics, of the model's pool where it has one."""
        return metric_at(self.beat(process).health_port, name)

    async def stored(self, lane: str = routes.INTERACTIVE) -> int:
        """Count the messages in the work stream: those that wait and those that are worked on."""
        stream = routes.stream_infer(self._admin.region, self.entry.runtime, lane)
        answer = await self._admin.request(f"$JS.API.STREAM.INFO.{stream}")
        return int(msgspec.json.decode(answer.data)["state"]["messages"])

    async def settled(self, within_s: float = 10.0) -> None:
        """Wait until nothing is queued, nothing runs and nobody waits for an answer."""

        async def is_settled() -> bool:
            workers = [name for name, beat in self.presence.alive().items() if beat.role == "worker"]
            try:
                running = [self.figure(worker, "inferbus_worker_running") for worker in workers]
            except httpx.ConnectError:  # one was killed and has not been missed yet
                return False
            return not any(running) and not self.figure("gateway-0", OPEN) and not await self.stored()

        await eventually(is_settled, within_s=within_s)

    # --- asking -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def topology(self, settings: TopologySettings | None = None) -> AsyncIterator[None]:
        """Reconcile all the time, as its process does: what a restarted server forgot is made again."""
        bus = await self.nats.connect("operator")
        stopping = asyncio.Event()
        task = asyncio.create_task(Topology(bus, settings or TopologySettings(), CollectorRegistry()).run(stopping))
        try:
            yield
        finally:
            stopping.set()
            await task
            await bus.close()

    async def store_deltas_in_memory(self) -> None:
        """Have the topology make the stream of kept deltas anew, as its settings say."""
        bus = await self.nats.connect("operator")
        await bus.request(f"$JS.API.STREAM.DELETE.{routes.STREAM_DELTAS}")
        await reconcile(bus, TopologySettings(deltas_storage="memory"), [self.entry])
        await bus.close()

    async def key_of(self, tenant: str) -> str:
        """Make a key of another tenant's; gateways know it a moment later."""
        key, stored = make_key(tenant, _PEPPER.encode())
        await store_key(self._admin, stored)
        return key

    def producer(self) -> inferbus.Client:
        """A producer of the tenant `dev`, on the bus."""
        return inferbus.Client(self.nats.url, tenant="dev", user="dev", password=self.nats.passwords["dev"])

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[AsyncOpenAI]:
        defaults: dict[str, Any] = {"max_retries": 0, "timeout": 60.0, "api_key": self.key}
        async with AsyncOpenAI(base_url=f"{self.url}/v1", **(defaults | options)) as client:
            yield client


async def ask(client: AsyncOpenAI, tokens: int, *, stream: bool = False, **options: Any) -> str:
    """Ask the simulator for an answer of so many tokens; returns its text."""
    body = {"model": MODEL, "messages": HELLO, "max_tokens": tokens} | options
    answer = await client.chat.completions.create(**body, stream=stream)
    if not stream:
        return answer.choices[0].message.content or ""
    return "".join([choice.delta.content or "" async for chunk in answer for choice in chunk.choices])

"""The platform under chaos: gateways and workers as processes of their own, each with a link to the bus that can be cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from tests.chaos.observer import Observer
from tests.connected.proxy import Proxy
from tests.main_path import MODEL, MainPath, Service
from tests.process_tree import Process, descendants
from tests.running_platform import CHAT, ROOT

from inferbus.contracts.models import ModelEntry
from inferbus.local.layout import find_layout
from inferbus.testing import eventually

SIMULATOR, VLLM = "simulator", "vllm"
RESTORE_S = 60.0
ENGINE_START_S = 240.0
"""Two engines that start beside each other on a busy machine."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What runs. `itl_s` is the simulator's time per token, `drain_grace_s` short so that a drain hands streams over."""

    engine: str = SIMULATOR
    workers: int = 2
    gateways: int = 1
    itl_s: float = 0.015
    drain_grace_s: float = 0.5


class ChaosPlatform(MainPath):
    """Use as an async context manager. Every process is a `Service` by name in `members`, and restarted by `restore`."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        model = MODEL if setting.engine == SIMULATOR else CHAT
        super().__init__(folder, ModelEntry(name=model, pool=model))
        self.setting = setting
        self.links: dict[str, Proxy] = {}
        self.members: dict[str, Service] = {}
        self.urls: dict[str, str] = {}
        self.observer: Observer
        self._stack, self._watching = AsyncExitStack(), AsyncExitStack()
        self._layout = find_layout({}, ROOT)
        if setting.engine == VLLM:
            self.start_s = ENGINE_START_S

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self._start_all()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def _start_all(self) -> None:
        bus = await self.nats.connect("operator", name="observer")
        self._watching.push_async_callback(bus.close)
        self.observer = Observer(bus)
        await self.observer.start()
        for name in (*self.gateways, *self.workers):
            self.links[name] = await self._stack.enter_async_context(Proxy(self.nats.port))
        await self._start("topology-0", "inferbus.topology", "operator", "TOPOLOGY", {})
        await asyncio.gather(*map(self.run, self.gateways))
        for name in self.workers:  # two engines that start at once take longer than one after the other
            await self.run(name)

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._watching.aclose()  # before the bus goes: it would be connecting anew when it is closed
        await super().__aexit__(_type, _error, _trace)
        await self._stack.aclose()

    @property
    def gateways(self) -> list[str]:
        return [f"gateway-{n}" for n in range(self.setting.gateways)]

    @property
    def workers(self) -> list[str]:
        return [f"llm-{n}" for n in range(self.setting.workers)]

    def bus_url_of(self, process: str) -> str:
        link = self.links.get(process)
        return self.nats.url if link is None else link.url

    def python_of(self, module: str) -> str:
        if self.setting.engine == VLLM and module == "inferbus_llm_worker":
            return str(self._layout.llm_python)
        return super().python_of(module)

    async def run(self, name: str) -> None:
        """Start a member and wait until it says that it is ready."""
        if name in self.gateways:
            self.members[name] = await self.gateway(name)
            self.urls[name] = self.url if name == "gateway-0" else f"http://127.0.0.1:{self.beat(name).health_port}"
            return
        settings: dict[str, object] = {"drain_grace_s": self.setting.drain_grace_s}
        if self.setting.engine == SIMULATOR:
            settings |= {"simulator_itl_s": self.setting.itl_s}
        else:
            settings |= {"engine": VLLM, "model": self._layout.tiny_weights}
        self.members[name] = await self.worker(name, **settings)

    async def restore(self, name: str) -> None:
        """Start a member anew that has ended."""
        await self.members[name].ended()
        await self.run(name)

    def engine_of(self, worker: str) -> Process:
        """Find a worker's EngineCore process."""
        return next(one for one in descendants(self.members[worker].pid) if "EngineCore" in one.command)

    async def full_strength(self, *, also: Callable[[], bool] = lambda: True) -> None:
        """Wait until every member says again that it is ready, by a beat that was sent after this call."""
        since = time.monotonic()
        watch = self.observer

        def is_whole() -> bool:
            return also() and all(watch.is_ready(name, one.pid, since) for name, one in self.members.items())

        within_s = ENGINE_START_S if self.setting.engine == VLLM else RESTORE_S
        await eventually(is_whole, within_s=within_s)

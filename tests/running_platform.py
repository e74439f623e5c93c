"""A whole platform for tests and shows: `inferbus up` as a user would run it, in a state folder of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
from openai import AsyncOpenAI, OpenAI
from tests import nursery
from tests.process_tree import Process, descendants

from inferbus.bus import Bus
from inferbus.cli.status import PlatformStatus, ProcessStatus
from inferbus.local.identities import settings_of, users_folder
from inferbus.local.layout import Layout, find_layout
from inferbus.local.state import FAILED, READY, PlatformState, read_state

ROOT = Path(__file__).resolve().parents[1]
CHAT, EMBED = "inferbus-tiny", "all-minilm-l6-v2"
START_S = 240.0
"""A start loads engines: 20 s where nothing else runs, minutes on a small machine that is busy."""
STOP_S = 60.0
_POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_LEFT_S = 10.0


class DidNotStart(Exception):
    """The platform ended or was not ready in time; the message has its output."""


class LeftRunning(Exception):
    """The platform stopped and left processes behind."""


class RunningPlatform:
    """Starts with `with`, and leaves nothing running. `options` are those of `inferbus up`, ports are free ones."""

    def __init__(self, home: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        self.home = home
        self._options = options
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("INFERBUS_")}
        self.env |= {"INFERBUS_HOME": str(home), "COLUMNS": "200", **(env or {})}
        self.layout: Layout = find_layout(self.env, ROOT)
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._ports: dict[int, int] = {}

    def __enter__(self) -> Self:
        self.start()
        try:
            self.until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it in the foreground of nobody; it dies with this process."""
        self.home.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None)
        with self.output.open("wb") as output:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "inferbus.cli.main", "up", "--port", "0", "--bus-port", "0", *self._options],
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - no other thread forks
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._supervisor is not None
        self._supervisor.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for the supervisor's end; returns its exit status."""
        assert self._supervisor is not None
        return self._supervisor.wait(timeout_s)

    def stop(self) -> None:
        """Ctrl-C, and the axe if that does not help.

        Raises:
            LeftRunning: the supervisor ended, and something it started did not.
            TimeoutExpired: it did not end.
        """
        supervisor = self._supervisor
        if supervisor is None or supervisor.poll() is not None:
            return
        processes = self.processes()
        supervisor.send_signal(signal.SIGINT)
        try:
            supervisor.wait(STOP_S)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
            raise
        give_up = time.monotonic() + _LEFT_S  # a worker that was killed leaves its Triton to a keeper, which is quick
        while (left := [process for process in processes if process.alive()]) and time.monotonic() < give_up:
            time.sleep(_POLL_S)
        if left:
            raise LeftRunning(f"{left} {self.output.read_text(errors='replace')[-2000:]}")

    def until_ready(self, on_state: Callable[[PlatformState], None] = lambda _: None) -> None:
        """Wait until everything serves; `on_state` hears how far it is.

        Raises:
            DidNotStart: something does not come up.
        """

        def is_ready() -> bool:
            on_state(self.state)
            return self.state.state == READY

        self.until(is_ready, START_S)

    def until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait for something that must come true while the platform runs.

        Raises:
            DidNotStart: the platform ended or gave up. TimeoutError: it did not come true in time.
        """
        give_up = time.monotonic() + timeout_s
        while True:
            ended = self._supervisor is not None and self._supervisor.poll() is not None
            if ended or (self._known and self.state.state == FAILED):
                raise DidNotStart(self.output.read_text(errors="replace")[-4000:])
            if self._known and condition():
                return
            if time.monotonic() > give_up:
                raise TimeoutError(f"not within {timeout_s:g} s; {self.output.read_text(errors='replace')[-2000:]}")
            time.sleep(_POLL_S)

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `inferbus <arguments>` against this platform."""
        if arguments[0] == "up":  # as a user would; the others cost less from the nursery
            argv = [sys.executable, "-m", "inferbus.cli.main", *arguments]
            return subprocess.run(argv, cwd=ROOT, env=self.env, check=check, capture_output=True, text=True, timeout=60)
        done = nursery.command(*arguments, env=self.env)
        if check:
            done.check_returncode()
        return done

    # --- what is there --------------------------------------------------------------------------------------------

    @property
    def output(self) -> Path:
        return self.home / "up.log"

    @property
    def _known(self) -> bool:
        state = read_state(self.layout)
        return state is not None and self._supervisor is not None and state.pid == self._supervisor.pid

    @property
    def state(self) -> PlatformState:
        """What the supervisor says of itself."""
        state = read_state(self.layout)
        assert state is not None
        return state

    @property
    def url(self) -> str:
        return self.state.url

    @property
    def bus_url(self) -> str:
        return self.state.bus_url

    @property
    def key(self) -> str:
        return self.layout.dev_key.read_text().strip()

    def seed_file(self, bus_user: str) -> str:
        """Say where the seed of one of the platform's bus users is (`dev`: the development tenant's producer)."""
        return str(users_folder(self.layout).seed_file(bus_user))

    def pid(self, process: str) -> int:
        """Give the current process id of `gateway-0`, `llm-0`, `nats` ...; 0 while it is down."""
        return next(one.pid for one in self.state.processes if one.name == process)

    def status(self) -> PlatformStatus:
        """Ask as a script would: `inferbus status --json`."""
        return msgspec.json.decode(self.command("status", "--json").stdout, type=PlatformStatus)

    def process(self, name: str) -> ProcessStatus:
        return next(one for one in self.status().processes if one.name == name)

    def port(self, process: str) -> int:
        """Give the port of a process's `/health` and `/metrics`; it has another one after a restart."""
        pid = self.pid(process)
        if pid not in self._ports:
            self._ports |= {one.pid: one.health_port for one in self.status().processes if one.health_port}
        return self._ports[pid]

    def processes(self) -> list[Process]:
        """Give every process of the platform, engines and helpers included."""
        assert self._supervisor is not None
        return descendants(self._supervisor.pid)

    def engine_of(self, worker: str) -> Process:
        """Find a worker's EngineCore process."""
        return next(one for one in descendants(self.pid(worker)) if "EngineCore" in one.command)

    # --- clients --------------------------------------------------------------------------------------------------

    def openai(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", **self._client_options(options))

    def async_openai(self, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", **self._client_options(options))

    def _client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"api_key": self.key, "max_retries": 0, "timeout": 60.0} | options

    @asynccontextmanager
    async def bus(self, role: str) -> AsyncIterator[Bus]:
        """Connect to the bus in a role."""
        bus = await Bus.connect(settings_of(self.layout, role, url=self.bus_url), name=f"test-{role}")
        try:
            yield bus
        finally:
            await bus.close()

    def metric(self, process: str, name: str, **labels: str) -> float:
        """Read one figure from a process's `/metrics`; the sum where labels leave several."""
        return metric_at(self.port(process), name, **labels)


def metric_at(port: int, name: str, **labels: str) -> float:
    """Read one figure from the `/metrics` on a port of this machine."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).raise_for_status().text
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.split("{")[0].split(" ")[0] == name and all(one in line for one in wanted)
    ]
    if not values:
        raise LookupError(f"no metric {name} {labels} on port {port}")
    return sum(values)

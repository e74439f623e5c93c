"""The life of a local platform, with the simulator in the engine's place: real processes, real bus, no model."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.running_platform import RunningPlatform

import inferbus
from inferbus.errors import DependencyDown
from inferbus.local.command_socket import Reload, command
from inferbus.local.lock import holder_of
from inferbus.local.secrets import ROLES
from inferbus.local.state import READY, STOPPED, read_state

NAMES = ["batch-0", "gateway-0", "ledger-0", "llm-0", "llm-1", "nats", "topology-0"]
_START_S, _SOON_S = 60.0, 30.0


def simulated(home: Path, *options: str) -> RunningPlatform:
    return RunningPlatform(home, "--simulator", *options)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with simulated(tmp_path_factory.mktemp("up"), "--workers", "2") as platform:
        yield platform


def is_alive(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


def soon(condition: Callable[[], bool], within_s: float = _SOON_S) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {within_s:g} s"
        time.sleep(0.02)


def ask(platform: RunningPlatform) -> str:
    with platform.openai() as client:
        answer = client.chat.completions.create(
            model="simulator", max_tokens=3, messages=[{"role": "user", "content": "hello"}]
        )
        return answer.choices[0].message.content or ""


def test_status_shows_every_process(platform: RunningPlatform) -> None:
    status = platform.status()
    assert (status.state, status.models) == (READY, ["simulator"])
    by_name = {process.name: process for process in status.processes}
    assert sorted(by_name) == NAMES
    for process in by_name.values():
        assert process.state == READY
        assert is_alive(process.pid)
        assert process.port > 0
        assert process.restarts == 0
    assert status.url.endswith(f":{by_name['gateway-0'].port}")
    assert by_name["llm-0"].in_flight == by_name["gateway-0"].in_flight == 0
    assert by_name["nats"].in_flight is None
    table = platform.command("status").stdout
    assert all(name in table for name in NAMES)


def test_the_printed_line_works_when_pasted(platform: RunningPlatform) -> None:
    (line,) = (line for line in platform.output.read_text().splitlines() if line.startswith("curl "))
    answer = subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True, timeout=30).stdout
    assert answer.startswith("data: {")
    assert answer.rstrip().endswith("data: [DONE]")


def test_what_it_serves_is_in_the_audit_and_its_workers_may_follow_weights(platform: RunningPlatform) -> None:
    """With NKeys and a pool's own rights, narrower than those of the role as other tests have it."""
    events = msgspec.json.decode(platform.command("audit", "--json").stdout)
    applied = [event for event in events if event["action"] == "model_applied"]
    assert [(event["actor"], event["target"]) for event in applied] == [("cli:inferbus up", "simulator")]
    platform.command("orgs", "create", "acme", "--weight", "3")
    for process in ("llm-0", "gateway-0", "topology-0", "ledger-0", "batch-0"):
        assert "bus_permission_refused" not in platform.layout.log_of(process).read_text()


def test_second_start_says_that_one_is_running(platform: RunningPlatform) -> None:
    for options in ((), ("--detach",)):
        second = platform.command("up", "--simulator", "--port", "0", "--bus-port", "0", *options, check=False)
        assert second.returncode == 1
        assert f"already running here at {platform.url} (process {platform.state.pid})" in second.stderr
    assert ask(platform)


@pytest.mark.parametrize("name", ["gateway-0", "ledger-0", "llm-0", "topology-0", "batch-0", "nats"])
def test_a_killed_process_comes_back_where_it_was(platform: RunningPlatform, name: str) -> None:
    before = platform.state
    old = platform.pid(name)
    os.kill(old, signal.SIGKILL)
    platform.until(lambda: platform.pid(name) not in {0, old}, _SOON_S)
    platform.until(lambda: all(process.state == READY for process in platform.state.processes), _SOON_S)
    platform.until(lambda: platform.process(name).state == READY, _SOON_S)
    after = platform.state
    assert (after.url, after.bus_url) == (before.url, before.bus_url)
    restarts = {process.name: process.restarts for process in after.processes}
    assert restarts[name] == 1
    assert "killed by SIGKILL" in platform.layout.log_of(name).read_text()
    assert ask(platform)


def test_a_drained_process_stays_down_until_it_is_restarted(platform: RunningPlatform) -> None:
    old = platform.pid("llm-1")
    assert platform.command("drain", "llm-1").stdout.splitlines()[-1] == "llm-1: drained"
    platform.until(lambda: platform.pid("llm-1") == 0, _SOON_S)
    assert not is_alive(old)
    states = {process.name: process.state for process in platform.state.processes}
    assert (states["llm-1"], states["llm-0"]) == (STOPPED, READY)
    assert ask(platform)
    printed = platform.command("restart", "llm-1").stdout.splitlines()
    assert printed[0] == "llm-1: starting"
    assert platform.pid("llm-1") not in {0, old}
    assert all(process.state == READY for process in platform.state.processes)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("llm-7",), 1, "no process is named llm-7; there are: "),
        ((), 2, "name processes, or say --rolling"),
        (("llm-0", "--rolling"), 2, "name processes, or say --rolling"),
    ],
)
def test_what_cannot_be_restarted_is_said(
    platform: RunningPlatform, arguments: tuple[str, ...], status: int, says: str
) -> None:
    before = [process.pid for process in platform.state.processes]
    restart = platform.command("restart", *arguments, check=False)
    assert restart.returncode == status
    assert says in restart.stderr
    assert [process.pid for process in platform.state.processes] == before


def test_nothing_to_restart(tmp_path: Path) -> None:
    restart = simulated(tmp_path).command("restart", "--rolling", check=False)
    assert (restart.returncode, restart.stdout) == (1, "")
    assert "no platform is running here" in restart.stderr


def test_logs_are_found_by_service(platform: RunningPlatform) -> None:
    assert "Server is ready" in platform.command("logs", "nats").stdout
    everything = platform.command("logs").stdout
    assert all(f"{name:<12} " in everything for name in ("gateway-0", "llm-1"))
    assert platform.command("logs", "triton", check=False).returncode == 1


def test_interrupt_stops_everything_and_a_new_start_knows_the_key(tmp_path: Path) -> None:
    with simulated(tmp_path) as first:
        pids = [process.pid for process in first.state.processes]
        key = first.key
        admin_key = first.layout.admin_key.read_text().strip()
        soon(lambda: first.output.read_text().count(admin_key) == 1)
        answer = httpx.get(f"{first.url}/admin/v1/keys", headers={"Authorization": f"Bearer {admin_key}"}, timeout=30)
        assert [one["name"] for one in answer.json()["data"]] == ["development"]
        first.signal(signal.SIGINT)
        assert first.wait() == 0
        assert not any(is_alive(pid) for pid in pids)
        assert first.state.state == STOPPED
        assert first.command("status", check=False).returncode == 3
    with simulated(tmp_path) as second:
        assert second.key == key
        assert admin_key not in second.output.read_text(), "shown once"
        assert ask(second)
        secrets = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
        assert not [path for path in secrets if key in path.read_text(errors="ignore") and path.name != "up.log"]


def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    with simulated(tmp_path) as platform:
        pids = [process.pid for process in platform.state.processes]
        platform.signal(signal.SIGKILL)
        platform.wait()
        soon(lambda: not any(is_alive(pid) for pid in pids))
        assert holder_of(platform.layout.lock) is None
        assert platform.command("status", check=False).returncode == 3


def test_interrupt_while_starting(tmp_path: Path) -> None:
    platform = simulated(tmp_path)
    platform.start()
    try:
        platform.until(lambda: bool(platform.state.bus_url), _START_S)
        pids = [process.pid for process in platform.state.processes]
        platform.signal(signal.SIGTERM)
        assert platform.wait() == 0
        assert not any(is_alive(pid) for pid in pids if pid)
    finally:
        platform.stop()


@pytest.mark.parametrize(("option", "what"), [("--port", "HTTP"), ("--bus-port", "the bus")])
def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path, option: str, what: str) -> None:
    platform = simulated(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = {"--port": "0", "--bus-port": "0"} | {option: str(port)}
        arguments = [text for pair in ports.items() for text in pair]
        up = platform.command("up", "--simulator", *arguments, check=False)
    assert up.returncode == 1
    assert f"port {port} for {what} is taken by another program" in up.stderr
    assert read_state(platform.layout) is None


def test_what_does_not_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    platform = RunningPlatform(tmp_path, env={"INFERBUS_GATEWAY_NONSENSE": "1"})
    up = platform.command("up", "--simulator", "--port", "0", "--bus-port", "0", check=False)
    assert up.returncode == 1
    assert "gateway-0 does not start (exit status 1)" in up.stderr
    assert "INFERBUS_GATEWAY_NONSENSE is not a setting" in up.stderr


def test_detached_until_down(tmp_path: Path) -> None:
    platform = simulated(tmp_path)
    up = platform.command("up", "--simulator", "--port", "0", "--bus-port", "0", "--detach")
    try:
        assert "Inferbus is ready." in up.stdout
        state = read_state(platform.layout)
        assert state is not None
        assert platform.key in up.stdout
        assert "applied" not in platform.command("models", "list").stderr
    finally:
        down = platform.command("down")
    assert down.stdout.splitlines()[-1] == "stopped"
    assert not is_alive(state.pid)
    assert not any(is_alive(process.pid) for process in state.processes)
    assert platform.command("down").stdout == "no platform is running here\n"


def test_a_model_of_a_former_run_is_forgotten(tmp_path: Path) -> None:
    with simulated(tmp_path, "--model", "first"):
        pass
    with simulated(tmp_path, "--model", "second") as platform:
        listed = platform.command("models", "list", "--json").stdout
        assert '"second"' in listed
        assert '"first"' not in listed
        assert "reconcile_failed" not in platform.layout.log_of("topology-0").read_text()


def test_every_process_has_a_seed_of_its_own_and_no_password(platform: RunningPlatform) -> None:
    seeds = {file.stem: file.read_text().strip() for file in (platform.layout.bus / "seeds").iterdir()}
    assert sorted(seeds) == sorted({*ROLES, "worker-simulator"} - {"worker"})
    own = {"gateway-0": "gateway", "llm-0": "worker-simulator", "topology-0": "operator", "nats": ""}
    for process, user in own.items():
        env = Path(f"/proc/{platform.pid(process)}/environ").read_bytes().decode()
        assert "PASSWORD" not in env
        assert not [name for name, seed in seeds.items() if seed in env]
        named = {name for name in seeds if f"/{name}.seed" in env}
        admin_api = {"admin"} if process == "gateway-0" else set()  # with which a gateway changes keys for others
        assert named - admin_api == ({user} if user else set())
    logs = "".join(file.read_text(errors="replace") for file in platform.layout.logs.iterdir())
    assert not [name for name, seed in seeds.items() if seed in logs]


async def test_a_producer_is_made_heard_and_revoked_while_everything_runs(platform: RunningPlatform) -> None:
    made = platform.command("bus-users", "create", "producer", "--tenant", "acme")
    seed = made.stdout.strip()
    assert "INFERBUS_BUS_USER=producer.acme" in made.stderr
    async with inferbus.Client(platform.bus_url, tenant="acme", nkey_seed=seed) as client:
        answer = await client.chat("simulator", [{"role": "user", "content": "hello"}], max_tokens=3)
        assert answer["choices"][0]["message"]["content"]
    assert seed not in platform.command("bus-users", "list", "--json").stdout
    assert platform.command("bus-users", "create", "producer", "--tenant", "acme", check=False).returncode == 1
    assert platform.command("bus-users", "revoke", "producer-acme").stdout == "revoked producer-acme\n"
    with pytest.raises(DependencyDown, match="Authorization Violation"):
        async with inferbus.Client(platform.bus_url, tenant="acme", nkey_seed=seed):
            pass
    unknown = platform.command("bus-users", "revoke", "producer-nobody", check=False)
    assert (unknown.returncode, "no bus user is named" in unknown.stderr) == (1, True)
    async with inferbus.Client(platform.bus_url, tenant="dev", nkey_seed_file=platform.seed_file("dev")) as client:
        assert await client.chat("simulator", [{"role": "user", "content": "hello"}], max_tokens=3)


async def test_a_configuration_the_server_cannot_use_is_said_and_changes_nothing(platform: RunningPlatform) -> None:
    config = platform.layout.bus / "nats.conf"
    good = config.read_bytes()
    try:
        config.write_bytes(b"accounts {")
        said = [one async for one in command(platform.layout.commands, Reload())]
        assert (said[-1].error, "did not take its new users" in said[-1].text) == (True, True)
        assert ask(platform)
    finally:
        config.write_bytes(good)
    said = [one async for one in command(platform.layout.commands, Reload())]
    assert not said[-1].error
    assert ask(platform)


def test_refusals_are_in_the_metrics_of_every_process(platform: RunningPlatform) -> None:
    for process in ("gateway-0", "llm-0", "topology-0"):
        text = httpx.get(f"http://127.0.0.1:{platform.port(process)}/metrics", timeout=10).text
        assert "# TYPE inferbus_bus_refusals_total counter" in text
        assert "inferbus_bus_refusals_total{" not in text  # nobody does what it may not


def test_a_state_folder_that_had_passwords_goes_on(tmp_path: Path) -> None:
    with simulated(tmp_path) as first:
        key, pepper = first.key, msgspec.json.decode(first.layout.secrets.read_bytes())["key_pepper"]
    shutil.rmtree(first.layout.bus)  # as before there were bus users
    old = {"passwords": {"operator": "pold", "gateway": "pold2"}, "key_pepper": pepper}
    first.layout.secrets.write_bytes(msgspec.json.encode(old))
    with simulated(tmp_path) as second:
        assert second.key == key
        assert ask(second)
        assert b"pold" not in second.layout.secrets.read_bytes()

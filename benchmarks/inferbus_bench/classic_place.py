"""One running platform with a Triton of its own, and everybody who asks for the ranker there."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from inferbus.bus import Bus
from inferbus.contracts.models import ModelEntry
from inferbus.local.identities import DEV, settings_of, users_folder
from inferbus.local.layout import Layout
from inferbus.local.state import read_state
from inferbus.local.triton import POOL
from inferbus.models import apply_model
from inferbus_bench.classic_clients import MODEL, Answer, tensors
from inferbus_bench.loadgen import LoadFailed, LoadResult, build
from inferbus_bench.places import BENCHMARKS, ROOT
from inferbus_bench.targets import Target

DIRECT = "ranker-direct"
TRITON = "triton"
GATEWAY, GATEWAY_DIRECT, BARE, PACED, CLIENT, SDK = (
    "gateway, durable", "gateway, direct", "triton HTTP", "triton HTTP, paced", "tritonclient gRPC", "SDK over the bus",
)  # fmt: skip
_DRAIN_S = 40.0


class Place(msgspec.Struct, frozen=True):
    """Where everything is on one running platform."""

    target: Target
    home: Path
    http: int
    grpc: int
    roots: dict[str, int]
    program: Path


async def run_python(kind: str, place: Place, connections: int, rows: int, seconds: float) -> Answer:
    """Run one of `classic_clients` as a process of its own."""
    layout = Layout(root=ROOT, home=place.home)
    state = read_state(layout)
    assert state is not None
    address = {"grpc": f"127.0.0.1:{place.grpc}", "paced": f"127.0.0.1:{place.http}", "sdk": state.bus_url}[kind]
    argv = [sys.executable, "-m", "inferbus_bench.classic_clients", kind, address]
    argv += [str(users_folder(layout).seed_file(DEV)), str(connections), str(rows), str(seconds)]
    path = os.pathsep.join(filter(None, [str(BENCHMARKS), os.environ.get("PYTHONPATH")]))
    return msgspec.json.decode(await _output_of(argv, seconds, os.environ | {"PYTHONPATH": path}), type=Answer)


async def run_generator(place: Place, port: int, path: str, body: bytes, headers: Sequence[str], connections: int, seconds: float) -> Answer:  # fmt: skip
    """Ask with the C program.

    Raises:
        LoadFailed: a request failed.
    """
    file = place.home / "body.bin"
    file.write_bytes(body)
    argv = [str(place.program), "-p", str(port), "-k", place.target.key, "-P", path, "-c", str(connections)]
    argv += ["-d", str(seconds), "-b", f"@{file}", *(part for header in headers for part in ("-H", header))]
    result = msgspec.json.decode(await _output_of(argv, seconds), type=LoadResult)
    if result.errors or not result.ok:
        raise LoadFailed(f"{path}: {result.errors} errors: {result.first_error_status} {result.error_text[:300]}")
    return Answer(result.ok, result.requests_per_s, result.latency.p50, result.latency.p99)


async def _output_of(argv: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> bytes:
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, env=env)
    output, _ = await asyncio.wait_for(process.communicate(), seconds + _DRAIN_S)
    return output


async def run_one(name: str, place: Place, connections: int, rows: int, seconds: float) -> Answer:
    """Ask as `name` says: `rows` rows a request, on so many connections."""
    if name == CLIENT:
        return await run_python("grpc", place, connections, rows, seconds)
    if name == PACED:
        return await run_python("paced", place, connections, rows, seconds)
    if name == SDK:
        return await run_python("sdk", place, connections, rows, seconds)
    body, headers = tensors(rows)
    model = DIRECT if name == GATEWAY_DIRECT else MODEL
    port = place.http if name == BARE else place.target.port
    return await run_generator(place, port, f"/v2/models/{model}/infer", body, headers, connections, seconds)


def find_place(target: Target, home: Path) -> Place:
    """Find the worker's Triton by its command line."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if argv[0].endswith("bin/tritonserver") and any(str(home) in one for one in argv):
            ports = {key: int(value) for key, _, value in (one.partition("=") for one in argv) if key.endswith("-port")}
            roots = {key: value for key, value in target.roots.items() if key in ("gateway", "nats-server")}
            roots |= {"worker": target.roots["triton-worker"], TRITON: int(entry.name)}
            return Place(target, home, ports["--http-port"], ports["--grpc-port"], roots, build())
    raise LookupError("there is no Triton of this platform")


async def add_direct(home: Path) -> None:
    """Give the ranker a second name, whose work is asked of a worker at once instead of through the queue."""
    layout = Layout(root=ROOT, home=home)
    state = read_state(layout)
    assert state is not None
    bus = await Bus.connect(settings_of(layout, "admin", url=state.bus_url), name="benchmark")
    entry = ModelEntry(name=DIRECT, pool=POOL, runtime="triton", tasks=("infer",), server_name=MODEL, delivery="direct")
    await apply_model(bus, entry)
    await bus.close()

"""Classic models through the whole path (HTTP, bus, worker, Triton), beside clients straight at the same Triton.

    .venv/bin/python benchmarks/triton.py [--seconds 2] [--rounds 3] [--connections 1,16,64] [--rows 16,100]
    .venv/bin/python benchmarks/triton.py --embeddings        # MiniLM: vLLM beside ONNX in Triton, on the same platform

One platform, one worker with one Triton, the model `ranker` (LightGBM, 32 features). A round goes load by load through all
targets; figures are medians over rounds. CPU is user and system time from /proc: `path` is gateway, nats-server and worker
without Triton. `gateway` and `triton HTTP` are asked by the same load generator with the same bytes (binary tensors);
`tritonclient` (gRPC, asyncio) and the SDK are Python programs, whose own CPU is part of what two cores have to give. One
connection also asks Triton with a pause of 1.5 ms before each request, which is about the pace of the path: a server that sleeps
in between wakes up slower, whoever asks.
Exit status 1 where a target of the issue was missed or a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import tritonclient.grpc.aio as grpc

import inferbus
from inferbus.bus import Bus
from inferbus.contracts.models import ModelEntry
from inferbus.local.identities import DEV, settings_of, users_folder
from inferbus.local.layout import Layout
from inferbus.local.state import read_state
from inferbus.local.triton import POOL
from inferbus.models import apply_model
from inferbus_bench.cpu import ENGINE, cpu_of
from inferbus_bench.loadgen import LoadFailed, LoadResult, build
from inferbus_bench.machine import describe_machine, describe_versions
from inferbus_bench.places import ROOT
from inferbus_bench.report import grid
from inferbus_bench.targets import Target, platform

FEATURES, MODEL, DIRECT = 32, "ranker", "ranker-direct"
SENTENCE = (
    "Wait until the lock is released by another thread, or until the timeout occurs, and say which of the two it was"
)
PATH, TRITON = ("gateway", "nats-server", "worker"), "triton"
DRAIN_S = 40.0
GATEWAY, GATEWAY_DIRECT, BARE, PACED, CLIENT, SDK = (
    "gateway, durable", "gateway, direct", "triton HTTP", "triton HTTP, paced", "tritonclient gRPC", "SDK over the bus",
)  # fmt: skip
PAUSE_S = 0.0015


class Times(msgspec.Struct, frozen=True):
    """Requests a second, latency in milliseconds, microseconds of CPU a request by role."""

    rate: float
    p50: float
    p99: float
    cpu: dict[str, float]


class Answer(msgspec.Struct, frozen=True):
    """What one of our Python clients prints."""

    ok: int
    rate: float
    p50: float
    p99: float


class Place(msgspec.Struct, frozen=True):
    """Where everything is on one running platform."""

    target: Target
    home: Path
    http: int
    grpc: int
    roots: dict[str, int]
    program: Path


# --- clients --------------------------------------------------------------------------------------------------------------


async def ask_again(connections: int, seconds: float, ask: Callable[[], Awaitable[object]]) -> Answer:
    """A closed loop of so many callers, after a moment of warming up."""
    took: list[float] = []

    async def call(end: float) -> None:
        while (began := time.perf_counter()) < end:
            await ask()
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(call(time.perf_counter() + 0.3) for _ in range(connections)))
    took.clear()
    began = time.perf_counter()
    await asyncio.gather(*(call(began + seconds) for _ in range(connections)))
    rate = len(took) / (time.perf_counter() - began)
    return Answer(len(took), rate, 1000 * float(np.percentile(took, 50)), 1000 * float(np.percentile(took, 99)))


def ask_paced(port: int, rows: int, seconds: float) -> Answer:
    """One caller on a plain socket who pauses before each request."""
    body, headers = tensors(rows)
    lines = [f"POST /v2/models/{MODEL}/infer HTTP/1.1", "Host: triton", f"Content-Length: {len(body)}", *headers]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    took: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        warm, end = time.perf_counter() + 0.3, time.perf_counter() + 0.3 + seconds
        while (now := time.perf_counter()) < end:
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            connection.sendall(request)
            length = 0
            while (line := answers.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            answers.read(length)
            if now >= warm:
                took.append(time.perf_counter() - began)
    return Answer(
        len(took), len(took) / seconds, 1000 * float(np.percentile(took, 50)), 1000 * float(np.percentile(took, 99))
    )


async def client_main(args: argparse.Namespace) -> None:
    """Be one of the Python clients; prints an `Answer`."""
    rows = np.full((args.client_rows, FEATURES), 0.5, np.float32)
    if args.client == "paced":
        answer = ask_paced(int(args.address.rpartition(":")[2]), args.client_rows, args.seconds)
    elif args.client == "grpc":
        async with grpc.InferenceServerClient(args.address) as client:

            async def ask() -> None:
                one = grpc.InferInput("FEATURES", list(rows.shape), "FP32")
                one.set_data_from_numpy(rows)
                (await client.infer(MODEL, [one])).as_numpy("SCORE")

            answer = await ask_again(args.callers, args.seconds, ask)
    else:
        async with inferbus.Client(args.address, nkey_seed_file=args.seed_file) as bus:
            answer = await ask_again(args.callers, args.seconds, lambda: bus.infer(MODEL, {"FEATURES": rows}))
    print(msgspec.json.encode(answer).decode())


async def run_python(kind: str, place: Place, connections: int, rows: int, seconds: float) -> Answer:
    state = read_state(Layout(root=ROOT, home=place.home))
    assert state is not None
    address = {"grpc": f"127.0.0.1:{place.grpc}", "paced": f"127.0.0.1:{place.http}", "sdk": state.bus_url}[kind]
    seed = users_folder(Layout(root=ROOT, home=place.home)).seed_file(DEV)
    argv = [sys.executable, __file__, "--client", kind, "--address", address, "--seed-file", str(seed)]
    argv += ["--callers", str(connections), "--client-rows", str(rows), "--seconds", str(seconds)]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), seconds + DRAIN_S)
    return msgspec.json.decode(output, type=Answer)


async def run_generator(place: Place, port: int, path: str, body: bytes, headers: Sequence[str], connections: int, seconds: float) -> Answer:  # fmt: skip
    """Ask with the C program.

    Raises:
        LoadFailed: a request failed.
    """
    file = place.home / "body.bin"
    file.write_bytes(body)
    argv = [str(place.program), "-p", str(port), "-k", place.target.key, "-P", path, "-c", str(connections)]
    argv += ["-d", str(seconds), "-b", f"@{file}", *(part for header in headers for part in ("-H", header))]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), seconds + DRAIN_S)
    result = msgspec.json.decode(output, type=LoadResult)
    if result.errors or not result.ok:
        raise LoadFailed(f"{path}: {result.errors} errors: {result.first_error_status} {result.error_text[:300]}")
    return Answer(result.ok, result.requests_per_s, result.latency.p50, result.latency.p99)


# --- what is measured ---------------------------------------------------------------------------------------------------


def tensors(rows: int) -> tuple[bytes, list[str]]:
    """Give the body of one candidate list with binary tensors, and the header that goes with it."""
    raw = np.full((rows, FEATURES), 0.5, np.float32).tobytes()
    one = {
        "name": "FEATURES",
        "datatype": "FP32",
        "shape": [rows, FEATURES],
        "parameters": {"binary_data_size": len(raw)},
    }
    wanted = {"name": "SCORE", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [one], "outputs": [wanted]}).encode()
    return head + raw, [f"Inference-Header-Content-Length: {len(head)}", "Content-Type: application/octet-stream"]


async def run_one(name: str, place: Place, connections: int, rows: int, seconds: float) -> Answer:
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


async def measured(place: Place, run: Callable[[], Awaitable[Answer]]) -> Times:
    before = cpu_of(place.roots)
    answer = await run()
    spent = {role: seconds - before[role] for role, seconds in cpu_of(place.roots).items()}
    if "worker" in spent:
        spent["worker"] -= spent[TRITON]  # which is its child
    return Times(answer.rate, answer.p50, answer.p99, {role: 1e6 * s / answer.ok for role, s in spent.items()})


def median(all_times: Sequence[Times]) -> Times:
    def middle(of: Callable[[Times], float]) -> float:
        return statistics.median(of(one) for one in all_times)

    cpu = {role: middle(lambda one, role=role: one.cpu[role]) for role in all_times[0].cpu}  # type: ignore[misc]  # bound now
    return Times(middle(lambda one: one.rate), middle(lambda one: one.p50), middle(lambda one: one.p99), cpu)


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


async def rank(args: argparse.Namespace, folder: Path) -> bool:
    async with platform(folder, simulator=True, options=("--triton", "1")) as target:
        place = find_place(target, folder / "home")
        await add_direct(place.home)
        loads = [
            (c, 1, (GATEWAY, GATEWAY_DIRECT, BARE, *([PACED] if c == 1 else []), CLIENT, SDK))
            for c in numbers(args.connections)
        ]
        loads += [(16, rows, (GATEWAY, BARE, CLIENT)) for rows in numbers(args.rows)]
        seen: dict[tuple[int, int, str], list[Times]] = {}
        for number in range(args.rounds + 1):  # the first warms up
            for connections, rows, names in loads:
                for name in names if number % 2 else reversed(names):
                    seconds = args.seconds if number else 0.5
                    times = await measured(place, lambda: run_one(name, place, connections, rows, seconds))  # noqa: B023  # run at once
                    if number:
                        seen.setdefault((connections, rows, name), []).append(times)
        found = {key: median(all_times) for key, all_times in seen.items()}
    print(
        grid(
            HEAD, [row_of(*key, times) for key, times in sorted(found.items(), key=lambda one: (one[0][1], one[0][0]))]
        )
    )
    return verdicts(found)


HEAD = (
    "rows", "connections", "target", "requests/s", "rows/s", "p50 / p99 ms", "CPU us/request: path", "gateway + nats + worker", "triton",
)  # fmt: skip


def row_of(connections: int, rows: int, name: str, times: Times) -> list[str]:
    path = sum(times.cpu[role] for role in PATH)
    shares = " + ".join(f"{times.cpu[role]:.0f}" for role in PATH)
    return [
        str(rows), str(connections), name, f"{times.rate:.0f}", f"{times.rate * rows:.0f}",
        f"{times.p50:.2f} / {times.p99:.2f}", f"{path:.0f}", shares, f"{times.cpu[TRITON]:.0f}",
    ]  # fmt: skip


def verdicts(found: dict[tuple[int, int, str], Times]) -> bool:
    """Print what the issue asked for, and what came of it; True where all was met."""

    def of(connections: int, name: str) -> Times | None:
        return found.get((connections, 1, name))

    rows: list[tuple[str, float, float, bool]] = []
    bare, durable, direct = of(1, BARE), of(1, GATEWAY), of(1, GATEWAY_DIRECT)
    if bare and durable and direct:
        rows.append(("added p50 at one connection, durable (ms, at most)", durable.p50 - bare.p50, 1.5, False))
        rows.append(("added p50 at one connection, direct (ms, at most)", direct.p50 - bare.p50, 0.8, False))
        busy = of(16, GATEWAY) or durable
        rows.append(
            (
                "CPU of the path, durable, 16 connections (us/request, at most)",
                sum(busy.cpu[r] for r in PATH),
                350,
                False,
            )
        )
    many, client = of(64, GATEWAY), of(64, CLIENT)
    if many and client:
        rows.append(
            ("requests/s at 64 connections against tritonclient (at least)", many.rate / client.rate, 0.6, True)
        )
    met = [value >= limit if at_least else value <= limit for _, value, limit, at_least in rows]
    print()
    print(grid(("target", "measured", "wanted", ""), [[what, f"{value:.2f}", f"{limit:g}", "met" if ok else "MISSED"] for (what, value, limit, _), ok in zip(rows, met, strict=True)]))  # fmt: skip
    return all(met)


# --- embeddings -----------------------------------------------------------------------------------------------------------


async def embed(args: argparse.Namespace, folder: Path) -> bool:
    """One sentence a request to /v1/embeddings, the same model twice: in vLLM, and as ONNX in Triton."""
    async with platform(folder, simulator=False, options=("--embed", "--triton", "1")) as target:
        place = find_place(target, folder / "home")
        state = read_state(Layout(root=ROOT, home=place.home))
        assert state is not None
        vllm = next(one.pid for one in state.processes if one.name == "embed-0")
        place = msgspec.structs.replace(place, roots={"vllm": vllm, TRITON: place.roots[TRITON]})
        rows = []
        for connections in numbers(args.connections):
            seen: dict[str, list[Times]] = {}
            for number in range(args.rounds + 1):
                for model in ("all-minilm-l6-v2", "minilm-onnx"):
                    body = json.dumps({"model": model, "input": SENTENCE}).encode()

                    async def run(body: bytes = body, seconds: float = args.seconds if number else 0.5) -> Answer:
                        return await run_generator(place, target.port, "/v1/embeddings", body, ["Content-Type: application/json"], connections, seconds)  # noqa: B023  # run at once  # fmt: skip

                    times = await measured(place, run)
                    if number:
                        seen.setdefault(model, []).append(times)
            for model, all_times in seen.items():
                times = median(all_times)
                engine = times.cpu[TRITON] if model == "minilm-onnx" else times.cpu[ENGINE]
                rows.append(
                    [
                        str(connections),
                        model,
                        f"{times.rate:.0f}",
                        f"{times.p50:.1f} / {times.p99:.1f}",
                        f"{engine / 1000:.1f}",
                    ]
                )
        print(grid(("connections", "model", "sentences/s", "p50 / p99 ms", "CPU ms/sentence in the engine"), rows))
    return True


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",") if one]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--rows", default="16,100")
    parser.add_argument("--embeddings", action="store_true")
    for name, kind in (
        ("--client", str),
        ("--address", str),
        ("--seed-file", str),
        ("--callers", int),
        ("--client-rows", int),
    ):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        asyncio.run(client_main(args))
        return 0
    print(f"{describe_machine()}; {describe_versions()}\n")
    with tempfile.TemporaryDirectory(prefix="inferbus-bench-") as folder:
        return 0 if asyncio.run((embed if args.embeddings else rank)(args, Path(folder) / "platform")) else 1


if __name__ == "__main__":
    sys.exit(main())

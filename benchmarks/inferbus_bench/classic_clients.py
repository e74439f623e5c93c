"""Python clients of a classic model, each a process of its own: `python -m inferbus_bench.classic_clients KIND ADDRESS ...`.

`grpc` and `paced` ask Triton (tritonclient; a plain socket with a pause of 1.5 ms before each request), `sdk` asks over the bus.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable

import msgspec
import numpy as np
import tritonclient.grpc.aio as grpc

import inferbus

FEATURES, MODEL = 32, "ranker"
PAUSE_S = 0.0015
_WARM_S = 0.3


class Answer(msgspec.Struct, frozen=True):
    """What a client of any kind measured: requests/s, latency in milliseconds."""

    ok: int
    rate: float
    p50: float
    p99: float


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


async def ask_again(connections: int, seconds: float, ask: Callable[[], Awaitable[object]]) -> Answer:
    """A closed loop of so many callers, after a moment of warming up."""
    took: list[float] = []

    async def call(end: float) -> None:
        while (began := time.perf_counter()) < end:
            await ask()
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(call(time.perf_counter() + _WARM_S) for _ in range(connections)))
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
        warm, end = time.perf_counter() + _WARM_S, time.perf_counter() + _WARM_S + seconds
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
    """Be one of the clients; prints an `Answer`."""
    rows = np.full((args.rows, FEATURES), 0.5, np.float32)
    if args.kind == "paced":
        answer = ask_paced(int(args.address.rpartition(":")[2]), args.rows, args.seconds)
    elif args.kind == "grpc":
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("grpc", "paced", "sdk"))
    parser.add_argument("address")
    parser.add_argument("seed_file")
    for name, kind in (("callers", int), ("rows", int), ("seconds", float)):
        parser.add_argument(name, type=kind)
    asyncio.run(client_main(parser.parse_args()))


if __name__ == "__main__":
    main()

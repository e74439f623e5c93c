"""A ranking request end to end: HTTP -> admission -> queue -> Triton worker -> features (bus, Redis) -> Triton -> answer.

    PYTHONPATH=. .venv/bin/python benchmarks/feature_ranking.py [--seconds 5] [--items 100]

One user and many items in one request, 32 features a row from three views. Beside it the same request with its tensor in it,
and the same rows read at the features door: what features add. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.running_platform import ROOT, RunningPlatform

USERS, ITEMS = range(1, 201), range(1000, 1500)
SERVICE = "ranking"


class Caller:
    """One connection that is kept."""

    def __init__(self, platform: RunningPlatform) -> None:
        found = urlsplit(platform.url)
        self._connection = http.client.HTTPConnection(found.hostname or "", found.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {platform.key}", "Content-Type": "application/json"}

    def post(self, path: str, body: bytes) -> bytes:
        self._connection.request("POST", path, body, self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {data[:300]!r}")
        return data


def fill(caller: Caller) -> None:
    now = time.time()
    for source, key, ids, fields in (
        ("user_profiles", "user_id", USERS, [f"user_{n:02d}" for n in range(12)]),
        ("item_profiles", "item_id", ITEMS, [f"item_{n:02d}" for n in range(12)]),
        ("user_activity", "user_id", USERS, [f"recent_{n:02d}" for n in range(8)]),
    ):
        rows = [{key: one, "event_timestamp": now} | {name: random.gauss(0, 1) for name in fields} for one in ids]
        for start in range(0, len(rows), 100):
            caller.post(f"/v1/features/{source}:push", json.dumps({"rows": rows[start : start + 100]}).encode())


def until_filled(caller: Caller) -> None:
    body = json.dumps({"entities": {"user_id": USERS[-1], "item_id": ITEMS[-1]}}).encode()
    until = time.monotonic() + 60
    while True:
        columns = json.loads(caller.post(f"/v1/features/{SERVICE}:get", body))["columns"]
        if not any("status" in column for column in columns):
            return
        if time.monotonic() > until:
            sys.exit("what was pushed was not there after a minute")
        time.sleep(0.2)


def tensor(name: str, datatype: str, shape: list[int], data: list[float] | list[int]) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def by_ids(items: int) -> tuple[str, bytes]:
    inputs = [
        tensor("user_id", "INT64", [1], [random.choice(USERS)]),
        tensor("item_id", "INT64", [items], random.sample(ITEMS, items)),
    ]
    return "/v2/models/ranker/infer", json.dumps(
        {"parameters": {"feature_service": SERVICE}, "inputs": inputs}
    ).encode()


def by_tensor(items: int) -> tuple[str, bytes]:
    data = [random.random() for _ in range(items * 32)]
    return "/v2/models/ranker/infer", json.dumps({"inputs": [tensor("FEATURES", "FP32", [items, 32], data)]}).encode()


def features(items: int) -> tuple[str, bytes]:
    entities = {"user_id": random.choice(USERS), "item_id": random.sample(ITEMS, items)}
    return f"/v1/features/{SERVICE}:get", json.dumps({"entities": entities}).encode()


def measure(platform: RunningPlatform, make: Callable[[], tuple[str, bytes]], at_once: int, seconds: float) -> str:
    """Ask in closed loops; gives the row's figures."""

    def loop(_: int) -> list[float]:
        caller, found = Caller(platform), []
        caller.post(*make())
        until = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < until:
            caller.post(*make())
            found.append(time.perf_counter() - begun)
        return found

    with ThreadPoolExecutor(at_once) as pool:
        latencies = sorted(one for some in pool.map(loop, range(at_once)) for one in some)
    p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    return f"{at_once} | {len(latencies) / seconds:.0f} | {p50 * 1000:.1f} / {p99 * 1000:.1f}"


def redis(stack: ExitStack, folder: Path) -> str:
    """Start a Redis; gives its address."""
    binary = shutil.which("redis-server")
    if binary is None:
        sys.exit("redis-server is missing: make deps-services")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [binary, "--port", str(port), "--save", "", "--dir", str(folder)], stdout=subprocess.DEVNULL
    )
    stack.callback(server.wait)
    stack.callback(server.kill)
    return f"127.0.0.1:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--items", type=int, default=100)
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        env = {"INFERBUS_FEATURES_STORE": "redis", "INFERBUS_FEATURES_REDIS": redis(stack, folder)}
        platform = RunningPlatform(folder / "home", "--simulator", "--triton", "1", "--features", "1", env=env)
        stack.enter_context(platform)
        platform.command("features", "apply", str(ROOT / "deploy/features"))
        caller = Caller(platform)
        fill(caller)
        until_filled(caller)
        print(f"\n{chosen.items} items a request, 32 features each\n")
        print("| request | at once | requests/s | p50 / p99 ms |\n|---|---|---|---|")
        for name, make in (
            ("ids: features and ranker", by_ids),
            ("a tensor: ranker alone", by_tensor),
            ("features alone", features),
        ):
            for at_once in (1, 4):
                print(
                    f"| {name} | {measure(platform, lambda make=make: make(chosen.items), at_once, chosen.seconds)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

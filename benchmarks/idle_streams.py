"""Hold many open streams on one gateway that have nothing to say: what they cost in memory and in CPU.

    .venv/bin/python benchmarks/idle_streams.py [--streams 5000] [--seconds 20] [--only prefill|queued]

The whole platform with the simulator in the engine's place, once with a first token that is an hour away and once with all
streams but one in the queue. One process of ours holds the other ends. Exit status 1 if a stream was refused or lost, or a
bound was passed: 1 % of a core per 1,000 streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from inferbus_bench.cpu import busy_seconds, cpu_of
from inferbus_bench.machine import describe_machine, describe_versions
from inferbus_bench.places import PLATFORM_BIN
from inferbus_bench.targets import Target, platform

_HOUR_S = 3600
_SPARE_DESCRIPTORS = 200
_CONNECTING = 100
_OPEN_WITHIN_S = 180.0
_SETTLE_S = 5.0
_BASE_S = 10.0
_MOST_CPU_PERCENT_PER_1000 = 1.0
_HEAD = (
    "| streams | all in | lost | opened in s | gateway: % of a core (without streams) | worker, nats-server: % |"
    " comments/s | gateway: MB (without streams) | KB a stream | other programs, cores |"
)
MODES = {
    "prefill": {"INFERBUS_LLM_WORKER_SIMULATOR_TTFT_S": str(_HOUR_S), "INFERBUS_LLM_WORKER_SIMULATOR_SLOTS": "100000"},
    "queued": {"INFERBUS_LLM_WORKER_SIMULATOR_TTFT_S": str(_HOUR_S), "INFERBUS_LLM_WORKER_SIMULATOR_SLOTS": "1"},
}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one mode cost. CPU in percent of a core, memory in bytes."""

    mode: str
    streams: int
    lost: int
    opened_s: float
    idle_cpu: float
    gateway_cpu: float
    worker_cpu: float
    nats_cpu: float
    other_cores: float
    rss_before: int
    rss_after: int
    comments: int

    @property
    def bytes_per_stream(self) -> float:
        return (self.rss_after - self.rss_before) / self.streams


class Stream(asyncio.Protocol):
    """The client's end of one stream: asks, and counts what comes."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.open = asyncio.get_running_loop().create_future()
        self.status = 0
        self.comments = 0
        self.lost = False
        self.closing = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.status = int(data.split(b" ", 2)[1])
            self.open.set_result(self.status)
        self.comments += data.count(b"\n: ")

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = not self.closing
        if not self.open.done():
            self.open.set_result(0)

    def close(self) -> None:
        self.closing = True
        if self._transport is not None:
            self._transport.abort()


def raise_descriptors(needed: int) -> None:
    """Raise our own bound of open files.

    Raises:
        SystemExit: the hard bound is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"{needed} descriptors are needed, the hard limit is {hard} (ulimit -Hn)")
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def apply_limits(target: Target, home: Path, streams: int) -> None:
    """Let one tenant have so many requests open."""
    limits = {"max_pending": 2 * streams, "max_pending_per_tenant": 2 * streams, "default_deadline_s": 2.0 * _HOUR_S}
    file = home / "model.json"
    file.write_text(json.dumps({"name": target.model, "pool": target.model, "limits": limits}))
    command = [str(PLATFORM_BIN / "inferbus"), "models", "apply", str(file)]
    subprocess.run(command, env={"INFERBUS_HOME": str(home), "PATH": ""}, check=True, capture_output=True)


def rss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def open_requests(target: Target) -> int:
    """Ask the gateway how many requests it has open."""
    connection = HTTPConnection("127.0.0.1", target.port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    line = next(line for line in text.splitlines() if line.startswith("inferbus_gateway_open_requests "))
    return int(float(line.split(" ")[1]))


async def open_streams(target: Target, count: int) -> list[Stream]:
    """Open streams and wait until each has its response's head."""
    body = json.dumps(
        {"model": target.model, "messages": [{"role": "user", "content": "hello"}], "stream": True}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.key}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(_CONNECTING)

    async def one() -> Stream:
        async with gate:
            _, stream = await loop.create_connection(lambda: Stream(request), "127.0.0.1", target.port)
        return stream

    streams = await asyncio.gather(*(one() for _ in range(count)))
    async with asyncio.timeout(_OPEN_WITHIN_S):
        await asyncio.gather(*(stream.open for stream in streams))
    return streams


async def cpu_percent(target: Target, seconds: float) -> tuple[dict[str, float], float]:
    """Measure every process for a while; gives percents of a core, and the cores that everything else took."""
    before, busy, began = cpu_of(target.roots), busy_seconds(), time.monotonic()
    await asyncio.sleep(seconds)
    after, took = cpu_of(target.roots), time.monotonic() - began
    percent = {role: (after[role] - before[role]) / took * 100 for role in target.roots}
    return percent, max(0.0, (busy_seconds() - busy) / took - sum(percent.values()) / 100)


async def measure(mode: str, count: int, seconds: float, folder: Path) -> Result:
    async with platform(folder, simulator=True, env=MODES[mode], answers=False) as target:
        apply_limits(target, folder / "home", count)
        await asyncio.sleep(_SETTLE_S)
        idle, _ = await cpu_percent(target, _BASE_S)
        gateway = target.roots["gateway"]
        rss_before, began = rss_bytes(gateway), time.monotonic()
        streams = await open_streams(target, count)
        opened_s = time.monotonic() - began
        try:
            await asyncio.sleep(_SETTLE_S)
            comments = sum(stream.comments for stream in streams)
            busy, others = await cpu_percent(target, seconds)
            comments = sum(stream.comments for stream in streams) - comments
            rss_after = rss_bytes(gateway)
            still = await asyncio.to_thread(open_requests, target)
            lost = max(sum(stream.lost or stream.status != 200 for stream in streams), count - still)
        finally:
            for stream in streams:
                stream.close()
    return Result(
        mode=mode, streams=count, lost=lost, opened_s=opened_s, idle_cpu=idle["gateway"], gateway_cpu=busy["gateway"],
        worker_cpu=busy["worker"], nats_cpu=busy["nats-server"], other_cores=others, rss_before=rss_before,
        rss_after=rss_after, comments=comments,
    )  # fmt: skip


def report(results: list[Result], seconds: float) -> str:
    lines = [
        f"Machine: {describe_machine()}  ",
        f"Versions: {describe_versions()}  ",
        f"Measured for {seconds:g} s with all streams open.",
        "",
        _HEAD,
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.streams} | {one.mode} | {one.lost} | {one.opened_s:.1f} | {one.gateway_cpu:.1f} ({one.idle_cpu:.1f}) "
        f"| {one.worker_cpu:.1f}, {one.nats_cpu:.1f} | {one.comments / seconds:.0f} "
        f"| {one.rss_after / 2**20:.0f} ({one.rss_before / 2**20:.0f}) | {one.bytes_per_stream / 1024:.1f} "
        f"| {one.other_cores:.2f} |"
        for one in results
    ]
    return "\n".join(lines)


async def main(modes: list[str], count: int, seconds: float) -> int:
    raise_descriptors(count + _SPARE_DESCRIPTORS)
    results = []
    with tempfile.TemporaryDirectory(prefix="inferbus-idle-") as folder:
        for mode in modes:
            print(f"{mode}: {count} streams ...", flush=True)
            results.append(await measure(mode, count, seconds, Path(folder) / mode))
    print(report(results, seconds))
    lost = sum(one.lost for one in results)
    dear = [one.mode for one in results if one.gateway_cpu > _MOST_CPU_PERCENT_PER_1000 * count / 1000]
    print(
        f"lost {lost}; over {_MOST_CPU_PERCENT_PER_1000:g} % of a core per 1,000 streams: {', '.join(dear) or 'none'}"
    )
    return 1 if lost or dear else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--only", choices=list(MODES))
    options = parser.parse_args()
    sys.exit(uvloop.run(main([options.only] if options.only else list(MODES), options.streams, options.seconds)))

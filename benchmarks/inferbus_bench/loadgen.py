"""The load generator: built from C when it is older than its sources, run as a process, its JSON read back."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import msgspec

from inferbus_bench.places import BUILD, LOADGEN

_FLAGS = ("-O2", "-Wall", "-Wextra", "-Wno-sign-compare", "-std=gnu11")
_DRAIN_S = 40.0


class LoadFailed(Exception):
    """The generator could not run, or no request of it succeeded."""


class Times(msgspec.Struct, frozen=True):
    """Percentiles in milliseconds; `count` 0 where nothing of the kind was measured."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: `connections` send `body` to `path` again and again for `seconds`."""

    body: dict[str, object]
    connections: int
    seconds: float
    streamed: bool = False
    path: str = "/v1/chat/completions"


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the generator measured (its source says how). Times in milliseconds, `cpu_s` is its own."""

    ok: int
    errors: int
    first_error_status: int
    error_text: str
    requests_per_s: float
    tokens_per_s: float
    tokens: int
    events: int
    cpu_s: float
    latency: Times
    ttft: Times
    itl: Times
    tpot: Times


def build() -> Path:
    """Compile the generator unless that was done since its sources changed; gives the program."""
    program = BUILD / "llmload"
    sources = sorted(LOADGEN.glob("*.[ch]"))
    if not program.exists() or program.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        BUILD.mkdir(exist_ok=True)
        units = [str(source) for source in sources if source.suffix == ".c"]
        subprocess.run(["gcc", *_FLAGS, "-o", str(program), *units], check=True)
    return program


async def run_load(program: Path, port: int, key: str, load: Load) -> LoadResult:
    """Run one load.

    Raises:
        LoadFailed: the generator ended with an error, or not one request succeeded.
    """
    argv = [str(program), "-p", str(port), "-k", key, "-P", load.path, "-c", str(load.connections)]
    argv += ["-d", str(load.seconds), "-b", msgspec.json.encode(load.body).decode(), *(["-s"] if load.streamed else [])]
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), load.seconds + _DRAIN_S)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise LoadFailed(errors.decode(errors="replace").strip())
    result = msgspec.json.decode(output, type=LoadResult)
    if result.ok == 0:
        raise LoadFailed(f"no request succeeded: status {result.first_error_status}: {result.error_text[:500]}")
    return result

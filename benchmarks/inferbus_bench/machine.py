"""The machine and the versions a result belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import inferbus
from inferbus.local.processes import nats_binary
from inferbus_bench.places import LLM_BIN, ROOT


def describe_machine() -> str:
    """Give processor, cores, memory and kernel in one line."""
    cpu = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory_kib = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return f"{cpu}, {os.cpu_count()} cores, {memory_kib / 2**20:.0f} GiB, Linux {platform.release().split('-')[0]}"


def describe_versions() -> str:
    """Give the versions of what was measured."""
    nats = subprocess.run([nats_binary(), "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    package = next(LLM_BIN.parent.glob("lib/python3*/site-packages/vllm*.dist-info"), Path("vllm-unknown"))
    vllm = package.name.removesuffix(".dist-info").replace("-", " ").replace("_", "-")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    measured = Path(inferbus.__file__)
    elsewhere = "" if measured.is_relative_to(ROOT) else f" of the programs, BUT inferbus of {measured.parent}"
    return f"Python {sys.version.split()[0]}, nats-server {nats}, {vllm}, commit {commit or 'unknown'}{elsewhere}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()

"""A process with an engine, to be killed: prints the pids of everything it started once it serves."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.engine.conftest import make_engine


def engine_processes() -> list[int]:
    return [pid for pid in descendants(os.getpid()) if b"VLLM" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def descendants(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = int((entry / "stat").read_text().rsplit(") ", 1)[1].split()[1])
            if parent == pid:
                found += [int(entry.name), *descendants(int(entry.name))]
    return found


async def main() -> None:
    # Three processes as on a GPU: worker, EngineCore, and the process with the model below that.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    engine = make_engine()
    await engine.start()
    sys.stdout.write("engines " + " ".join(map(str, engine_processes())) + "\n")
    sys.stdout.flush()
    await engine.died()


if __name__ == "__main__":
    asyncio.run(main())

"""A process of ours takes what the system gives it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import asyncio, resource
from inferbus.process import runtime

async def main(process):
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2000))
runtime.run(main)
"""


def test_a_process_may_open_as_many_files_as_the_hard_limit_says() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["2000", "2000"]

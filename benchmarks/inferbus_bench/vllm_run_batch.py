"""The other side of `batch.py --only run-batch`: vLLM's own `run-batch`, timed without its start. Runs in .venv-llm.

    python vllm_run_batch.py WARM INPUT OUTPUT ENGINE-FLAGS...

Takes the lines of WARM first, then those of INPUT. Prints one JSON line: seconds and CPU seconds of the second.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import Namespace
from pathlib import Path

from vllm.entrypoints.launchers import run_batch as launcher
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.usage.usage_lib import UsageContext


async def main(warm: str, args: Namespace) -> None:
    async with build_async_engine_client(args, usage_context=UsageContext.OPENAI_BATCH_RUNNER) as engine:
        await launcher.run_batch(engine, Namespace(**vars(args) | {"input_file": warm}))
        began, cpu = time.monotonic(), time.process_time()
        await launcher.run_batch(engine, args)
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
    lines = [json.loads(line) for line in Path(args.output_file).read_text().splitlines()]
    tokens = sum(line["response"]["body"]["usage"]["completion_tokens"] for line in lines)
    print("\n" + json.dumps({"rows": len(lines), "seconds": seconds, "cpu_s": cpu_s, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    warm, source, output, *flags = sys.argv[1:]
    sys.argv = [sys.argv[0], "-i", source, "-o", output, *flags]
    asyncio.run(main(warm, launcher.parse_args()))
